"""Checks that a folder holds only plain files and folders, no links, pipes or devices."""

import os
from pathlib import Path

from ironclip.core.errors import RunError
from ironclip.core.files import disk_errors

DEEPEST = 8


def check_plain(folder: Path, depth: int = 0) -> None:
    """Nothing, where a folder (if it is there) holds plain files and folders only, down to the last of them.

    A link would let a run write over files elsewhere; a pipe or a device would keep a reader waiting for ever.

    Raises:
        RunError: it holds something else; the line names it.
    """
    with disk_errors(folder):
        if not folder.is_dir():
            return
        with os.scandir(folder) as entries:
            for entry in entries:
                if entry.is_symlink():
                    raise RunError(
                        f"{entry.path} is a symbolic link; a run holds plain files only. Copy it with its links followed (cp -rL)"
                    )
                if entry.is_dir(follow_symlinks=False):
                    if depth == DEEPEST:
                        raise RunError(f"{entry.path} lies too deep; a run is not nested like this")
                    check_plain(Path(entry.path), depth + 1)
                elif not entry.is_file(follow_symlinks=False):
                    raise RunError(f"{entry.path} is no plain file; remove it")
