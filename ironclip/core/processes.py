"""The environment of each of several worker processes on one machine: its own device, and its share of the cores."""

import os
import subprocess
from collections.abc import Sequence
from typing import IO

from ironclip.core.errors import RunError, UsageError
from ironclip.core.signals import LATER, SOON

FEWEST, ELSEWHERE = 16, 100_000
"""Processes that any machine may be asked for, and tasks of a cluster: more of them are a slip of the hand."""
ATTEMPTS = 5
"""How often a worker that dies without progress is started again."""
EACH = 4
"""Processes for each core of a machine with many: thousands of them take it down."""


def check_workers(workers: int, *, here: bool = True) -> None:
    """Nothing, where so many workers can be meant.

    Args:
        here: they are processes of this machine; False: tasks of a cluster.

    Raises:
        UsageError: none, or more than 16 here, and more than four for each core.
    """
    most = max(FEWEST, EACH * (os.cpu_count() or 1)) if here else ELSEWHERE
    if not 1 <= workers <= most:
        raise UsageError(f"--workers is a number from 1 to {most:,}{' on this machine' if here else ''}; got {workers}")


def worker_environment(number: int, workers: int, device: str, each: int = 1) -> dict[str, str]:
    """The environment of worker `number` (from 0) of so many: threads shared out, and for "cuda" one of the visible GPUs.

    Args:
        each: GPUs of a worker, which starts so many processes of its own.
    """
    environment = dict(os.environ)
    environment.setdefault("OMP_NUM_THREADS", str(max(1, (os.cpu_count() or 1) // (workers * each))))
    if device == "cuda":
        names = _gpus()
        environment["CUDA_VISIBLE_DEVICES"] = ",".join(names[(number * each + own) % len(names)] for own in range(each))
    return environment


def _gpus() -> list[str]:
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    if visible:
        return visible.split(",")
    import torch

    return [str(number) for number in range(max(1, torch.cuda.device_count()))]


def killed(worker: "subprocess.Popen[bytes]", said: IO[bytes]) -> bool:
    """Whether a signal has ended this worker.

    Args:
        said: its standard error.

    Raises:
        KeyboardInterrupt: the worker was interrupted.
        RunError: it gave up; with the last line that it said.
    """
    ended = worker.poll()
    if ended == 130:
        raise KeyboardInterrupt
    if ended not in (None, LATER) and ended > 0:
        said.seek(0)
        lines = said.read().decode(errors="replace").strip().splitlines()
        raise RunError(f"a worker gave up: {lines[-1].removeprefix('error: ') if lines else 'it said nothing'}")
    return ended is not None and ended < 0


def check_deaths(deaths: int, workers: int) -> None:
    """RunError where so many workers were killed so many times in a row without progress."""
    if deaths > ATTEMPTS * workers:
        raise RunError(f"workers died {deaths} times (memory?); nothing is lost, the same command goes on")


def let_finish(running: "Sequence[subprocess.Popen[bytes]]") -> None:
    """Ask these processes to stop after their current work is saved, and wait until they have stopped."""
    for worker in running:
        for number in SOON:
            worker.send_signal(number)
    for worker in running:
        worker.wait()
