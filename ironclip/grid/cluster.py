"""Cells as Ray tasks: one machine for tests, a cluster by address. All machines see the same `out` folder.

Nothing but the path of the file and the number of a cell travels through Ray; results are the run folders.
"""

import importlib.util
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from ironclip.core.errors import UsageError
from ironclip.grid.plan import Plan
from ironclip.grid.state import ATTEMPTS, Place
from ironclip.grid.work import helpers

Callback = Callable[[dict[str, Any]], None]


def run_ray(
    path: Path,
    plan: Plan,
    out: Path,
    *,
    workers: int = 1,
    choice: Mapping[str, Any] = {},
    until: float | None = None,
    device: str = "cpu",
    address: str | None = None,
    callback: Callback | None = None,
) -> None:
    """Do all cells as Ray tasks; a task whose worker or machine dies is started again elsewhere.

    Args:
        workers: processes of an embedded start; a cluster has its own number.
        choice: keywords with which `plan` was made of `path`. until: no cell is begun after this time (`time.time`).
        address: of a running cluster ("auto", "ray://host:10001"); None: start one here.

    Raises:
        UsageError: Ray is not installed, does not start, is not at the address, or dies.
    """
    if importlib.util.find_spec("ray") is None:
        raise UsageError("the executor ray needs the extra: pip install 'ironclip[cluster]'")
    import ray  # type: ignore[import-not-found,unused-ignore]

    os.environ.setdefault("RAY_AUTH_MODE", "disabled" if address is None else "token")
    embedded = {"num_cpus": workers, "include_dashboard": False} if address is None else {"address": address}
    try:
        ray.init(ignore_reinit_error=True, log_to_driver=False, **embedded)
    except Exception as error:  # Ray raises plain exceptions here
        where = "start here" if address is None else f"answer at {address}"
        raise UsageError(f"Ray did not {where}: {str(error).splitlines()[0]}") from error
    try:
        task = ray.remote(_task).options(num_cpus=1, num_gpus=int(device == "cuda"), max_retries=ATTEMPTS, retry_exceptions=False)
        file, folder = str(path.resolve()), str(out.resolve())
        waiting = {
            task.remote(file, folder, device, number, dict(choice), until): cell
            for number, cell in enumerate(plan.cells)
            for _ in range(helpers(cell, plan.grid.shard_above))
        }
        told: set[str] = set()
        while waiting:
            ready, _ = ray.wait(list(waiting), num_returns=1)
            cell = waiting.pop(ready[0])
            place = Place(out, cell)
            try:
                ray.get(ready[0])
            except ray.exceptions.LocalRayletDiedError as error:  # no fault of the cell
                raise UsageError("Ray's own process died (memory?); nothing is lost, the same command goes on") from error
            except ray.exceptions.RayError as error:
                place.fail(f"ray gave the cell up: {str(error).splitlines()[0]}")
            if callback is not None and cell.key not in told and place.settled:
                told.add(cell.key)
                callback({"event": "cell", "cell": cell.name, **place.read()})
    finally:
        ray.shutdown()


def _task(file: str, out: str, device: str, number: int, choice: dict[str, Any], until: float | None) -> None:
    from ironclip.grid.plan import plan
    from ironclip.grid.work import work

    whole = plan(Path(file), **choice)
    work(Plan(whole.grid, whole.cells[number : number + 1]), Path(out), device=device, until=until)
