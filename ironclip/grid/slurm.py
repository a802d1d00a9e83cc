"""Cells as an array job of Slurm, through submitit. All nodes see the same `out` folder.

Every task of the array walks through the whole plan and takes what nobody holds, as every worker does; so the array needs no
order, and a task that comes back takes what is left. submitit keeps what it sends to the tasks in <out>/.slurm, as pickles.
"""

import importlib.util
import io
import re
import shutil
import signal
import time
from collections.abc import Mapping, Sequence
from contextlib import redirect_stderr
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from ironclip.core.errors import RunError, UsageError, unknown
from ironclip.core.files import disk_errors, write_json
from ironclip.core.signals import finishing
from ironclip.core.texts import json_value, plain_bytes
from ironclip.grid.job import GridJob
from ironclip.grid.plan import Plan
from ironclip.grid.plan import plan as planned
from ironclip.grid.work import work

Cluster = Literal["slurm", "local", "debug"]
NUMBERS = {
    "time": "minutes", "signal_delay_s": "seconds", "array_parallelism": "tasks at once", "cpus_per_task": "cores",
    "gpus_per_node": "GPUs", "gpus_per_task": "GPUs", "cpus_per_gpu": "cores",
}  # fmt: skip
"""Keys of sbatch, as submitit spells them, whose values are numbers, and what they count. The others are texts."""
TEXTS = (
    "job_name", "partition", "qos", "account", "gres", "constraint", "mem", "mem_per_cpu", "mem_per_gpu", "exclude", "nodelist",
    "dependency", "exclusive", "comment", "wckey", "mail_type", "mail_user",
)  # fmt: skip
TIME = 60
"""Minutes of a task, where nothing else is asked for."""
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


def check(options: Sequence[str]) -> dict[str, Any]:
    """What sbatch is asked for, by key, of texts such as "partition=gpu" or "time=600".

    Raises:
        UsageError: a text, key or value that cannot be right, or submitit or Slurm are not here.
    """
    given: dict[str, Any] = {}
    for text in options:
        key, equals, value = text.partition("=")
        if not equals or not key:
            raise UsageError(f"--slurm takes key=value, such as partition=gpu or time=600; got {text!r}")
        if key not in (*NUMBERS, *TEXTS):
            raise unknown("key of --slurm", key, (*NUMBERS, *TEXTS))
        if key in given:
            raise UsageError(f"--slurm: {key} stands twice, as {str(given[key])!r} and as {value!r}; give it once")
        if key in NUMBERS and re.fullmatch("[1-9][0-9]{0,6}", value) is None:
            raise UsageError(f"--slurm: {key} is {NUMBERS[key]}, a whole number of at least 1; got {value!r}")
        if not value or value != value.strip() or not value.isprintable():
            raise UsageError(f"--slurm: {key} is a text without line breaks and spaces around it; got {value!r}")
        given[key] = int(value) if key in NUMBERS else value
    minutes, notice = given.setdefault("time", TIME), given.setdefault("signal_delay_s", NOTICE)
    if notice >= 60 * minutes:
        raise UsageError(
            f"--slurm: a task of {minutes} minutes that is told to leave {notice} seconds before its end would do nothing; give "
            "more time (in minutes), or a smaller signal_delay_s"
        )
    if importlib.util.find_spec("submitit") is None:
        raise UsageError("the executor slurm needs the extra: pip install 'ironclip[slurm]'")
    if absent := [name for name in ("srun", "sbatch", "sacct") if shutil.which(name) is None]:
        raise UsageError(f"Slurm is not here: no {', '.join(absent)}; give the command where jobs are submitted")
    return given


def submit(job: GridJob, given: Mapping[str, Any], cluster: Cluster = "slurm") -> list[Any]:
    """The tasks of the array, as jobs of submitit; none where all cells are done.

    Tasks that an earlier call has submitted and that Slurm has not ended count.

    Args:
        given: what `check` returned.

    Raises:
        UsageError: Slurm refuses the array; nothing is left of it.
    """
    import submitit
    from submitit.core import utils as failed

    if job.settled:
        return []
    folder = job.out.resolve() / ".slurm"
    made = [each for each in (folder, *folder.parents) if not each.exists()]
    jobs: list[Any] = [submitit.SlurmJob(folder, name) for name in (_queued(folder) if cluster == "slurm" else [])]
    if (fresh := job.workers - len(jobs)) > 0:
        with disk_errors(folder):
            folder.mkdir(parents=True, exist_ok=True)
        task = Task(str(job.file.resolve()), str(job.out.resolve()), job.device, dict(job.choice), job.until)
        said = io.StringIO()
        try:
            with redirect_stderr(said):
                jobs += _executor(folder, job.plan, given, cluster).submit_array([task] * fresh)
        except (failed.FailedJobError, failed.FailedSubmissionError, OSError) as error:
            if made and not isinstance(error, failed.FailedSubmissionError):  # with that one, tasks may be queued
                shutil.rmtree(folder)
                for each in made[1:]:
                    each.rmdir()
            raise UsageError(f"Slurm refused the array: {' '.join((said.getvalue() or str(error)).split())[:300]}") from error
    write_json(folder / "jobs.json", [each.job_id for each in jobs])
    return jobs


def watch(job: GridJob, jobs: Sequence[Any], pause: float = 5.0) -> None:
    """Wait until these tasks have done all cells. Who interrupts this leaves the tasks at work.

    Raises:
        RunError: all tasks have ended, and cells are left.
    """
    told: set[str] = set()
    while not job.settled and not all(each.done() for each in jobs):
        job.tell(told)
        time.sleep(pause)
    job.tell(told)
    if job.until is None and not job.settled:
        why = f"all {len(jobs)} tasks have ended and cells are left ({_reason(jobs)})"
        raise RunError(f"{why}; see {job.out.resolve() / '.slurm'}; the same command goes on")


def _executor(folder: Path, plan: Plan, given: Mapping[str, Any], cluster: Cluster) -> Any:
    import submitit

    executor = submitit.AutoExecutor(folder, cluster=cluster, slurm_max_num_timeout=TIMEOUTS)
    executor.update_parameters(**{f"slurm_{key}": value for key, value in {"job_name": plan.grid.name, **given}.items()})
    return executor


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
