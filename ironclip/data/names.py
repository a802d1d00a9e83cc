"""Class names a text tower can read: from folder names, from a list, from the lists shipped with the library."""

import html
import json
import re
import unicodedata
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Any

from ironclip.core.errors import DataError
from ironclip.core.shown import number_of
from ironclip.data.lists import parse_json, read_text, shown, text_of

_ID = re.compile(r"(n\d{8}|(class|label|category|cat|cls|id|c|y)?[ _-]?\d+|[0-9a-f]{8,}|[^a-zA-Z]*)", re.IGNORECASE)
_SURE_ID = re.compile(r"n\d{8}|(class|label|category|cls|id)[ _-]?\d+", re.IGNORECASE)
_APART = re.compile(r"\t+|\s*=>\s*")


def prompt_name(name: str) -> str:
    """The name as it stands in a prompt: underscores become spaces."""
    return " ".join(name.replace("_", " ").split())


def looks_like_id(name: str) -> bool:
    """Whether a name says nothing to a text tower: `n01855672`, `class_3`, `0`."""
    return _ID.fullmatch(name.strip()) is not None and not re.search(r"[^\W\d_a-zA-Z]", name)


def as_read(name: str) -> str:
    """The name as CLIP's tokenizer reads it: two names with one such form are one class to it."""
    import ftfy  # what the tokenizer does first: widths, ligatures, quotes, letters of two signs, text read in a wrong encoding

    return prompt_name(unicodedata.normalize("NFC", html.unescape(ftfy.fix_text(name)))).lower()


def doubts(classes: Sequence[str]) -> tuple[str, ...]:
    """What a user should know about class names: ids instead of words, names that mean the same to a text tower."""
    notes = []
    ids = [name for name in classes if looks_like_id(name)]
    ids = ids if 2 * len(ids) >= len(classes) else [name for name in classes if _SURE_ID.fullmatch(name.strip())]
    if ids:
        wordnet = any(re.fullmatch(r"n\d{8}", name) for name in ids)
        known = " (folders are WordNet ids: classes='imagenet' names them)" if wordnet else ""
        notes.append(
            f"{len(ids)} of {number_of(len(classes), 'class name', 'looks', 'look')} like ids ({', '.join(ids[:3])}), "
            "which a text tower cannot read; "
            f"give a file with lines 'folder<TAB>name' as classes file{known}"
        )
    groups: dict[str, list[str]] = defaultdict(list)
    for name in classes:
        groups[as_read(name)].append(name)
    twice = [group for group in groups.values() if len(group) > 1]
    if twice:
        which = " and ".join(repr(name) for name in dict.fromkeys(twice[0]))
        notes.append(
            f"{number_of(len(twice), 'class name', 'stands', 'stand')} for more than one class, e.g. {which}: "
            "a text tower cannot tell them apart "
            "and one of them is never predicted; give each its own name in a classes file"
        )
    return tuple(notes)


@dataclass(frozen=True)
class ClassList:
    """Names as a file gives them: `names` in its order; `folders` where it says which folder each name is for.

    `lines` of a text without folders may still hold "folder,name": only who knows the folders can tell.
    """

    where: str
    names: tuple[str, ...]
    folders: tuple[str, ...] | None = None
    lines: tuple[tuple[int, str], ...] = ()

    def alone(self) -> tuple[str, ...]:
        """The names where no folders are known, as for zero-shot classification.

        Raises:
            DataError: a line that may be one name or a folder and a name.
        """
        commas = [(number, line) for number, line in self.lines if "," in line]
        if commas and len(commas) == len(self.lines) and all(looks_like_id(line.partition(",")[0]) for _, line in commas):
            return tuple(_name(line.partition(",")[2], self.where, number) for number, line in commas)
        if commas:
            number, line = commas[0]
            raise DataError(
                f"{self.where}, line {number}: {shown(line)} may be several names, a folder and its name, or one name; write one "
                "name on a line, 'folder<TAB>name', or a JSON list for names with commas"
            )
        return self.names

    def of(self, folders: Sequence[str]) -> tuple[str, ...]:
        """The names of these folders (or labels) in their order.

        Raises:
            DataError: a folder without a name, another number of names than classes, or lines that contradict each other.
        """
        if self.folders is not None:
            return _named(dict(zip(self.folders, self.names)), folders, self.where)
        pairs = {number: [part.strip() for part in line.split(",", 1)] for number, line in self.lines if "," in line}
        first = next(iter(pairs), 0)
        heading = bool(pairs) and pairs[first][0] not in folders and len(pairs) == len(self.lines) > len(folders)
        meant = {number: pair for number, pair in pairs.items() if not (heading and number == first)}
        known = [number for number, pair in meant.items() if pair[0] in folders]
        if known and len(known) < len(self.lines) - heading:
            odd = next((number, line) for number, line in self.lines[heading:] if number not in known)
            raise DataError(
                f"{self.where}, line {odd[0]}: {shown(odd[1])} is no 'folder,name' with a folder of the set, as line "
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


def class_list(file: Path | str) -> ClassList:
    """The names in a file: the one reader of every verb.

    Args:
        file: `imagenet` for the names of WordNet ids; else a JSON object {folder: name}, a JSON list, or text with one
            class on a line: `folder<TAB>name`, `folder => name`, `folder,name`, or only names in the order of the sorted
            folders. Empty lines and lines that start with # are comments.

    Raises:
        DataError: no such file, no name in it, or a line that cannot be meant, with its number.
    """
    if str(file) == "imagenet":
        known = imagenet_names()
        return ClassList("imagenet", tuple(map(prompt_name, known.values())), tuple(known))
    path = Path(file)
    text = read_text(path, "classes file")
    if path.suffix.lower() == ".json" or text.lstrip()[:1] in ("{", "["):
        return _from_json(parse_json(text, path), path)
    lines = [(number, line.strip()) for number, line in enumerate(text.split("\n"), 1)]
    lines = [(number, line) for number, line in lines if line and not line.startswith("#")]
    if not lines:
        raise DataError(f"{path}: no class name in it; write one on each line")
    apart = [number for number, line in lines if _APART.search(line)]
    if not apart:
        return ClassList(str(path), tuple(_name(line, str(path), number) for number, line in lines), None, tuple(lines))
    table: dict[str, str] = {}
    for number, line in lines:
        parts = [part.strip() for part in _APART.split(line)]
        where = f"{path}, line {number}"
        if len(parts) == 1:
            raise DataError(
                f"{where}: {shown(line)} has no folder; some lines are 'folder<TAB>name' (e.g. line {apart[0]}) and some are "
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


def _name(text: str, where: str, number: int) -> str:
    name = prompt_name(text_of(text, f"{where}, line {number}", "the name"))
    if not name:
        raise DataError(f"{where}, line {number}: {shown(text)} is no name")
    return name


def _add(table: dict[str, str], folder: str, name: str, where: str) -> None:
    if table.setdefault(folder, name) != name:
        raise DataError(f"{where}: {shown(folder)} is {name!r} here and {table[folder]!r} before; keep one")


def read_classes(file: Path | str, folders: Sequence[str]) -> tuple[str, ...]:
    """Names for the folders (or labels) in their order, from a file that `class_list` reads."""
    return class_list(file).of(folders)


def _named(names: Mapping[str, str], folders: Sequence[str], where: str) -> tuple[str, ...]:
    composed = {unicodedata.normalize("NFC", folder): name for folder, name in names.items()}
    found = [names.get(folder, composed.get(unicodedata.normalize("NFC", folder))) for folder in folders]
    missing = [folder for folder, name in zip(folders, found) if name is None]
    if missing:
        raise DataError(f"{where}: no name for {len(missing)} of {len(folders)} classes, e.g. {missing[0]!r}; add a line for it")
    return tuple(prompt_name(name) for name in found if name is not None)


def imagenet_names() -> dict[str, str]:
    """{WordNet id: name} of the 1000 ImageNet classes in label order: the names published with CLIP."""
    return _shipped("imagenet")


def shipped_classes(dataset: str) -> tuple[str, ...] | None:
    """The class names of a known set in label order, as they stand in its split file; None where they come with the set."""
    if not resources.files("ironclip.data").joinpath("classes", f"{dataset}.json").is_file():
        return None
    found = _shipped(dataset)
    return tuple(found.values() if isinstance(found, dict) else found)


def _shipped(name: str) -> Any:
    return json.loads(resources.files("ironclip.data").joinpath("classes", f"{name}.json").read_text(encoding="utf-8"))
