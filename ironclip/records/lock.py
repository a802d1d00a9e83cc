"""One writer per folder."""

import os
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from ironclip.core.descriptors import OWNER, lock, to_change
from ironclip.core.errors import RunBusy
from ironclip.core.files import disk_errors

PAUSE = 0.05
_held: set[int] = set()


def _let_go() -> None:
    for descriptor in _held:
        os.close(descriptor)
    _held.clear()


# A data-loading child must not keep the lock of a parent that was killed.
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_let_go)


@contextmanager
def locked(folder: Path, wait: float = 0.0) -> Iterator[None]:
    """Hold the folder alone; the operating system lets go when the process ends, however it ends.

    Args:
        wait: seconds to wait for whoever holds it.

    Raises:
        RunBusy: another process, or another place in this one, holds it. RunError: it cannot be written.
    """
    with disk_errors(folder):
        folder.mkdir(parents=True, exist_ok=True)
        descriptor = to_change(folder / ".lock")
    try:
        with disk_errors(folder):
            until = time.monotonic() + wait
            while not lock(descriptor):
                if time.monotonic() >= until:
                    os.lseek(descriptor, OWNER, os.SEEK_SET)
                    owner = os.read(descriptor, 20).decode(errors="replace").strip() or "unknown"
                    raise RunBusy(f"{folder} is in use by process {owner}; wait for it, or choose another --out")
                time.sleep(PAUSE)
            os.lseek(descriptor, OWNER, os.SEEK_SET)
            os.ftruncate(descriptor, 0)
            os.write(descriptor, str(os.getpid()).encode())
        _held.add(descriptor)
        yield
    finally:
        _held.discard(descriptor)
        with suppress(OSError):
            os.close(descriptor)
