"""The content of a folder: every image, and everything left out, with its kind."""

import os
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from ironclip.core.errors import DataError
from ironclip.data.kinds import HEAD, HEIF_HINT, is_picture, is_system_file, is_system_folder, kind_of


@dataclass(frozen=True)
class Contents:
    """A folder with all its subfolders. images: paths below it, sorted by their parts; folders: those looked into;
    left_out: (kind, path) of everything else."""

    pictures: tuple[str, ...]
    folders: tuple[str, ...]
    left_out: tuple[tuple[str, str], ...] = ()

    def said(self, below: str = "") -> str:
        """Everything left out below a folder, counted by kind, in one line; empty where there is nothing."""
        start = f"{below}/" if below else ""
        return counted(Counter(kind for kind, path in self.left_out if path.startswith(start)))


def counted(kinds: Counter[str]) -> str:
    """Counts of kinds in words: `3 HEIC images (to read them: ...), 1 archive`."""
    parts = []
    for kind, count in sorted(kinds.items(), key=lambda pair: (-pair[1], pair[0])):
        hint = f" ({HEIF_HINT})" if kind == "HEIC image" else ""
        first, _, rest = kind.partition(" ")
        many = f"{first}s {rest}" if rest.startswith(("to ", "that ", "in ", "of ")) else f"{kind}s"
        parts.append(f"{count} {kind if count == 1 else many}{hint}")
    return ", ".join(parts)


def contents(folder: Path) -> Contents:
    """Everything in a folder and in the folders below it. Links are followed, each folder is read once.

    Raises:
        DataError: a folder that cannot be read.
    """
    found: list[str] = []
    folders: list[str] = []
    out: list[tuple[str, str]] = []
    links: list[tuple[str, Path]] = []
    seen = {_identity(folder)}
    waiting = [(folder, "")]
    while waiting or links:
        if waiting:
            top, prefix = waiting.pop()
        else:  # links come after all real folders, so that what lies inside keeps its own name
            name, top = links.pop(0)
            if _identity(top) in seen:
                out.append(("link to a folder that is read already", name))
                continue
            seen.add(_identity(top))
            folders.append(name)
            prefix = f"{name}/"
        for entry in _entries(top):
            name = prefix + entry.name
            if not _said(entry.is_dir):
                kind = _kind(entry)
                found.append(name) if kind == "picture" else out.append((kind, name))
            elif is_system_folder(entry.name):
                out.append(("system folder", name))
            elif entry.is_symlink():
                links.append((name, Path(entry.path)))
            else:
                seen.add(_identity(Path(entry.path)))
                folders.append(name)
                waiting.append((Path(entry.path), f"{name}/"))
    return Contents(tuple(sorted(found, key=by_parts)), tuple(sorted(folders, key=by_parts)), tuple(sorted(out)))


def by_parts(path: str) -> str:
    """A key that sorts paths as their lists of parts: `a/z` before `a-b`. NUL, which no name holds, is below all."""
    return path.replace("/", "\0")


def _entries(folder: Path) -> Iterator[os.DirEntry[str]]:
    try:
        with os.scandir(folder) as inside:
            yield from sorted(inside, key=lambda entry: entry.name)
    except OSError as problem:
        raise DataError(f"cannot read the folder {folder}: {problem.strerror}") from problem


def _identity(folder: Path) -> tuple[int, int]:
    try:
        status = folder.stat()
    except OSError as problem:
        raise DataError(f"cannot read the folder {folder}: {problem.strerror}") from problem
    return status.st_dev, status.st_ino


def _said(of_entry: Callable[[], bool]) -> bool:
    """The kind of an entry; a link to itself is neither a folder nor a file."""
    try:
        return of_entry()
    except OSError:
        return False


def _kind(entry: os.DirEntry[str]) -> str:
    if is_system_file(entry.name):
        return "hidden or system file"
    if not _said(entry.is_file):  # told by the folder itself; asking for the status of each file takes seconds
        return "broken link" if entry.is_symlink() and not Path(entry.path).exists() else "pipe or device"
    kind = kind_of(entry.name)
    if kind is not None:
        return kind
    try:
        with open(entry.path, "rb") as file:
            return "picture" if is_picture(file.read(HEAD)) else "other file"
    except OSError:
        return "other file"


def pictures(folder: Path) -> list[Path]:
    """All image files below a folder, sorted by path; hidden ones and those of system folders are left out."""
    return [folder / name for name in contents(folder).pictures]


def subfolders(folder: Path) -> list[Path]:
    """The folders inside, sorted by name, without hidden ones and those of the system."""
    try:
        inside = sorted(folder.iterdir())
    except OSError as problem:
        raise DataError(f"cannot read the folder {folder}: {problem.strerror}") from problem
    return [path for path in inside if path.is_dir() and not is_system_folder(path.name)]
