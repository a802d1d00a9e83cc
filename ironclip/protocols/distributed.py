"""One training by several processes, on the devices of one machine or, under `torchrun` or `srun`, of several."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ironclip.core.signals import Leaving, finishing
from ironclip.loops.parallel import Parallel, launch
from ironclip.protocols.config import RunConfig
from ironclip.protocols.experiment import open_experiment
from ironclip.protocols.few_shot import Callback, train
from ironclip.records.folder import RunFolder


def train_together(
    config: RunConfig,
    *,
    processes: int = 1,
    those: Mapping[str, str] = {},
    device: str = "cpu",
    callback: Callback | None = None,
    **options: Any,
) -> RunFolder:
    """The trained run, as of `few_shot.train`, by so many processes; equal to that of one up to the order of sums.

    A run that was begun by another number of processes goes on.

    Args:
        processes: that are started here; those: that were started before (`started.group`), of which this is one.
        callback: called in the first process; can be pickled. options: out, root and as_last of `few_shot.train`.

    Raises:
        Leaving: one of the processes was asked to leave.
        UsageError: the extra `dist` is missing, fewer than two processes, or a defence that looks across a batch.
    """
    path = launch(_train, config, device, callback, options, processes=processes, those=those, device=device)
    if path is None:
        raise Leaving("stopped where it could go on, as it was asked to")
    return RunFolder.open(Path(path))


def _train(parallel: Parallel, config: RunConfig, device: str, callback: Callback | None, options: dict[str, Any]) -> str | None:
    """Path of the run; None: one of the processes was asked to leave, and so all of them do."""
    first = parallel.rank == 0
    experiment = open_experiment(config, device=str(parallel.fabric.device) if device.startswith("cuda") else device)
    try:
        with finishing():
            run = train(config, experiment=experiment, parallel=parallel, callback=callback if first else None, **options)
    except Leaving:
        return None
    parallel.wait()
    return str(run.path)
