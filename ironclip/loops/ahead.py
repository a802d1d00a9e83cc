"""Batches on their device before they are asked for."""

from collections.abc import Iterable, Iterator

import torch

from ironclip.core.types import Batch


def ahead(batches: Iterable[Batch], device: torch.device | str) -> Iterator[Batch]:
    """The batches in their order on the device; on another device than the CPU, the copy of the next one is under way already.

    For a CUDA device they are pinned first: only from pinned memory does a copy leave the processor free.
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
