"""A split that the user put beside the images: it is found and read, or an error names it; it is never ignored."""

import re
from pathlib import Path
from typing import Any

from ironclip.core.errors import DataError
from ironclip.data.kinds import is_system_file
from ironclip.data.lists import parse_json, read_text
from ironclip.data.records import SPLITS
from ironclip.data.roles import roles, words
from ironclip.data.tables import read_table, split_columns

_KEY = re.compile(r'"[^"\n]{0,30}(train|test|split)[^"\n]{0,30}"\s*:', re.IGNORECASE)


def given_split(folder: Path) -> Path | None:
    """CoOp's lists that lie in a folder of images, under any name; None where no file gives a split.

    Raises:
        DataError: a split in another form, a damaged split file, or several files, of which the user must choose one.
    """
    lists, others = [], []
    files = [path for path in sorted(folder.iterdir()) if path.is_file() and not is_system_file(path.name)]
    for path in files:
        name = path.name.lower()
        if name.endswith((".json", ".json.gz")):
            value = _json(path)
            if _is_lists(value):
                lists.append(path)
            elif _gives_split(value):
                others.append(path)
        elif name.endswith((".csv", ".tsv")) and _table_gives_split(path):
            others.append(path)
    named = roles(path.stem for path in files if path.suffix.lower() in (".txt", ".csv", ".tsv", ".lst"))
    if len(set(named.values())) > 1:
        others += [path for path in files if path.stem in named and path not in others]
    if len(lists) == 1 and not others:
        return lists[0]
    if lists or others:
        some = [path.name for path in (*lists, *others)]
        raise DataError(
            f"{folder}: {', '.join(some[:3])} {'gives' if len(some) == 1 else 'give'} a split; name the table or the JSON list "
            f"as the data set (e.g. {folder / some[0]}), or say --layout classes to have each class divided anew"
        )
    return None


def _json(path: Path) -> Any:
    named = bool({"split", "splits"} & set(words(path.stem)))
    try:
        text = read_text(path)
        return parse_json(text, path) if named or _KEY.search(text) else None  # annotations of other sorts may be large
    except DataError:
        if named:
            raise
        return None  # another file of the user; nothing says that it gives a split


def _is_lists(value: Any) -> bool:
    return isinstance(value, dict) and all(isinstance(value.get(split), list) for split in ("train", "test"))


def _gives_split(value: Any) -> bool:
    """Whether a JSON value holds splits in another form: rows with a split, or one mapping for each split."""
    rows = value.get("items", value.get("images")) if isinstance(value, dict) else value
    if isinstance(rows, list) and rows and isinstance(rows[0], dict):
        return any("split" in key.lower() for key in rows[0])
    if not isinstance(value, dict):
        return False
    return len(set(roles(value).values()) & set(SPLITS)) > 1 and any(isinstance(part, dict | list) for part in value.values())


def labelled_table(folder: Path) -> Path | None:
    """The first table in a folder that lists images with labels."""
    for path in sorted(folder.iterdir()):
        if path.is_file() and path.name.lower().endswith((".csv", ".tsv")):
            try:
                if {"path", "label"} <= set(read_table(path)[0][1]):
                    return path
            except DataError:
                continue
    return None


def _table_gives_split(path: Path) -> bool:
    try:
        return bool(split_columns(read_table(path)))
    except DataError:
        return False
