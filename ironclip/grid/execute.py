"""Several workers on one plan: processes of this machine. A killed worker loses only its current step."""

import json
import subprocess
import sys
import time

from ironclip.core.processes import let_finish, worker_environment
from ironclip.core.signals import LATER, asked_to_leave, leave_if_asked
from ironclip.grid.job import GridJob


def run_local(job: GridJob) -> None:
    """Do all cells with so many processes (one: in this process); a worker that dies is replaced.

    On GPUs each worker sees one of them, or as many as it has processes that train a run together. CPU threads are shared out
    among the workers.
    """
    if job.workers == 1:
        from ironclip.grid.work import work

        work(job.plan, job.out, device=job.device, callback=job.callback, until=job.until)
        return
    arguments = [str(job.file), str(job.out), job.device, json.dumps({"until": job.until, **job.choice})]
    processes = job.plan.grid.processes
    running: list[subprocess.Popen[bytes]] = []
    told: set[str] = set()
    try:
        running = [_worker(arguments, number, job.workers, processes) for number in range(job.workers)]
        while not job.settled and any(worker.poll() not in (0, LATER) for worker in running):
            for number, worker in enumerate(running):
                if worker.poll() not in (None, 0, LATER):
                    running[number] = _worker(arguments, number, job.workers, processes)
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


def _worker(arguments: list[str], number: int, workers: int, processes: int) -> "subprocess.Popen[bytes]":
    command = [sys.executable, "-m", "ironclip.grid.worker", *arguments]
    environment = worker_environment(number, workers, arguments[2], processes)
    return subprocess.Popen(command, env=environment, stdin=subprocess.DEVNULL)
