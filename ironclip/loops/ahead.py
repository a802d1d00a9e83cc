"""Batches copied to their device in advance."""

from collections.abc import Iterable, Iterator

import torch

from ironclip.core.types import Batch


def ahead(batches: Iterable[Batch], device: torch.device | str) -> Iterator[Batch]:
    """The batches in order on the device. For a device other than the CPU, the copy of the next batch has already begun.

    For a CUDA device they are pinned first, because only a copy from pinned memory does not block the CPU.
    """
    device = torch.device(device)
    if device.type == "cpu":
        yield from (batch.to(device) for batch in batches)
        return
    waiting: Batch | None = None
    for batch in batches:
        coming = (batch.pinned() if device.type == "cuda" else batch).to(device)
        if waiting is not None:
            yield waiting
        waiting = coming
    if waiting is not None:
        yield waiting
