"""Batches are copied one ahead, in their order."""

import torch
from torch import Tensor

from ironclip.core.types import Batch
from ironclip.loops.ahead import ahead


def batches(log: list[str]):
    for size in (3, 1, 2):
        log.append(f"made {size}")
        yield Batch(torch.rand(size, 3, 2, 2), torch.arange(size), torch.arange(size), ("a", "b"))


def used(device: str) -> list[str]:
    log: list[str] = []
    for batch in ahead(batches(log), device):
        assert batch.images.device.type == device
        log.append(f"used {len(batch)}")
    return log


def test_on_the_cpu_nothing_is_made_before_it_is_used():
    assert used("cpu") == ["made 3", "used 3", "made 1", "used 1", "made 2", "used 2"]


def test_on_a_device_the_next_one_is_copied_before_this_one_is_used():
    assert used("meta") == ["made 3", "made 1", "used 3", "made 2", "used 1", "used 2"]
    assert list(ahead([], "meta")) == []


def test_batches_for_cuda_are_pinned_first(monkeypatch):
    pinned: list[int] = []

    def pin(tensor: Tensor) -> Tensor:
        pinned.append(id(tensor))
        return tensor

    monkeypatch.setattr(Tensor, "pin_memory", pin)
    monkeypatch.setattr(Batch, "to", lambda batch, device: batch)
    given = list(batches([]))
    list(ahead(given, "cuda"))
    assert pinned == [id(each) for batch in given for each in (batch.images, batch.labels, batch.indices)]
