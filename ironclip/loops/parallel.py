"""Training on several processes or devices: each takes a part of every batch, gradients are added up, all step alike.

Needs the extra `dist` (lightning-fabric), which starts the processes and carries the sums; nothing is wrapped, so no hook runs
during an inner attack. Every process must be given the same batches, seed and starting values. A loss that is a mean over the
images of a batch learns what one process learns, up to the order of sums; one that looks across the images of a batch, or keeps
running means of them (DEFEAT's codebook), sees the part of its process alone.
"""

from collections.abc import Callable, Iterable, Mapping
from typing import Any

import torch
from torch import nn

from ironclip.core.errors import UsageError
from ironclip.core.types import Batch


class Parallel:
    """One of several processes; `fabric` is a launched `lightning.fabric.Fabric`."""

    def __init__(self, fabric: Any) -> None:
        self.fabric, self.rank, self.world = fabric, fabric.global_rank, fabric.world_size

    def part(self, batch: Batch) -> tuple[Batch, float]:
        """(the images of this process, their share of the batch); a batch of fewer images than processes goes to all."""
        if len(batch) < self.world:
            return batch, 1 / self.world
        mine = slice(self.rank, None, self.world)
        found = Batch(batch.images[mine], batch.labels[mine], batch.indices[mine], batch.classes)
        return found, len(found) / len(batch)

    def add_gradients(self, parameters: Iterable[nn.Parameter], share: float) -> None:
        """Gradients of the whole batch, in place, from those of the part of each process."""
        learned = [parameter for parameter in parameters if parameter.requires_grad]
        for parameter in learned:
            if parameter.grad is None:
                parameter.grad = torch.zeros_like(parameter)
        flat = torch.cat([parameter.grad.flatten() for parameter in learned]) * share  # type: ignore[union-attr]
        total = self.fabric.all_reduce(flat, reduce_op="sum")
        for parameter, piece in zip(learned, total.split([parameter.numel() for parameter in learned])):
            parameter.grad = piece.view_as(parameter).clone()

    def means(self, terms: Mapping[str, float], share: float) -> dict[str, float]:
        """Loss terms of the whole batch."""
        values = torch.tensor(list(terms.values()), dtype=torch.float64, device=self.fabric.device) * share
        return dict(zip(terms, self.fabric.all_reduce(values, reduce_op="sum").tolist()))


def launch(
    work: Callable[..., Any], *arguments: Any, processes: int = 2, device: str = "cpu", strategy: str = "ddp_spawn"
) -> Any:
    """work(Parallel, *arguments) in each of several processes of this machine; what the first one returns.

    Args:
        work: a function that can be imported, which writes files in the process of rank 0 alone.
        device: "cpu" or "cuda"; on GPUs each process has one.

    Raises:
        UsageError: lightning-fabric is not installed, or fewer than two processes.
    """
    if processes < 2:
        raise UsageError(f"several processes are at least 2; got {processes}")
    try:
        from lightning.fabric import Fabric  # type: ignore[import-not-found,unused-ignore]
    except ImportError:
        try:
            from lightning_fabric import Fabric  # type: ignore[import-not-found,unused-ignore]
        except ImportError:
            raise UsageError("training on several devices needs the extra: pip install 'ironclip[dist]'") from None
    fabric = Fabric(accelerator="cuda" if device.startswith("cuda") else "cpu", devices=processes, strategy=strategy)
    return fabric.launch(_begin, work, *arguments)


def _begin(fabric: Any, work: Callable[..., Any], *arguments: Any) -> Any:
    return work(Parallel(fabric), *arguments)
