"""Open files and locks on them, the same on every operating system. Links are not followed, and no call waits."""

import os
import sys
from pathlib import Path

WINDOWS = sys.platform == "win32"
OWNER = 1  # where the text of a locked file begins: Windows lets nobody read the byte that is locked


def _flags(*names: str) -> int:
    """The sum of the flags of these names that this system has."""
    return sum(getattr(os, name, 0) for name in names)


PLAIN = _flags("O_NONBLOCK", "O_CLOEXEC", "O_BINARY")
UNLINKED = PLAIN | _flags("O_NOFOLLOW")


def to_read(path: Path | str, *, links: bool = True) -> int:
    """A descriptor to read from; without `links` a symbolic link is an OSError."""
    return os.open(path, os.O_RDONLY | (PLAIN if links else UNLINKED))


def to_change(path: Path, *, append: bool = False) -> int:
    """A descriptor to read from and write to; a missing file is made, a symbolic link is an OSError."""
    return os.open(path, os.O_RDWR | os.O_CREAT | UNLINKED | (os.O_APPEND if append else 0), 0o644)


def lock(descriptor: int) -> bool:
    """Try to lock the file; True if this descriptor holds the lock now. It ends when the descriptor or its process ends. Never
    waits.

    Raises:
        OSError: a file system without locks.
    """
    from filelock import lock_descriptor

    return lock_descriptor(descriptor, blocking=False)
