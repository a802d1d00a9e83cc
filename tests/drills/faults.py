"""A process in which a chosen operation on the disk goes wrong, or that is killed at a chosen moment."""

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

Fault = Literal["count", "kill", "torn", "full", "read-only", "no rename"]
OPERATIONS = ("fsync", "replace", "unlink", "ftruncate", "pwrite")
"""Of `os`: every write of this package that counts goes through one of them."""
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

    "kill" ends the process before the operation, "torn" too, after it has cut what was just written in half; "full" and
    "read-only" refuse this operation and all later ones; "no rename" refuses every rename over a file that is there.
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
            if fault in ("full", "read-only") and name not in ("unlink", "ftruncate"):
                number = errno.ENOSPC if fault == "full" else errno.EROFS
                raise OSError(number, os.strerror(number))
            return whole[name](*given, **options)

        return call

    for name in OPERATIONS:
        setattr(os, name, wrapped(name))
    return lambda: seen


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
        if fault in ("count", "full", "read-only", "no rename"):
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


def killed_after(process: BaseProcess, seconds: float) -> bool:
    """Whether it was still at work when it was killed after so long."""
    time.sleep(seconds)
    process.kill()
    return ended(process) == -signal.SIGKILL
