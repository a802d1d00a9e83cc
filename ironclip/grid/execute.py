"""Several workers on one plan: processes of this machine. A killed worker loses only its current step."""

import json
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from ironclip.core.processes import let_finish, worker_environment
from ironclip.core.signals import LATER, asked_to_leave, leave_if_asked
from ironclip.grid.plan import Plan
from ironclip.grid.state import Place

Callback = Callable[[dict[str, Any]], None]


def run_local(
    path: Path,
    plan: Plan,
    out: Path,
    *,
    workers: int = 1,
    choice: Mapping[str, Any] = {},
    until: float | None = None,
    device: str = "cpu",
    callback: Callback | None = None,
) -> None:
    """Do all cells with this many processes (one: in this process); a worker that dies is replaced.

    Args:
        choice: keywords with which `plan` was made of `path`. until: no cell is begun after this time (`time.time`).

    On GPUs each worker sees one of them, or as many as it has processes that train a run together. CPU threads are shared out
    among the workers.
    """
    if workers == 1:
        from ironclip.grid.work import work

        work(plan, out, device=device, callback=callback, until=until)
        return
    arguments = [str(path), str(out), device, json.dumps({"until": until, **choice})]
    running: list[subprocess.Popen[bytes]] = []
    seen: set[str] = set()
    try:
        running = [_worker(arguments, number, workers, plan.grid.processes) for number in range(workers)]
        while not all_settled(plan, out) and any(worker.poll() not in (0, LATER) for worker in running):
            for number, worker in enumerate(running):
                if worker.poll() not in (None, 0, LATER):
                    running[number] = _worker(arguments, number, workers, plan.grid.processes)
            tell(plan, out, seen, callback)
            if asked_to_leave():
                let_finish(running)
                leave_if_asked()
            time.sleep(0.5)
        tell(plan, out, seen, callback)
        if not all_settled(plan, out):  # a scheduler may have told the workers, and not this process
            leave_if_asked(asked_to_leave() or any(worker.poll() == LATER for worker in running))
    finally:
        for worker in running:
            worker.terminate()
        for worker in running:
            worker.wait()


def _worker(arguments: list[str], number: int, workers: int, processes: int) -> "subprocess.Popen[bytes]":
    command = [sys.executable, "-m", "ironclip.grid.worker", *arguments]
    environment = worker_environment(number, workers, arguments[2], processes)
    return subprocess.Popen(command, env=environment, stdin=subprocess.DEVNULL)


def all_settled(plan: Plan, out: Path) -> bool:
    """Whether each cell is done or failed."""
    return all(Place(out, cell).settled for cell in plan.cells)


def tell(plan: Plan, out: Path, seen: set[str], callback: Callback | None) -> None:
    """Hand each cell that is done or failed to the callback, once: `seen` has the keys of those that were."""
    for cell in plan.cells:
        place = Place(out, cell)
        if cell.key not in seen and place.settled:
            seen.add(cell.key)
            if callback is not None:
                callback({"event": "cell", "cell": cell.name, **place.read()})
