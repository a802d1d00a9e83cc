"""Sets packed as WebDataset shards: tar archives in which `KEY.jpg` and `KEY.cls` (or `KEY.json`) make one labelled image.

Source: the WebDataset format (github.com/webdataset/webdataset) and the folders of CLIP_benchmark (`train/0.tar`, `test/0.tar`,
`classnames.txt`). The archives are read in place, so their images are drawn in any order, like files of a folder.
"""

from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ironclip.core.errors import DataError
from ironclip.data.folders import FRACTIONS, Pairs, dataset_of, own_split, val_as_test
from ironclip.data.kinds import is_system_folder, kind_of
from ironclip.data.lists import parse_json, shown, text_of
from ironclip.data.records import MOST_CLASSES, SPLITS, Dataset
from ironclip.data.roles import roles
from ironclip.data.tars import TarSource, members
from ironclip.data.walk import subfolders

NAMES = ("classnames.txt", "classes.txt")
LABELS = ("cls", "json")
LONGEST_LABEL = 100_000
"""Bytes of a `.cls` or `.json` member."""

Label = int | str
Rows = list[tuple[TarSource, Label]]


def shard_files(path: Path) -> dict[Path, str | None]:
    """The shards of a set with the split of each, None where none says it; empty where a folder is something else.

    A folder of shards holds archives and neither images nor folders, or split folders which are such.

    Raises:
        DataError: some archives have a split in their name, and others have none.
    """
    if not path.is_dir():
        return {path: None} if path.suffix.lower() == ".tar" else {}
    folders = subfolders(path)
    if not folders:
        found = _archives(path)
        split_of = roles(each.stem for each in found)
        if unsaid := [each.name for each in found if split_of and each.stem not in split_of]:
            raise DataError(f"{path}: the name of {unsaid[0]} says no split, as those of others do; rename it or take it away")
        return {each: split_of.get(each.stem) for each in found}
    named = roles(each.name for each in folders)
    if len(named) < len(folders) or _archives(path):
        return {}
    inside = {each: _archives(each) for each in folders}
    return {shard: named[folder.name] for folder, found in inside.items() for shard in found} if all(inside.values()) else {}


def _archives(folder: Path) -> list[Path]:
    """The tar archives in a folder with neither images nor folders; none for other folders."""
    found = []
    for each in sorted(folder.iterdir()):
        if each.suffix.lower() == ".tar":
            found.append(each)
        elif kind_of(each.name) == "picture" or (each.is_dir() and not is_system_folder(each.name)):
            return []
    return found


def open_shards(
    path: Path,
    shards: dict[Path, str | None],
    templates: tuple[str, ...],
    *,
    classes_file: Path | str | None = None,
    seed: int = 0,
    fractions: tuple[float, float, float] = FRACTIONS,
) -> Dataset:
    """The set in these shards of a folder. Without splits each class is divided by the hash of seed and name.

    Raises:
        DataError: a damaged or hostile archive; an image without a label or a label without an image; numbers and names mixed.
    """
    top = path if path.is_dir() else path.parent
    rows = {shard: _rows(shard, shard.relative_to(top).as_posix()) for shard in shards}
    labels = [label for found in rows.values() for _, label in found]
    if not labels:
        raise DataError(f"{path}: found no image in {len(shards)} tar archives; expected KEY.jpg with KEY.cls or KEY.json")
    folders = _classes(labels, path)
    if classes_file is None and path.is_dir():
        classes_file = next((path / name for name in NAMES if (path / name).is_file()), None)
    number = {label: position for position, label in enumerate(folders)}
    parts: dict[str, Pairs] = {split: [] for split in SPLITS}
    for shard, found in rows.items():
        parts[shards[shard] or "train"] += [(source, number[str(label)]) for source, label in found]
    name = path.resolve().name.removesuffix(".tar")
    if not (parts["val"] or parts["test"]):
        return own_split(name, folders, parts["train"], classes_file, templates, seed, fractions)
    return dataset_of(name, folders, parts, classes_file, templates, "shards", val_as_test(parts, "shard"))


def _classes(labels: Sequence[Label], where: Path) -> tuple[str, ...]:
    """What the labels are called: numbers from 0 to the largest, or the names in their order."""
    numbers = [label for label in labels if isinstance(label, int)]
    if not numbers:
        return tuple(sorted({str(label) for label in labels}))
    if len(numbers) < len(labels):
        other = next(label for label in labels if not isinstance(label, int))
        raise DataError(f"{where}: labels are numbers ({numbers[0]}) and names ({shown(other)}); write all alike")
    return tuple(map(str, range(max(numbers) + 1)))


def _rows(shard: Path, name: str) -> Rows:
    """The images of an archive with their labels, in its order."""
    images: dict[str, TarSource] = {}
    labels: dict[str, dict[str, bytes]] = defaultdict(dict)
    for path, offset, length in members(shard):
        folder, slash, file = path.rpartition("/")
        stem, _, ending = file.partition(".")
        source, key = TarSource(shard, f"{name}/{path}", offset, length), f"{folder}{slash}{stem}"
        if ending.lower() in LABELS:
            if length > LONGEST_LABEL:
                raise DataError(f"{shard}: the label {shown(path)} has {length:,} bytes; at most {LONGEST_LABEL:,} are read")
            labels[key][ending.lower()] = source.content(length)
        elif kind_of(file) == "picture":
            if key in images:
                raise DataError(f"{shard}: {shown(path)} and another image have one key; give each image its own")
            images[key] = source
    for key in images.keys() - labels.keys():
        raise DataError(
            f"{shard}: the image {shown(key)} has no label; expected {key}.cls or {key}.json beside it. If each archive is a "
            "class, unpack it into a folder of its own"
        )
    return [(source, _label(labels[key], f"{shard}, {shown(key)}", shard)) for key, source in images.items()]


def _label(texts: dict[str, bytes], where: str, shard: Path) -> Label:
    """The label in a `.cls` (a number or a name), or under `label`, `cls` or `class_name` in a `.json`."""
    try:
        if "cls" in texts:
            value: Any = texts["cls"].decode("utf-8").strip()
        else:
            given = parse_json(texts["json"].decode("utf-8"), shard)
            fields = given if isinstance(given, dict) else {}
            value = next((fields[key] for key in ("label", "cls", "class_name") if key in fields), None)
    except UnicodeDecodeError:
        raise DataError(f"{where}: the label is no UTF-8 text") from None
    if isinstance(value, str) and value.isascii() and value.isdecimal() and len(value) < 10:
        value = int(value)
    if isinstance(value, int) and not isinstance(value, bool):
        if not 0 <= value < MOST_CLASSES:
            raise DataError(f"{where}: the label {shown(value)} is no number from 0 to {MOST_CLASSES - 1:,}")
        return value
    return text_of(value, where, "a label")
