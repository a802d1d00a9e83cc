"""Sets stored as `images.zip` with an `index.json`: random access without unpacking, splits and wording in the index.

`index.json`: {"dataset": name, "splits_from": text, "classes": [{"id": 0, "folder": "Faces", "name": "face"}, ...],
"items": [{"file": "Faces/1.jpg", "label": 0, "split": "train"}, ...]}; `templates` (a list) may be given.
"""

import json
import zipfile
from pathlib import Path

from ironclip.core.errors import DataError
from ironclip.data.catalogue import templates_of
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
        index = json.loads((folder / "index.json").read_text(encoding="utf-8"))
        return len(index["classes"]) if index["items"][0]["label"] is not None else None
    except (OSError, ValueError, KeyError, TypeError, IndexError):
        return None


def open_archive(folder: Path, templates: tuple[str, ...] | None = None) -> Dataset:
    """The set in a folder that holds `images.zip` and `index.json`.

    Raises:
        DataError: the zip file or the index is damaged, or they do not belong together.
    """
    archive = folder / "images.zip"
    try:
        index = json.loads((folder / "index.json").read_text(encoding="utf-8"))
        classes = tuple(prompt_name(entry["name"]) for entry in sorted(index["classes"], key=lambda entry: entry["id"]))
        rows = [(item["file"], item["label"], item["split"]) for item in index["items"]]
    except (ValueError, KeyError, TypeError) as problem:
        raise DataError(
            f"{folder / 'index.json'}: expected JSON with 'classes' (id, name) and 'items' (file, label, split); "
            f"{type(problem).__name__}: {problem}"
        ) from problem
    try:
        with zipfile.ZipFile(archive) as opened:
            members = set(opened.namelist())
    except (zipfile.BadZipFile, OSError) as problem:
        raise DataError(f"{archive}: not a readable zip file ({problem}); copy it again") from problem
    missing = [name for name, _, _ in rows if name not in members]
    if missing:
        raise DataError(f"{archive}: {len(missing)} of {len(rows)} pictures of index.json are missing, e.g. {missing[0]}")
    pairs: dict[str, list[tuple[Source, int]]] = {split: [] for split in SPLITS}
    for name, label, split in rows:
        if split not in pairs:
            raise DataError(f"{folder / 'index.json'}: split {split!r} of {name}; expected {', '.join(SPLITS)}")
        pairs[split].append((ZipSource(archive, name), label))
    name = index.get("dataset", folder.name)
    given = index.get("templates")
    return Dataset(
        name=name,
        classes=classes,
        templates=templates or (tuple(given) if given else templates_of(name)),
        splits={split: enumerate_items(found) for split, found in pairs.items()},
        origin=index.get("splits_from", "index.json"),
    )
