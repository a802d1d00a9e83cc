"""Several workers on one plan: processes of this machine. A killed worker loses only its current step."""

import json
import subprocess
import sys
import tempfile
import time
from contextlib import ExitStack
from typing import IO

from ironclip.core.processes import check_deaths, killed, let_finish, worker_environment
from ironclip.core.signals import LATER, asked_to_leave, leave_if_asked
from ironclip.grid.job import GridJob
from ironclip.grid.state import Place


def run_local(job: GridJob) -> None:
    """Do all cells with so many processes (one: in this process); a worker that dies is replaced.

    On GPUs each worker sees one of them, or as many as it has processes that train a run together. CPU threads are shared out
    among the workers.

    Raises:
        Leaving: this process or its workers were asked to.
        RunError: the message of a worker that gave up, or workers that die repeatedly and begin no cell.
    """
    if job.workers == 1:
        from ironclip.grid.work import work

        work(job.plan, job.out, device=job.device, callback=job.callback, until=job.until)
        return
    running: list[subprocess.Popen[bytes]] = []
    told: set[str] = set()
    deaths, before = 0, _states(job)
    with ExitStack() as files:
        said = [files.enter_context(tempfile.TemporaryFile()) for _ in range(job.workers)]
        try:
            running = [_worker(job, number, file) for number, file in enumerate(said)]
            while not job.settled and any(worker.poll() not in (0, LATER) for worker in running):
                for number, worker in enumerate(running):
                    if killed(worker, said[number]):
                        deaths, before = (deaths + 1 if (now := _states(job)) == before else 1), now
                        check_deaths(deaths, job.workers)
                        running[number] = _worker(job, number, said[number])
                job.tell(told)
                if asked_to_leave():
                    let_finish(running)
                    leave_if_asked()
                time.sleep(0.5)
            job.tell(told)
            if not job.settled:  # a scheduler may have told the workers, and not this process
                leave_if_asked(asked_to_leave() or any(worker.poll() == LATER for worker in running))
        finally:
            for worker in running:
                worker.terminate()
            for worker in running:
                worker.wait()


def _states(job: GridJob) -> list[object]:
    """What is noted of each cell; the same after a death that happened before a cell was begun."""
    return [Place(job.out, cell).read() for cell in job.plan.cells]


def _worker(job: GridJob, number: int, said: IO[bytes]) -> "subprocess.Popen[bytes]":
    arguments = [str(job.file), str(job.out), job.device, json.dumps({"until": job.until, **job.choice})]
    command = [sys.executable, "-m", "ironclip.grid.worker", *arguments]
    environment = worker_environment(number, job.workers, job.device, job.plan.grid.processes)
    return subprocess.Popen(command, env=environment, stdin=subprocess.DEVNULL, stderr=said)
