"""A process in which a chosen operation on the disk goes wrong, or that is killed at a chosen moment."""

import builtins
import errno
import io
import multiprocessing
import os
import signal
import sys
import time
import traceback
from collections.abc import Callable
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any, Literal

Fault = Literal["count", "kill", "torn", "full", "read-only", "no rename", "clock back", "hangup"]
OPERATIONS = ("fsync", "replace", "unlink", "ftruncate", "pwrite")
"""Of `os`: every write of this package that counts goes through one of them."""
YEAR = 365 * 86_400
COUNTED = ".operations"
IMPORTS = [
    "torch",
    "ironclip.cli",
    "ironclip.protocols.few_shot",
    "ironclip.protocols.audit",
    "ironclip.serve.export",
    "drills.jobs",
]


def inject(fault: Fault, at: int) -> Callable[[], int]:
    """From the `at`-th operation on the disk (from 1) on, `fault` holds; what comes back tells how many there were.

    "kill" ends the process before the operation, "torn" too, after it has cut what was just written in half; "hangup" closes its
    terminal at this operation alone; "full" and "read-only" refuse this operation and all later ones, "read-only" also files that
    are opened to be written, root or not; "no rename" refuses every rename over a file that is there; "clock back": from here
    on it is a year earlier, for the process and in the times of files.
    """
    seen = 0
    whole = {name: getattr(os, name) for name in OPERATIONS}

    def wrapped(name: str) -> Callable[..., Any]:
        def call(*given: Any, **options: Any) -> Any:
            nonlocal seen
            if name == "unlink" and not os.path.lexists(given[0]):
                return whole[name](*given, **options)  # changes nothing
            seen += 1
            if fault == "no rename" and name == "replace" and os.path.exists(given[1]):
                raise OSError(errno.EPERM, os.strerror(errno.EPERM))
            if seen < at or fault == "count":
                return whole[name](*given, **options)
            if fault == "torn" and name == "fsync":
                size = os.fstat(given[0]).st_size
                whole["ftruncate"](given[0], max(0, size - 7))
            if fault in ("kill", "torn"):
                os.kill(os.getpid(), signal.SIGKILL)
            if fault == "hangup" and seen == at:
                os.kill(os.getpid(), signal.SIGHUP)
            if fault in ("full", "read-only") and name not in ("unlink", "ftruncate"):
                number = errno.ENOSPC if fault == "full" else errno.EROFS
                raise OSError(number, os.strerror(number))
            done = whole[name](*given, **options)
            if fault == "clock back" and name in ("fsync", "replace"):
                os.utime(given[-1], (time.time(), time.time()))
            return done

        return call

    for name in OPERATIONS:
        setattr(os, name, wrapped(name))
    if fault == "read-only":
        _refuse_writers(lambda: seen >= at - 1)
    if fault == "clock back":
        now, exact = time.time, time.time_ns
        time.time = lambda: now() - YEAR * (seen >= at)
        time.time_ns = lambda: exact() - YEAR * 10**9 * (seen >= at)
    return lambda: seen


def _refuse_writers(when: Callable[[], bool]) -> None:
    """From then on no file below this folder is opened to be written, and no folder is made there."""
    plain, low, mkdir, here = builtins.open, os.open, os.mkdir, os.getcwd() + os.sep

    def check(place: Any, writes: bool) -> None:
        if writes and when() and not isinstance(place, int) and os.path.abspath(os.fsdecode(place)).startswith(here):
            raise OSError(errno.EROFS, os.strerror(errno.EROFS), os.fsdecode(place))

    def open_plain(place: Any, mode: str = "r", *given: Any, **options: Any) -> Any:
        check(place, bool(set(mode) & set("wax+")))
        return plain(place, mode, *given, **options)

    def open_low(place: Any, flags: int, *given: Any, **options: Any) -> int:
        check(place, bool(flags & (os.O_WRONLY | os.O_RDWR | os.O_CREAT)))
        return low(place, flags, *given, **options)

    def make(place: Any, *given: Any, **options: Any) -> None:
        check(place, not os.path.exists(place))  # a read-only system says that a folder is there before that it is read-only
        mkdir(place, *given, **options)

    builtins.open, io.open, os.open, os.mkdir = open_plain, open_plain, open_low, make  # type: ignore[assignment]


def _child(job: Callable[[], None], folder: Path, cache: Path, fault: Fault, at: int) -> None:
    """Do the job in the folder and leave its exit status and what it said; a file counts the operations."""
    import torch

    os.chdir(folder)
    os.environ |= {"IRONCLIP_CACHE": str(cache), "PYTHONWARNINGS": "ignore"}
    torch.set_num_threads(1)
    said = io.StringIO()
    sys.stdout, sys.stderr = io.StringIO(), said
    count = inject(fault, at)
    status: Any = 0
    try:
        job()
    except SystemExit as end:
        status = end.code or 0
    except KeyboardInterrupt:
        status = 130
    except Exception:
        traceback.print_exc(file=said)
        status = 1
    finally:
        (folder.parent / f"{folder.name}{COUNTED}").write_text(f"{count()}\n{said.getvalue()}")
    os._exit(status)


def start(job: Callable[[], None], folder: Path, fault: Fault = "count", at: int = 1 << 60) -> BaseProcess:
    """A process of its own, forked from one that has done the imports."""
    folder.mkdir(parents=True, exist_ok=True)
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(IMPORTS)
    process = context.Process(target=_child, args=(job, folder, folder.parent / "cache", fault, at))
    process.start()
    return process


def ended(process: BaseProcess, seconds: float = 600) -> int:
    """Its exit status; one that hangs is killed and says so."""
    process.join(seconds)
    if process.exitcode is None:
        process.kill()
        process.join()
        raise TimeoutError(f"a process hung for {seconds:.0f} s")
    return process.exitcode


def said(folder: Path) -> tuple[int, str]:
    """(operations counted, what the last process in this folder said)."""
    count, _, text = (folder.parent / f"{folder.name}{COUNTED}").read_text().partition("\n")
    return int(count), text


def told_after(process: BaseProcess, seconds: float, number: int = signal.SIGKILL) -> int:
    """Its exit status, where it gets a signal after so long."""
    time.sleep(seconds)
    if process.exitcode is None:
        os.kill(process.pid or 0, number)
    return ended(process)
