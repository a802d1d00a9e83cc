"""Readers of files about images from strangers (text, JSON, paths, labels, names), with checks.

Class lists, tables, CoOp lists and `index.json` all take their text, JSON and values from here, so the same damage gives the same
error everywhere: a line with the file, the place and what was expected. A file from a stranger takes bounded memory.
"""

import gzip
import json
import os
import stat
import zlib
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, NoReturn

from ironclip.core.errors import DataError
from ironclip.core.texts import once

LONGEST_NAME = 1000
MAX_BYTES = 200_000_000
"""Of a list, unpacked. The lists of ImageNet take 80 million."""


def read_text(file: Path, what: str = "list") -> str:
    """The text of a file: UTF-8, or UTF-16 with its byte order mark; a gzipped file is unpacked.

    Raises:
        DataError: no regular file, too long, or in another encoding; the message says how to save it.
    """
    content = _read_bytes(file, what)
    marks = {b"\xff\xfe\x00\x00": "utf-32", b"\xff\xfe": "utf-16", b"\xfe\xff": "utf-16"}
    encoding = next((name for mark, name in marks.items() if content.startswith(mark)), "utf-8-sig")
    try:
        text = content.decode(encoding)
    except UnicodeDecodeError as problem:
        line = content[: problem.start].count(b"\n") + 1
        raise DataError(
            f"cannot read the {what} {file}: line {line} is not {encoding.removesuffix('-sig').upper()} text; "
            "save the file as UTF-8 (in Excel: CSV UTF-8)"
        ) from None
    if "\0" in text:
        raise DataError(f"cannot read the {what} {file}: it holds zero bytes and is no text; save it as UTF-8")
    return text


def _read_bytes(file: Path, what: str) -> bytes:
    try:
        if not stat.S_ISREG(file.stat().st_mode):
            raise ValueError("it is no regular file")
        with file.open("rb") as plain:
            packed = plain.read(2) == b"\x1f\x8b"
        with gzip.open(file) if packed else file.open("rb") as opened:
            content = opened.read(MAX_BYTES + 1)
    except (OSError, EOFError, ValueError, zlib.error) as problem:
        reason = getattr(problem, "strerror", None) or problem
        raise DataError(f"cannot read the {what} {file}: {reason}") from problem
    if len(content) > MAX_BYTES:
        raise DataError(f"cannot read the {what} {file}: more than {MAX_BYTES / 1e6:g} million bytes")
    return content


def read_json(file: Path, what: str = "list") -> Any:
    """The JSON value in a file.

    Raises:
        DataError: as in `read_text`, or not JSON.
    """
    return parse_json(read_text(file, what), file)


def parse_json(text: str, file: Path) -> Any:
    """The JSON value of a text.

    Raises:
        DataError: not JSON, a number that JSON has not (NaN), one key twice in an object, or nested too deeply.
    """
    try:
        return json.loads(text, parse_constant=_no_number, object_pairs_hook=once)
    except RecursionError:
        raise DataError(f"{file}: not JSON that can be read: nested too deeply") from None
    except ValueError as problem:
        raise DataError(f"{file}: not JSON: {problem}") from None


def _no_number(name: str) -> NoReturn:
    raise ValueError(f"{name} is no JSON number")


def text_of(value: Any, where: str, what: str) -> str:
    """The value as text that can be written and shown.

    Raises:
        DataError: no text, empty, or with characters that no record can hold (half characters, zero bytes).
    """
    if not isinstance(value, str):
        raise DataError(f"{where}: expected {what} (text); got {shown(value)}")
    if not value.strip():
        raise DataError(f"{where}: {what} is empty")
    if "\0" in value or any("\ud800" <= sign <= "\udfff" for sign in value):
        raise DataError(f"{where}: {what} {shown(value)} holds signs that are no text; {_remedy(value)}")
    return value


def _remedy(name: str) -> str:
    """What to do about a name with signs that are no text: UTF-8 that was read as another encoding is no fault of the file."""
    try:
        read = "\0" not in name and name.encode("utf-8", "surrogateescape").decode("utf-8")
    except UnicodeError:
        read = ""
    return "the locale is not UTF-8: set PYTHONUTF8=1" if read else "rename it"


def label_of(value: Any, where: str, classes: int | None = None) -> int:
    """The value as a label, from 0 to `classes` - 1 where the number of classes is known.

    Raises:
        DataError: no whole number, or out of range.
    """
    if isinstance(value, bool) or not isinstance(value, int):
        raise DataError(f"{where}: expected a label (a whole number from 0); got {shown(value)}")
    if value < 0 or (classes is not None and value >= classes):
        most = "" if classes is None else f"; {classes} classes have labels 0 to {classes - 1}"
        raise DataError(f"{where}: label {shown(value)} is out of range{most}")
    return value


def list_of(value: Any, where: str, what: str) -> list[Any]:
    """The value, which is a list."""
    if not isinstance(value, list):
        raise DataError(f"{where}: expected {what} (a list); got {shown(value)}")
    return value


def path_of(value: Any, where: str) -> str:
    """The value as a valid path; backslashes of Windows become slashes."""
    if not isinstance(value, str) or not value.strip():
        raise DataError(f"{where}: expected an image's path (text); got {shown(value)}")
    try:
        os.fsencode(value)
    except UnicodeError:
        raise DataError(f"{where}: the path {shown(value)} is no text") from None
    if "\0" in value:
        raise DataError(f"{where}: the path {shown(value)} holds a zero byte")
    value = value.strip()
    return value.replace("\\", "/") if "/" not in value else value


def inside(value: Any, where: str, base: Path, roots: Sequence[Path] = ()) -> tuple[Path, str]:
    """(folder, path below it) of an image that a list names relative to `base`.

    A list from a stranger must not make us read other files: a path that leaves `base` is taken only where it lies below one
    of `roots`, the data roots that the user named.

    Raises:
        DataError: no path, or one that leads out.
    """
    full = os.path.abspath(os.path.join(base, path_of(value, where)))
    for folder in (base, *roots):
        top = os.path.abspath(folder)
        if full.startswith(top.rstrip(os.sep) + os.sep):
            return folder, Path(os.path.relpath(full, top)).as_posix()
    raise DataError(
        f"{where}: the path {shown(value)} leads out of {base}; put the list above its images, "
        "or name a folder above them in IRONCLIP_DATA"
    )


def check_names(names: Iterable[Any], where: str) -> None:
    """DataError where a class name cannot stand in a prompt and in a record."""
    for position, name in enumerate(names):
        if len(text_of(name, f"{where}, class {position}", "a class name")) > LONGEST_NAME:
            raise DataError(f"{where}, class {position}: the name {shown(name)} has more than {LONGEST_NAME} characters")


def shown(value: Any) -> str:
    """The value in a message, short and in one line, whatever it holds."""
    try:
        text = ascii(value) if isinstance(value, str) and not value.isprintable() else repr(value)
    except (ValueError, RecursionError):  # a number of thousands of digits, a list in a list in ...
        text = type(value).__name__
    text = " ".join(text.encode("utf-8", "backslashreplace").decode().split())
    return text if len(text) <= 60 else f"{text[:57]}..."
