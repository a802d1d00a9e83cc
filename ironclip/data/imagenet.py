"""ImageNet, its four shifted test sets and Tiny ImageNet: folders named by WordNet ids or by numbers.

Names are those in a `classnames.txt` beside the images (lines `<wnid> <name>`), else the list shipped here. Folders and
files are sorted; CoOp takes them as the file system lists them, so few-shot subsets of ImageNet differ from any author's.
"""

from collections.abc import Sequence
from pathlib import Path

from ironclip.core.errors import DataError, UsageError
from ironclip.data.catalogue import Entry
from ironclip.data.coop import image_folder, looked_for
from ironclip.data.folders import file_sources
from ironclip.data.lists import read_text, shown
from ironclip.data.names import imagenet_names, prompt_name
from ironclip.data.records import Dataset, FileSource, Source, enumerate_items
from ironclip.data.walk import pictures, subfolders


def open_imagenet(entry: Entry, roots: Sequence[Path], templates: tuple[str, ...], *, label_space: int | None = None) -> Dataset:
    """ImageNet or one of its relatives.

    Args:
        label_space: 1000 keeps ImageNet's labels and names for sets with fewer classes (imagenet_a, imagenet_r); default:
            the set's own classes, relabelled from 0 in the order of their ids.

    Raises:
        DataError: the set is not there, a folder is no ImageNet class.
    """
    folder = image_folder(entry, roots)
    if folder is None:
        raise DataError(f"{entry.name} is not here; looked for {looked_for(entry, roots)}. To get it: {entry.how()}")
    if label_space not in (None, entry.classes, 1000):
        raise UsageError(f"{entry.name} is scored over {entry.classes} or 1000 classes; got {label_space}")
    if entry.layout == "tiny_imagenet":
        return _tiny(entry, folder, templates)
    names = _names(folder)
    wnids = sorted(names)
    if entry.layout == "imagenet":
        pairs = {part: _by_wnid(folder / inner, wnids) for part, inner in (("train", "train"), ("test", "val"))}
        notes: tuple[str, ...] = ("val is empty: as in CoOp, the official validation images are the test split",)
    elif entry.layout == "imagenet_numbers":
        pairs, notes = {"test": _by_number(folder, len(wnids))}, ()
    else:
        if label_space is None and entry.classes < len(wnids):
            wnids = [path.name for path in subfolders(folder)]
        pairs, notes = {"test": _by_wnid(folder, wnids)}, ()
    unnamed = [wnid for wnid in wnids if wnid not in names]
    if unnamed:
        raise DataError(f"{folder}: {unnamed[0]!r} is no ImageNet class; expected folders named by WordNet ids such as n01440764")
    return Dataset(
        name=entry.name,
        classes=tuple(prompt_name(names[wnid]) for wnid in wnids),
        templates=templates,
        splits={split: enumerate_items(found) for split, found in pairs.items()},
        origin="official folders, sorted",
        notes=notes,
    )


def _names(folder: Path) -> dict[str, str]:
    for file in (folder / "classnames.txt", folder.parent / "classnames.txt"):
        if file.is_file():
            lines = [line.strip().partition(" ") for line in read_text(file, "list of names").split("\n") if line.strip()]
            return {wnid: name for wnid, _, name in lines}
    return imagenet_names()


def _by_wnid(folder: Path, wnids: Sequence[str]) -> list[tuple[Source, int]]:
    if not folder.is_dir():
        return []
    label_of = {wnid: label for label, wnid in enumerate(wnids)}
    inside = subfolders(folder)
    for path in inside:
        if path.name not in label_of:
            raise DataError(f"{folder}: the folder {path.name!r} is no ImageNet class; expected WordNet ids such as n01440764")
    return [(source, label_of[path.name]) for path in inside for source in file_sources(pictures(path), folder.parent)]


def _by_number(folder: Path, count: int) -> list[tuple[Source, int]]:
    """Folders "0" to "999", read as integers: in the order of strings "10" would come before "2"."""
    inside = subfolders(folder)
    if not all(path.name.isdecimal() and int(path.name) < count for path in inside):
        raise DataError(f"{folder}: expected folders named 0 to {count - 1}; found {', '.join(path.name for path in inside[:3])}")
    inside = sorted(inside, key=lambda path: int(path.name))
    return [(source, int(path.name)) for path in inside for source in file_sources(pictures(path), folder)]


def _tiny(entry: Entry, folder: Path, templates: tuple[str, ...]) -> Dataset:
    """Train folders `<wnid>/images`, validation images (the test split) with labels in `val_annotations.txt`."""
    what = f"list of {entry.name}"
    wnids = sorted(read_text(folder / "wnids.txt", what).split())
    words = dict(line.strip().split("\t", 1) for line in read_text(folder / "words.txt", what).split("\n") if "\t" in line)
    file = folder / "val" / "val_annotations.txt"
    rows = [line.strip().split("\t") for line in read_text(file, what).split("\n") if line.strip()]
    curated = imagenet_names()
    label_of = {wnid: label for label, wnid in enumerate(wnids)}
    odd = next((row for row in rows if len(row) < 2 or row[1] not in label_of), None)
    if odd is not None:
        raise DataError(f"{file}: expected lines <image><TAB><WordNet id of wnids.txt>; got {shown(odd)}")
    test: list[tuple[Source, int]] = [(FileSource(folder, f"val/images/{row[0]}"), label_of[row[1]]) for row in sorted(rows)]
    return Dataset(
        name=entry.name,
        classes=tuple(prompt_name(curated.get(wnid) or words.get(wnid, wnid).split(",")[0]) for wnid in wnids),
        templates=templates,
        splits={"train": enumerate_items(_by_wnid(folder / "train", wnids)), "test": enumerate_items(test)},
        origin="official folders; the validation images are the test split",
    )
