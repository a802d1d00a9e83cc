"""What an image costs, and parts that fit: halved on an out-of-memory, refused where the number was asked for."""

import pytest
import torch
from torch import Tensor, nn

from ironclip.core import memory
from ironclip.core.errors import RunError
from ironclip.core.memory import Parts, free_bytes, image_bytes, peak_bytes


def test_an_image_costs_what_autograd_keeps_for_it_and_no_weights():
    layer = nn.Sequential(nn.Flatten(), nn.Linear(12, 1000), nn.ReLU(), nn.Linear(1000, 2)).requires_grad_(False)
    cost = image_bytes(layer, torch.rand(1, 3, 2, 2))
    assert cost == 1000 * 4, "the output of the ReLU; its weights of 56 kB are not counted"
    assert image_bytes(nn.Sequential(layer, nn.Identity()), torch.rand(1, 3, 2, 2)) == cost


def test_what_is_too_much_is_halved_and_stays_halved():
    tried = []

    def work(rows: slice) -> list[int]:
        count = rows.stop - rows.start
        tried.append(count)
        if count > 3:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate")
        return list(range(rows.start, rows.stop))

    parts = Parts("cpu")
    assert [row for part in parts(work, 10) for row in part] == list(range(10))
    assert tried == [10, 5, 2, 2, 2, 2, 2]
    assert sum(map(len, parts(work, 4))) == 4
    assert tried[-2:] == [2, 2], "the next batch begins with what fitted"


def test_other_errors_and_single_images_are_not_tried_again():
    def wrong(rows: slice) -> None:
        raise RuntimeError("shapes cannot be multiplied")

    def full(rows: slice) -> None:
        raise RuntimeError("[enforce fail at alloc_cpu.cpp] DefaultCPUAllocator: can't allocate memory: you tried to allocate")

    with pytest.raises(RuntimeError, match="shapes"):
        Parts("cpu")(wrong, 4)
    with pytest.raises(
        RunError, match=r"^1 image at once do not fit into the memory of cpu \(.* GB are free\); take another device$"
    ):
        Parts("cpu")(full, 4)
    with pytest.raises(RunError, match=r"^4 images at once do not fit .*; say --batch-size auto or a smaller number$"):
        Parts("cpu", exact=True)(full, 4)


def test_a_number_that_cannot_fit_is_refused_before_any_work_and_auto_follows_the_free_memory(monkeypatch):
    monkeypatch.setattr(memory, "SMALL", 0)
    monkeypatch.setattr(memory, "free_bytes", lambda device: 4000 * 30)
    layer = nn.Sequential(nn.Flatten(), nn.Linear(12, 1000), nn.ReLU(), nn.Linear(1000, 2)).requires_grad_(False)
    image = torch.rand(1, 3, 2, 2)
    with pytest.raises(RunError, match=r"^64 images at once do not fit .* \(at least 0\.0 GB, 0\.0 GB are free\)"):
        Parts("cpu", exact=True).measure(layer, image, 64)
    Parts("cpu", exact=True).measure(layer, image, 30)
    parts = Parts("cpu")
    parts.measure(layer, image, 64)
    assert parts.size == 16, "80 % of the free memory, one and a half times what is kept"
    for size, left in ((4, 4), (40, 16)):  # what the function says fits, and what the device says
        parts = Parts("cpu", size=size)
        parts.measure(layer, image, 64)
        assert parts.size == left


def test_small_pictures_on_a_cpu_are_not_measured():
    def never(images: Tensor) -> Tensor:
        raise AssertionError

    Parts("cpu").measure(never, torch.rand(1, 3, 64, 64), 100)


def test_free_and_peak_memory_are_numbers_of_this_machine(tmp_path, monkeypatch):
    assert 0 < free_bytes("cpu") < 1 << 62
    assert 1 << 20 < peak_bytes("cpu") < 1 << 50
    for name, text in (
        ("memory.max", "1000"),
        ("memory.current", "900"),
        ("memory.stat", "anon 1\nactive_file 300\ninactive_file 100"),
    ):
        (tmp_path / name).write_text(text)
    monkeypatch.setattr(memory, "CGROUP", tmp_path)
    assert free_bytes("cpu") == 500
