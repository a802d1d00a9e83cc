"""Class names a text tower can read: from folder names, from a file, from the lists shipped with the library."""

import json
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from importlib import resources
from pathlib import Path
from typing import Any

from ironclip.core.errors import DataError

_ID = re.compile(r"(n\d{8}|(class|label|category|cat|cls|id|c|y)?[ _-]?\d+|[0-9a-f]{8,}|[^a-zA-Z]*)", re.IGNORECASE)


def prompt_name(name: str) -> str:
    """The name as it stands in a prompt: underscores become spaces."""
    return " ".join(name.replace("_", " ").split())


def looks_like_id(name: str) -> bool:
    """Whether a name says nothing to a text tower: `n01855672`, `class_3`, `0`."""
    return _ID.fullmatch(name.strip()) is not None and not re.search(r"[^\W\d_a-zA-Z]", name)


def doubts(folders: Sequence[str], classes: Sequence[str]) -> tuple[str, ...]:
    """What a user should know about class names: ids instead of words, the same words twice."""
    notes = []
    ids = [name for name in classes if looks_like_id(name)]
    if 2 * len(ids) >= len(classes):
        known = " (folders are WordNet ids: classes='imagenet' names them)" if re.fullmatch(r"n\d{8}", folders[0]) else ""
        notes.append(
            f"class names look like ids ({', '.join(ids[:3])}), which a text tower cannot read; "
            f"give a file with lines 'folder<TAB>name' as classes file{known}"
        )
    twice = [name for name, count in Counter(classes).items() if count > 1]
    if twice:
        notes.append(f"{len(twice)} class names stand for more than one class, e.g. {twice[0]!r}: one of them is never predicted")
    return tuple(notes)


def read_classes(file: Path | str, folders: Sequence[str]) -> tuple[str, ...]:
    """Names for the folders (or labels) in their order.

    Args:
        file: `imagenet` for the names of WordNet ids; else a JSON object {folder: name}, a JSON list, or text with one
            class on a line: `folder<TAB>name`, `folder => name`, or only names in the order of the sorted folders.

    Raises:
        DataError: no such file, a folder without a name, another number of names than classes.
    """
    if str(file) == "imagenet":
        return _named(imagenet_names(), folders, "imagenet")
    path = Path(file)
    try:
        text = path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as problem:
        raise DataError(f"cannot read the classes file {path}: {problem}") from problem
    if path.suffix.lower() == ".json":
        try:
            found = json.loads(text)
        except ValueError as problem:
            raise DataError(f"{path}: not JSON: {problem}") from problem
        if isinstance(found, dict):
            return _named({str(folder): str(name) for folder, name in found.items()}, folders, str(path))
        if not isinstance(found, list):
            raise DataError(f"{path}: expected a JSON object {{folder: name}} or a list of names; got {type(found).__name__}")
        names = [str(name) for name in found]
    else:
        lines = [line.strip() for line in text.splitlines() if line.strip() and not line.startswith("#")]
        pairs = [re.split(r"\t+|\s*=>\s*", line, maxsplit=1) for line in lines]
        if pairs and all(len(pair) == 2 for pair in pairs):
            return _named({folder.strip(): name.strip() for folder, name in pairs}, folders, str(path))
        broken = [line for line, pair in zip(lines, pairs) if len(pair) == 2]
        if broken:
            raise DataError(f"{path}: some lines are 'folder<TAB>name' (e.g. {broken[0]!r}) and some are not; write all alike")
        names = lines
    if len(names) != len(folders):
        some = ", ".join(folders[:3])
        raise DataError(f"{path}: {len(names)} names for {len(folders)} classes ({some}, ...); give one name for each")
    return tuple(prompt_name(name) for name in names)


def _named(names: Mapping[str, str], folders: Sequence[str], where: str) -> tuple[str, ...]:
    missing = [folder for folder in folders if folder not in names]
    if missing:
        raise DataError(f"{where}: no name for {len(missing)} of {len(folders)} classes, e.g. {missing[0]!r}; add a line for it")
    return tuple(prompt_name(names[folder]) for folder in folders)


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
