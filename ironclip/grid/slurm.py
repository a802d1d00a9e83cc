"""Cells as an array job of Slurm, through submitit. All nodes see the same `out` folder.

Every task of the array walks through the whole plan and takes what nobody holds, as every worker does; so the array needs no
order, and a task that comes back takes what is left. submitit keeps what it sends to the tasks in <out>/.slurm, as pickles.
"""

import importlib.util
import signal
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from ironclip.core.errors import RunError, UsageError
from ironclip.core.files import disk_errors, write_json
from ironclip.core.signals import finishing
from ironclip.core.texts import json_value, plain_bytes
from ironclip.grid.execute import Callback, all_settled, tell
from ironclip.grid.plan import Plan
from ironclip.grid.plan import plan as planned
from ironclip.grid.work import work

Cluster = Literal["slurm", "local", "debug"]
TIMEOUTS = 1000
"""How often a task is queued again at its time limit; that a cell gets no further, its own count of attempts finds out."""
NOTICE = 300
"""Seconds before the time limit at which a task is asked to leave: longer than a batch takes."""
WAITING = ("PENDING", "CONFIGURING", "RUNNING", "REQUEUED", "REQUEUE_HOLD", "SUSPENDED", "PREEMPTED", "COMPLETING")


@dataclass
class Task:
    """What one task of the array does: a worker that leaves when Slurm says so, and is queued again."""

    file: str
    out: str
    device: str
    choice: dict[str, Any] = field(default_factory=dict)
    until: float | None = None

    def __call__(self) -> None:
        import submitit

        from ironclip.core.devices import pick_device

        name = f"SIG{submitit.JobEnvironment.USR_SIG}"
        with finishing([getattr(signal, name)]):
            work(planned(Path(self.file), **self.choice), Path(self.out), device=pick_device(self.device), until=self.until)

    def checkpoint(self) -> Any:
        """The same again: what was done is in the run folders. submitit asks for it before it queues the task again."""
        import submitit

        return submitit.helpers.DelayedSubmission(self)


def run_slurm(
    path: Path,
    plan: Plan,
    out: Path,
    *,
    workers: int = 1,
    choice: Mapping[str, Any] = {},
    until: float | None = None,
    device: str = "auto",
    options: Sequence[str] = (),
    callback: Callback | None = None,
    cluster: Cluster = "slurm",
    pause: float = 5.0,
) -> None:
    """Do all cells by an array of so many tasks, and wait for them.

    Tasks of an earlier call that are still queued or at work count. Who interrupts this leaves the tasks at work.

    Args:
        choice: keywords with which `plan` was made of `path`. until: no cell is begun after this time (`time.time`).
        device: chosen where a task runs.
        options: "key=value" of sbatch, as submitit spells it, such as partition=gpu, time=600 (minutes), gres=gpu:1.
        cluster: "local" and "debug" are submitit's stand-ins on this machine.

    Raises:
        UsageError: submitit is not installed, there is no Slurm here, or it does not take an option.
        RunError: all tasks have ended, and cells are left.
    """
    if importlib.util.find_spec("submitit") is None:
        raise UsageError("the executor slurm needs the extra: pip install 'ironclip[slurm]'")
    import submitit

    folder = out.resolve() / ".slurm"
    with disk_errors(folder):
        folder.mkdir(parents=True, exist_ok=True)
    task = Task(str(path.resolve()), str(out.resolve()), device, dict(choice), until)
    kept = _queued(folder) if cluster == "slurm" else []
    jobs: list[Any] = [submitit.SlurmJob(folder, job) for job in kept]
    if (fresh := workers - len(jobs)) > 0:
        jobs += _executor(folder, plan, options, cluster).submit_array([task] * fresh)
    write_json(folder / "jobs.json", [job.job_id for job in jobs])
    told: set[str] = set()
    while not all_settled(plan, out) and not all(job.done() for job in jobs):
        tell(plan, out, told, callback)
        time.sleep(pause)
    tell(plan, out, told, callback)
    if until is None and not all_settled(plan, out):
        why = f"all {len(jobs)} tasks have ended and cells are left ({_reason(jobs)})"
        raise RunError(f"{why}; see {folder}; the same command goes on")


def _executor(folder: Path, plan: Plan, options: Sequence[str], cluster: Cluster) -> Any:
    import submitit

    given = {"job_name": plan.grid.name, "signal_delay_s": NOTICE, **dict(map(_option, options))}
    try:
        executor = submitit.AutoExecutor(folder, cluster=cluster, slurm_max_num_timeout=TIMEOUTS)
        executor.update_parameters(**{f"slurm_{key}": value for key, value in given.items()})
    except (NameError, ValueError, TypeError, AssertionError, RuntimeError) as error:
        raise UsageError(f"Slurm: {str(error).splitlines()[0]}") from error
    return executor


def _option(text: str) -> tuple[str, Any]:
    """ "time=600" as ("time", 600)."""
    key, equals, value = text.partition("=")
    if not equals or not key.isidentifier():
        raise UsageError(f"--slurm takes key=value, such as partition=gpu or time=600; got {text!r}")
    return key, int(value) if value.isdecimal() else value


def _queued(folder: Path) -> list[str]:
    """The tasks that an earlier call has submitted and Slurm has not ended."""
    import submitit

    path = folder / "jobs.json"
    try:
        found = json_value(plain_bytes(path)) if path.exists() else []
    except ValueError:
        found = []
    names = [job for job in found if isinstance(job, str)] if isinstance(found, list) else []
    return [job for job in names if submitit.SlurmJob(folder, job).state.split()[0] in WAITING]


def _reason(jobs: Sequence[Any]) -> str:
    """The last line that one of the tasks said."""
    for job in jobs:
        lines = (job.stderr() or "").strip().splitlines()
        if lines:
            return str(lines[-1])[:200]
    return "they said nothing"
