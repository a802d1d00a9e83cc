"""Cells as Ray tasks: one machine for tests, a cluster by address. All machines see the same `out` folder.

The path of the file and the number of a cell travel through Ray, and to a cluster this package; results are the run folders.
"""

import importlib.util
import logging
import os
import platform
import re
import signal
import tempfile
import threading
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ironclip.core.errors import UsageError
from ironclip.core.files import disk_errors
from ironclip.core.signals import leave_if_asked
from ironclip.grid.job import GridJob
from ironclip.grid.plan import Plan
from ironclip.grid.state import ATTEMPTS, Place
from ironclip.grid.work import helpers

CARRIED = (
    "IRONCLIP_DATA", "IRONCLIP_WEIGHTS", "IRONCLIP_CACHE", "IRONCLIP_LOCKS", "HF_HOME", "HF_HUB_CACHE", "HF_HUB_OFFLINE",
    "TORCH_HOME", "XDG_CACHE_HOME", "OMP_NUM_THREADS",
)  # fmt: skip
"""Variables of the driver that say where data and weights lie and how folders are locked; every task gets them."""
PACKAGE = Path(__file__).resolve().parents[1]
LEAST = 0.0001
"""Ray counts GPUs in ten-thousandths."""
PAUSE = 1.0


def check(address: str | None, gpus: float, many: int = 1) -> None:
    """Nothing, where this address and share of a GPU can be meant for cells of so many processes; UsageError where not."""
    if address is not None and re.fullmatch(r"auto|(ray://)?(\[[0-9A-Fa-f:.]+\]|[A-Za-z0-9._-]+):[0-9]{1,5}", address) is None:
        raise UsageError(f"--address is auto, ray://host:port (port 10001) or host:port (port 6379); got {address!r}")
    share = gpus * many
    if not LEAST <= gpus <= 1024 or (share > 1 and not share.is_integer()):
        each = f" by {many} processes" if many > 1 else ""
        raise UsageError(f"--gpus-per-cell is at least {LEAST}; above one GPU a cell gets whole ones; got {gpus:g}{each}")


def carried() -> dict[str, Any]:
    """What a task on another machine needs and Ray brings there: this package as it is here, and variables of this process."""
    return {"py_modules": [str(PACKAGE)], "env_vars": {name: os.environ[name] for name in CARRIED if name in os.environ}}


def run_ray(job: GridJob, *, address: str | None = None, gpus: float = 1.0) -> None:
    """Do all cells as Ray tasks; a task whose worker or machine dies is started again elsewhere.

    Args:
        gpus: of a cell, where the cluster has some and the device is not the CPU; 0.25: four cells share one.
        address: of a running cluster, as `check` takes it; None: start one here.

    Raises:
        Leaving: the process was asked to leave; Ray ends the tasks with it, which lose their batches.
        UsageError: Ray is not installed, does not start in two tries, is not at the address, or dies.
    """
    if importlib.util.find_spec("ray") is None:
        raise UsageError("the executor ray needs the extra: pip install 'ironclip[cluster]'")
    os.environ.setdefault("RAY_AUTH_MODE", "disabled" if address is None else "token")  # Ray reads it when it is imported
    import ray  # type: ignore[import-not-found,unused-ignore]

    many = job.plan.grid.processes
    here: dict[str, Any] = {"num_cpus": job.workers * many, "include_dashboard": False}  # its tasks have the driver's variables
    _start(ray, here if address is None else {"address": address, "runtime_env": carried()}, address)
    try:
        share = 0.0 if job.device == "cpu" or not ray.cluster_resources().get("GPU") else gpus
        asked: dict[str, Any] = {"num_cpus": many, "num_gpus": share * many, "max_retries": ATTEMPTS, "retry_exceptions": False}
        task = ray.remote(_task).options(**asked)
        with disk_errors(job.out):
            job.out.mkdir(parents=True, exist_ok=True)  # that it is seen on every node
        file, folder = str(job.file.resolve()), str(job.out.resolve())
        waiting = {
            task.remote(file, folder, job.device, number, dict(job.choice), job.until): cell
            for number, cell in enumerate(job.plan.cells)
            for _ in range(helpers(cell, job.plan.grid.shard_above))
        }
        told: set[str] = set()
        while waiting:
            ready, _ = ray.wait(list(waiting), num_returns=1, timeout=PAUSE)
            leave_if_asked()
            if not ready:
                continue
            cell = waiting.pop(ready[0])
            try:
                ray.get(ready[0])
            except ray.exceptions.LocalRayletDiedError as error:  # no fault of the cell
                raise UsageError("Ray's own process died (memory?); nothing is lost, the same command goes on") from error
            except ray.exceptions.RayError as error:
                cause = getattr(error, "cause", None) or error  # what the task raised, or what happened to it
                Place(job.out, cell).fail(f"ray gave the cell up: {str(cause).strip().splitlines()[0]}")
            job.tell(told, [cell])
    finally:
        ray.shutdown()


def _start(ray: Any, options: Mapping[str, Any], address: str | None) -> None:
    """Start Ray or connect to it; a second try where the first one fails, for a busy machine may answer late."""
    before = signal.getsignal(signal.SIGTERM)
    for last in (False, True):
        try:
            ray.init(ignore_reinit_error=True, log_to_driver=False, logging_level=logging.ERROR, **options)
            return
        except Exception as error:  # Ray raises plain exceptions here
            ray.shutdown()
            if last:
                where = "start here" if address is None else f"answer at {address}"
                raise UsageError(f"Ray did not {where}: {str(error).splitlines()[0]}{_own_words(address)}") from error
        finally:
            if threading.current_thread() is threading.main_thread():
                signal.signal(signal.SIGTERM, before)  # Ray sets one of its own


def _own_words(address: str | None) -> str:
    """The last line that Ray's own process wrote before it ended, where it was started here."""
    log = Path(os.environ.get("RAY_TMPDIR") or tempfile.gettempdir()) / "ray" / "session_latest" / "logs" / "raylet.err"
    try:
        lines = log.read_text(errors="replace").strip().splitlines() if address is None else []
    except OSError:
        lines = []
    return f" (raylet: {lines[-1][:200]})" if lines else ""


def _task(file: str, out: str, device: str, number: int, choice: dict[str, Any], until: float | None) -> None:
    for path in (Path(file), Path(out)):
        if not path.exists():
            raise UsageError(f"{path} is not on the node {platform.node()}; all nodes of a cluster must see the same folders")
    from ironclip.core.devices import pick_device
    from ironclip.grid.plan import plan
    from ironclip.grid.work import work

    whole = plan(Path(file), **choice)
    cells = whole.cells[number : number + 1]
    work(Plan(whole.grid, cells), Path(out), device=pick_device(device), until=until)
