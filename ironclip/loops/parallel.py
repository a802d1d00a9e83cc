"""Training on several processes or devices: each takes a part of every batch, gradients are summed, and all make the same step.

Needs the extra `dist` (lightning-fabric), which starts the processes and carries the sums; modules are not wrapped, so no hook
runs during an inner attack. Every process must be given the same batches, seed and starting values. With a loss that is a mean
over the images of a batch the result is that of one process, up to the order of sums. A defence whose loss looks across the
images of a batch, or which keeps running means of them, says so (`Defense.divisible`).
"""

import importlib.util
import os
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import torch
from torch import nn

from ironclip.core import errors
from ironclip.core.errors import RunError, UsageError
from ironclip.core.signals import leave_if_asked
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
        found = batch.rows(mine)
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

    def wait(self) -> None:
        """Until all processes are here."""
        self.fabric.barrier()

    def anyone(self, says: bool) -> bool:
        """Whether this is true in any process; all processes must call it."""
        return bool(self.fabric.all_reduce(torch.tensor(float(says), device=self.fabric.device), reduce_op="sum") > 0)

    def means(self, terms: Mapping[str, float], share: float) -> dict[str, float]:
        """Loss terms of the whole batch."""
        values = torch.tensor(list(terms.values()), dtype=torch.float64, device=self.fabric.device) * share
        return dict(zip(terms, self.fabric.all_reduce(values, reduce_op="sum").tolist()))


def launch(
    work: Callable[..., Any],
    *arguments: Any,
    processes: int = 2,
    device: str = "cpu",
    strategy: str = "ddp_spawn",
    those: Mapping[str, str] = {},
) -> Any:
    """Run work(Parallel, *arguments) in several processes; returns the result of the first.

    Args:
        work: a function that can be imported, which writes files in the process of rank 0 alone.
        device: "cpu" or "cuda"; on GPUs each process has one.
        those: the variables of processes that run already, on one machine or several, from `started.group`; each process calls
            this function and gets the result of `work`. Empty: the processes are started here.

    Raises:
        UsageError: lightning-fabric is not installed, or fewer than two processes.
        IronclipError: the error that `work` raised in a process. RunError: a process died.
        Leaving: one of them died after this process was asked to leave.
    """
    nodes = 1
    if those:
        os.environ |= those
        processes, strategy = int(those["LOCAL_WORLD_SIZE"]), "ddp"
        nodes = int(those["WORLD_SIZE"]) // processes
    if processes * nodes < 2:
        raise UsageError(f"several processes are at least 2; got {processes}")
    if ":" in device:
        raise UsageError(
            f"several processes need a device each, and {device} is one; use --device cuda (see CUDA_VISIBLE_DEVICES)"
        )
    check_extra()
    from lightning_fabric import Fabric  # type: ignore[import-not-found,unused-ignore]
    from lightning_fabric.plugins import environments  # type: ignore[import-not-found,unused-ignore]

    # Said, not guessed: inside a job of Slurm Fabric would take what it started here for tasks of srun.
    plugin = environments.TorchElasticEnvironment() if those else environments.LightningEnvironment()
    kind = "cuda" if device == "cuda" else "cpu"
    fabric = Fabric(accelerator=kind, devices=processes, num_nodes=nodes, strategy=strategy, plugins=[plugin])
    try:
        return fabric.launch(_begin, work, *arguments)
    except torch.multiprocessing.ProcessRaisedException as error:
        found = raised(str(error))
        if not isinstance(found, errors.IronclipError):
            leave_if_asked()  # one that was told before it could listen died, and the others missed it
        raise found from None
    except torch.multiprocessing.ProcessExitedException as error:
        leave_if_asked()
        raise RunError(f"a process of the training died ({error}); nothing is lost, the same command goes on") from None


def check_extra() -> None:
    """UsageError where the extra is not installed."""
    if importlib.util.find_spec("lightning_fabric") is None:
        raise UsageError("training by several processes needs the extra: pip install 'ironclip[dist]'")


def raised(text: str) -> Exception:
    """The error of ours in the text of a traceback, or the text's last line."""
    last = text.strip().splitlines()[-1]
    name, _, words = last.partition(": ")
    kind = getattr(errors, name.rpartition(".")[2], None) if name.startswith("ironclip.") else None
    return kind(words) if kind is not None else RuntimeError(text)


def _begin(fabric: Any, work: Callable[..., Any], *arguments: Any) -> Any:
    return work(Parallel(fabric), *arguments)
