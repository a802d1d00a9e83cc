"""Writing files so that a reader finds the old version or the new one, never a half."""

import json
import os
import tempfile
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from functools import lru_cache
from io import FileIO
from pathlib import Path
from typing import Any

from ironclip.core.descriptors import WINDOWS, lock, to_change, to_read
from ironclip.core.errors import CheckpointError, RunError
from ironclip.core.texts import plain_bytes, twice

TEMPORARY = ".ironclip.tmp"
LARGEST_HEAD = 1 << 23  # bytes: the names, shapes and metadata of some 80,000 tensors


@contextmanager
def disk_errors(path: Path) -> Iterator[None]:
    """Turn an error of the operating system (disk full, no permission, not a directory) into one line that names the path."""
    try:
        yield
    except RunError:
        raise
    except OSError as error:
        raise RunError(f"cannot use {path}: {error.strerror or error}") from error


def write_whole(path: Path, write: Callable[[Path], object], *, ending: str = "") -> None:
    """Let `write` fill a temporary file beside `path`, flush it to the disk, then rename it onto `path`.

    Temporary files of writers that were killed are removed first, once per process and folder.

    Args:
        ending: of the temporary file's name, such as ".onnx", for libraries that go by it.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    _sweep_once(path.parent.absolute())
    handle, temporary = _temporary(path, ending)
    try:
        write(temporary)
        with temporary.open("rb+") as file:
            os.fsync(file.fileno())
        temporary.chmod(0o644)
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)
        if handle is not None:
            os.close(handle)


def sweep(folder: Path) -> None:
    """Remove the temporary files of `write_whole` in a folder that no process has locked: their writers are dead."""
    if WINDOWS:  # where they carry none
        return
    with os.scandir(folder) as entries:
        left = [entry.path for entry in entries if entry.name.startswith(".") and TEMPORARY in entry.name]
    for path in left:
        with suppress(OSError):
            handle = to_read(path, links=False)
            try:
                if lock(handle):
                    os.unlink(path)
            finally:
                os.close(handle)


@lru_cache(maxsize=1000)
def _sweep_once(folder: Path) -> None:
    with suppress(OSError):  # the write itself says what is wrong with the folder
        sweep(folder)


def _temporary(path: Path, ending: str) -> tuple[int | None, Path]:
    """(descriptor, path) of a new temporary file beside `path`; the lock on it shows that its writer lives."""
    while True:
        handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name[:40]}.", suffix=TEMPORARY + ending)
        if WINDOWS:  # where nobody else could write to it, or rename it, while it is open
            os.close(handle)
            return None, Path(name)
        try:
            if lock(handle) and os.path.exists(name):
                return handle, Path(name)
        except OSError:  # a file system without locks
            return handle, Path(name)
        os.close(handle)  # another process took it for left over before the lock was there


def check_head(path: Path) -> None:
    """Check the head of a safetensors file before any tensor is read: its size, and that it names each tensor once.

    The library itself reports everything else that is wrong with the file.

    Raises:
        CheckpointError: the head is too large for a model, for example because it lists hundreds of thousands of empty tensors.
            Or a name stands twice, and readers would disagree about which tensor counts.
    """
    with path.open("rb") as file:
        size = int.from_bytes(file.read(8), "little")
        there = os.fstat(file.fileno()).st_size
        if LARGEST_HEAD < size < there:
            raise CheckpointError(
                f"{path} is no model's file: its head says {size:,} bytes, and at most {LARGEST_HEAD:,} are read"
            )
        head = file.read(min(size, LARGEST_HEAD))
    if (twice := _named_twice(head)) is not None:
        raise CheckpointError(f"{path} is no model's file: its head names {twice!a} twice")


def _named_twice(head: bytes) -> str | None:
    """The first key that an object of a JSON text holds twice; None also where it is no JSON."""
    found: list[str] = []

    def look(pairs: list[tuple[str, Any]]) -> None:
        if (name := twice(pairs)) is not None:
            found.append(name)

    with suppress(ValueError, RecursionError):
        json.loads(head, object_pairs_hook=look)
    return found[0] if found else None


def write_text(path: Path, text: str) -> None:
    write_whole(path, lambda temporary: temporary.write_text(text, encoding="utf-8"))


def write_json(path: Path, value: Any) -> None:
    write_text(path, json_text(value))


def json_text(value: Any) -> str:
    """The text that `write_json` writes."""
    return json.dumps(value, indent=1, sort_keys=True, allow_nan=False) + "\n"


def append_lines(path: Path, lines: Iterable[str]) -> None:
    """Add whole lines to the end and flush them to the disk; after an error the file is as long as before.

    A last line without its end, left by a process that was killed, is cut off first.
    """
    text = "".join(f"{line}\n" for line in lines).encode()
    path.parent.mkdir(parents=True, exist_ok=True)
    with open(to_change(path, append=True), "ab+", buffering=0) as file:
        whole = file.seek(0, os.SEEK_END)
        if whole and _byte(file, whole - 1) != b"\n":
            whole = _whole_length(plain_bytes(path))
            file.truncate(whole)
        try:
            left = memoryview(text)
            while left:
                left = left[file.write(left) :]
            os.fsync(file.fileno())
        except OSError:
            file.truncate(whole)
            raise


def read_lines(path: Path) -> list[str]:
    """The whole lines of a file; none if it is not there. A last line without its end is left out."""
    if not path.exists():
        return []
    content = plain_bytes(path)
    return content[: _whole_length(content)].decode().split("\n")[:-1]


def _byte(file: FileIO, place: int) -> bytes:
    file.seek(place)
    return file.read(1)


def _whole_length(content: bytes) -> int:
    return content.rfind(b"\n") + 1
