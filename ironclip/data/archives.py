"""Sets stored as `images.zip` with an `index.json`: random access without unpacking; splits and class names are in the index.

`index.json`: {"dataset": name, "splits_from": text, "classes": [{"id": 0, "folder": "Faces", "name": "face"}, ...],
"items": [{"file": "Faces/1.jpg", "label": 0, "split": "train"}, ...]}; `templates` (a list) may be given.
"""

import zipfile
from pathlib import Path
from typing import Any

from ironclip.core.errors import DataError
from ironclip.data.catalogue import templates_of
from ironclip.data.lists import label_of, list_of, path_of, read_json, shown, text_of
from ironclip.data.names import prompt_name
from ironclip.data.records import SPLITS, Dataset, Source, ZipSource, enumerate_items


def is_archive(folder: Path) -> bool:
    """Whether the folder is such a set."""
    return (folder / "images.zip").is_file() and (folder / "index.json").is_file()


def archive_classes(folder: Path) -> int | None:
    """How many classes such a set has; None for other folders and for sets without labels."""
    if not is_archive(folder):
        return None
    try:
        index = _index(folder / "index.json")
    except DataError:
        return None
    labelled = index["items"] and isinstance(index["items"][0], dict) and index["items"][0].get("label") is not None
    return len(index["classes"]) if labelled else None


def _index(file: Path) -> dict[str, Any]:
    """The index, with `classes` and `items` as lists.

    Raises:
        DataError: not such a file.
    """
    index = read_json(file, "index")
    if not isinstance(index, dict) or not all(isinstance(index.get(key), list) for key in ("classes", "items")):
        what = f"its keys are {shown(list(index))}" if isinstance(index, dict) else f"got {shown(index)}"
        raise DataError(f"{file}: expected JSON with 'classes' (id, name) and 'items' (file, label, split); {what}")
    return index


def _field(value: Any, key: str, where: str) -> Any:
    if not isinstance(value, dict) or key not in value:
        raise DataError(f"{where}: expected an object with {key!r}; got {shown(value)}")
    return value[key]


def _classes(index: dict[str, Any], file: Path) -> tuple[str, ...]:
    """The class names, whose ids are 0 to K - 1."""
    named: dict[int, str] = {}
    for k, each in enumerate(index["classes"]):
        where = f"{file}, class {k}"
        label = label_of(_field(each, "id", where), where, len(index["classes"]))
        if label in named:
            raise DataError(f"{where}: the id {label} is there twice")
        named[label] = prompt_name(text_of(_field(each, "name", where), where, "a class name"))
    return tuple(named[label] for label in sorted(named))


def open_archive(folder: Path, templates: tuple[str, ...] | None = None) -> Dataset:
    """The set in a folder that holds `images.zip` and `index.json`.

    Raises:
        DataError: the zip file or the index is damaged, or they do not match.
    """
    archive, file = folder / "images.zip", folder / "index.json"
    index = _index(file)
    classes = _classes(index, file)
    pairs: dict[str, list[tuple[Source, int]]] = {split: [] for split in SPLITS}
    for k, item in enumerate(index["items"]):
        where = f"{file}, item {k}"
        name = path_of(_field(item, "file", where), where)
        label = label_of(_field(item, "label", where), where)
        split = _field(item, "split", where)
        if not isinstance(split, str) or split not in pairs:
            raise DataError(f"{where}: split {shown(split)} of {name}; expected {', '.join(SPLITS)}")
        pairs[split].append((ZipSource(archive, name), label))
    _check_members(archive, [source.name for found in pairs.values() for source, _ in found])
    name = text_of(index.get("dataset", folder.resolve().name), f"{file}, dataset", "a name")
    given = tuple(
        text_of(each, f"{file}, templates", "a template") for each in list_of(index.get("templates", []), str(file), "templates")
    )
    return Dataset(
        name=name,
        classes=classes,
        templates=templates or given or templates_of(name),
        splits={split: enumerate_items(found) for split, found in pairs.items()},
        origin=text_of(index.get("splits_from", "index.json"), f"{file}, splits_from", "a text"),
    )


def _check_members(archive: Path, names: list[str]) -> None:
    """DataError where the archive is damaged or lacks images."""
    try:
        with zipfile.ZipFile(archive) as opened:
            members = set(opened.namelist())
    except (zipfile.BadZipFile, OSError, ValueError, NotImplementedError) as problem:
        raise DataError(f"{archive}: not a readable zip file ({problem}); copy it again") from problem
    missing = [name for name in names if name not in members]
    if missing:
        raise DataError(f"{archive}: {len(missing)} of {len(names)} images of index.json are missing, e.g. {missing[0]}")
