"""Class names from a user's file; the one reader for all commands."""

import re
import unicodedata
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ironclip.core.errors import DataError
from ironclip.data.lists import parse_json, read_text, shown, text_of
from ironclip.data.names import imagenet_names, looks_like_id, prompt_name

_APART = re.compile(r"\t+|\s*(?:=>|->|→)\s*")
_MAYBE = (",", ";", "|", ":", "=")
"""Separators that may also be part of a name: the folders decide."""
_NUMBERED = re.compile(r"(\d+)\s*[.):,;|=\s]\s*(.*\S)")
_OTHER_FORM = re.compile(r"[-*•]\s.*|[^:]*:|<.*|[\[{].*[\]}],?|.*\S\s#\s.*")
"""Lines of YAML, Markdown, HTML and JSON, and names with a comment behind them."""
_HEADS = (
    {"folder", "folders", "directory", "dir", "id", "class_id", "classid", "wnid", "synset", "index", "label", "class", "key"},
    {"name", "names", "class", "class_name", "classname", "label", "text", "description", "prompt"},
)

Lines = tuple[tuple[int, str], ...]


@dataclass(frozen=True)
class ClassList:
    """The names in a file: `names` in its order; `folders` where it says to which folder each name belongs.

    `lines` (number, text) of a text without folders may still hold "folder,name"; `sign` is the separator.
    """

    where: str
    names: tuple[str, ...]
    folders: tuple[str, ...] | None = None
    lines: Lines = ()
    sign: str = ","

    def alone(self) -> tuple[str, ...]:
        """The names, where there are no folders, as for zero-shot classification.

        Raises:
            DataError: a line that may be one name or a folder and a name.
        """
        apart = [(number, line) for number, line in self.lines if self.sign in line]
        if apart and len(apart) == len(self.lines) and all(looks_like_id(line.partition(self.sign)[0]) for _, line in apart):
            return tuple(_name(line.partition(self.sign)[2], self.where, number) for number, line in apart)
        if apart:
            number, line = apart[0]
            raise DataError(
                f"{self.where}, line {number}: {shown(line)} may be several names, a folder and its name, or one name; write one "
                "name on a line, 'folder<TAB>name', or a JSON list for names with such signs"
            )
        return self.names

    def of(self, folders: Sequence[str]) -> tuple[str, ...]:
        """The names of these folders (or labels) in their order.

        Raises:
            DataError: a folder without a name, another number of names than classes, or lines that contradict each other.
        """
        if self.folders is not None:
            return _named(dict(zip(self.folders, self.names)), folders, self.where)
        pairs = {number: [_bare(part) for part in line.split(self.sign, 1)] for number, line in self.lines if self.sign in line}
        first = next(iter(pairs), 0)
        heading = bool(pairs) and pairs[first][0] not in folders and len(pairs) == len(self.lines) > len(folders)
        meant = {number: pair for number, pair in pairs.items() if not (heading and number == first)}
        known = [number for number, pair in meant.items() if pair[0] in folders]
        if known and len(known) < len(self.lines) - heading:
            odd = next((number, line) for number, line in self.lines[heading:] if number not in known)
            raise DataError(
                f"{self.where}, line {odd[0]}: {shown(odd[1])} is no 'folder{self.sign}name' with a folder of the set, as line "
                f"{known[0]} is; write all lines alike"
            )
        if known:
            table: dict[str, str] = {}
            for number, (folder, name) in meant.items():
                _add(table, folder, _name(name, self.where, number), f"{self.where}, line {number}")
            return _named(table, folders, self.where)
        if len(self.names) != len(folders):
            some = ", ".join(folders[:3])
            raise DataError(
                f"{self.where}: {len(self.names)} names for {len(folders)} classes ({some}, ...); give one name for each"
            )
        return self.names


def read_classes(file: Path | str, folders: Sequence[str]) -> tuple[str, ...]:
    """Names for the folders (or labels) in their order, from a file that `class_list` reads."""
    return class_list(file).of(folders)


def class_list(file: Path | str) -> ClassList:
    """The names in a file.

    Args:
        file: `imagenet` for the names of WordNet ids; else a JSON object {folder: name}, a JSON list, or text with one
            class on a line: `folder<TAB>name`, `folder => name`, `folder,name`, or only names in the order of the sorted
            folders, numbered or not. Empty lines and lines that start with # or // are comments.

    Raises:
        DataError: no such file, no name in it, or a line that cannot be understood, with its number.
    """
    if str(file) == "imagenet":
        known = imagenet_names()
        return ClassList("imagenet", tuple(map(prompt_name, known.values())), tuple(known))
    path = Path(file).expanduser()
    text = read_text(path, "classes file")
    if path.suffix.lower() == ".json" or re.fullmatch(r"\{.*\}|\[.*\]", text.strip(), re.DOTALL):
        return _from_json(parse_json(text, path), path)
    lines = tuple((number, line.strip()) for number, line in enumerate(text.splitlines(), 1))
    lines = tuple((number, line) for number, line in lines if line and not line.startswith(("#", "//")))
    if not lines:
        raise DataError(f"{path}: no class name in it; write one on each line")
    apart = [number for number, line in lines if _APART.search(line)]
    return _from_table(lines, path, apart[0]) if apart else _from_lines(lines, path)


def _from_lines(lines: Lines, path: Path) -> ClassList:
    """Names alone, names numbered in their order (which may be labels), or lines that may hold folders."""
    where = str(path)
    numbered = [_NUMBERED.fullmatch(line) for _, line in lines]
    found = [match for match in numbered if match]
    numbers = [int(match[1][:9]) for match in found]
    if len(found) == len(lines) > 1 and numbers in (list(range(len(lines))), list(range(1, len(lines) + 1))):
        names = tuple(_name(match[2], where, number) for (number, _), match in zip(lines, found))
        return ClassList(
            where, names, None, tuple((number, f"{match[1]},{match[2]}") for (number, _), match in zip(lines, found))
        )
    odd = next(((number, line) for number, line in lines if _OTHER_FORM.fullmatch(line)), None)
    if odd is not None:
        raise DataError(
            f"{path}, line {odd[0]}: {shown(odd[1])} is no class name; write one name on each line and nothing else, "
            "comments on lines that start with #, or give a JSON list"
        )
    sign = next((sign for sign in _MAYBE[1:] if all(sign in line for _, line in lines)), ",")
    return ClassList(where, tuple(_name(line, where, number) for number, line in lines), None, lines, sign)


def _from_table(lines: Lines, path: Path, first: int) -> ClassList:
    """Lines of a folder and its name; a header line is left out."""
    head = [_bare(part).casefold().replace(" ", "_") for part in _APART.split(lines[0][1])]
    if len(head) == 2 and len(lines) > 2 and head[0] in _HEADS[0] and head[1] in _HEADS[1]:
        lines = lines[1:]
    table: dict[str, str] = {}
    for number, line in lines:
        parts = [_bare(part) for part in _APART.split(line)]
        where = f"{path}, line {number}"
        if len(parts) == 1:
            raise DataError(
                f"{where}: {shown(line)} has no folder; some lines are 'folder<TAB>name' (e.g. line {first}) and some are "
                "not; write all alike"
            )
        if len(parts) > 2 or not all(parts):
            raise DataError(f"{where}: expected 'folder<TAB>name'; got {shown(line)}")
        _add(table, parts[0], _name(parts[1], str(path), number), where)
    return ClassList(str(path), tuple(table.values()), tuple(table))


def _from_json(value: Any, path: Path) -> ClassList:
    if isinstance(value, list):
        return ClassList(
            str(path), tuple(prompt_name(text_of(name, f"{path}, name {k}", "a name")) for k, name in enumerate(value, 1))
        )
    if not isinstance(value, dict):
        raise DataError(f"{path}: expected a JSON object {{folder: name}} or a list of names; got {shown(value)}")
    names = tuple(prompt_name(text_of(name, f"{path}, {shown(folder)}", "a name")) for folder, name in value.items())
    return ClassList(str(path), names, tuple(value))


def _bare(text: str) -> str:
    """The text without surrounding blanks and spreadsheet quotes."""
    text = text.strip()
    return text[1:-1].replace('""', '"').strip() if len(text) > 2 and text[0] == text[-1] == '"' else text


def _name(text: str, where: str, number: int) -> str:
    name = prompt_name(text_of(_bare(text), f"{where}, line {number}", "the name"))
    if not name:
        raise DataError(f"{where}, line {number}: {shown(text)} is no name")
    return name


def _add(table: dict[str, str], folder: str, name: str, where: str) -> None:
    if table.setdefault(folder, name) != name:
        raise DataError(f"{where}: {shown(folder)} is {name!r} here and {table[folder]!r} before; keep one")


def _named(names: Mapping[str, str], folders: Sequence[str], where: str) -> tuple[str, ...]:
    composed = {unicodedata.normalize("NFC", folder): name for folder, name in names.items()}
    found = [names.get(folder, composed.get(unicodedata.normalize("NFC", folder))) for folder in folders]
    missing = [folder for folder, name in zip(folders, found) if name is None]
    if missing:
        raise DataError(f"{where}: no name for {len(missing)} of {len(folders)} classes, e.g. {missing[0]!r}; add a line for it")
    return tuple(prompt_name(name) for name in found if name is not None)
