"""One writer per folder.

The operating system releases its lock (flock) when the process ends in any way. A file system without it gets a lease of filelock
instead: a file whose time its holder renews. Others take it over after `LEASE` seconds without renewal by their own clock, or at
once if its process ran on this machine and is dead.
"""

import errno
import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING

from ironclip.core.descriptors import OWNER, lock, to_change
from ironclip.core.errors import RunBusy
from ironclip.core.files import disk_errors
from ironclip.core.signals import interrupt, leave_if_asked

if TYPE_CHECKING:
    from filelock import SoftFileLease

PAUSE = 0.05
LEASE = 120.0
"""Longer than NFS keeps the times of a file in its cache (60 s), for a holder must not seem dead to another node."""
WITHOUT = (errno.ENOSYS, errno.EOPNOTSUPP, errno.ENOTSUP, errno.ENOLCK)
"""What file systems without flock answer."""
SOFT = "IRONCLIP_LOCKS"
"""Set to "soft": no flock at all, for a mount where it holds on one node alone (Lustre's localflock, NFS's local_lock)."""
_held: set[int] = set()
_leases: "dict[Path, SoftFileLease]" = {}


def _let_go() -> None:
    for descriptor in _held:
        os.close(descriptor)
    _held.clear()


# A data-loading child must not keep the lock of a parent that was killed.
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_let_go)


@contextmanager
def locked(folder: Path, wait: float = 0.0) -> Iterator[None]:
    """Hold the folder alone.

    Args:
        wait: seconds to wait for whoever holds it.

    Raises:
        RunBusy: another process, or another place in this one, holds it. RunError: it cannot be written.
        Leaving: the process was asked to leave, and another one holds it.
        KeyboardInterrupt: in the main thread, where another machine took the lease of a process that had stood still for long.
    """
    with disk_errors(folder):
        folder.mkdir(parents=True, exist_ok=True)
        descriptor = to_change(folder / ".lock")
    try:
        with disk_errors(folder):
            hard = os.environ.get(SOFT) != "soft" and _locked(descriptor, folder, wait)
        if hard:
            _held.add(descriptor)
            yield
        else:
            with _leased(folder, wait):
                yield
    finally:
        _held.discard(descriptor)
        with suppress(OSError):
            os.close(descriptor)


def _locked(descriptor: int, folder: Path, wait: float) -> bool:
    """Whether this descriptor holds the folder; False where the file system has no locks."""
    try:
        if not _in_time(lambda: lock(descriptor), wait):
            os.lseek(descriptor, OWNER, os.SEEK_SET)
            raise _busy(folder, os.read(descriptor, 20).decode(errors="replace").strip())
    except OSError as error:
        if error.errno in WITHOUT:
            return False
        raise
    os.lseek(descriptor, OWNER, os.SEEK_SET)
    os.ftruncate(descriptor, 0)
    os.write(descriptor, str(os.getpid()).encode())
    return True


def _in_time(taken: Callable[[], bool], wait: float) -> bool:
    """Whether it was taken within so many seconds.

    Raises:
        Leaving: the process was asked to, and others hold what it waits for.
    """
    until = time.monotonic() + wait
    while not taken():
        leave_if_asked()
        if time.monotonic() >= until:
            return False
        time.sleep(PAUSE)
    return True


@contextmanager
def _leased(folder: Path, wait: float) -> Iterator[None]:
    from filelock import SoftFileLease, Timeout

    path = folder.resolve() / ".lease"
    if path not in _leases:  # kept, for it remembers since when it has seen a lease of another machine left alone
        _leases[path] = SoftFileLease(path, lease_duration=LEASE, on_compromise=lambda _: interrupt())
    lease = _leases[path]
    if lease.is_locked:  # by another place of this thread
        raise _busy(folder, str(os.getpid()))

    def taken() -> bool:
        try:
            lease.acquire(timeout=0)
        except Timeout:
            return False
        return True

    with disk_errors(folder):
        if not _in_time(taken, wait):
            raise _busy(folder, str(lease.pid or ""))
    try:
        yield
    finally:
        with suppress(OSError):
            lease.release()


def _busy(folder: Path, owner: str) -> RunBusy:
    return RunBusy(f"{folder} is in use by process {owner or 'unknown'}; wait for it, or choose another --out")
