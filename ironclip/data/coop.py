"""The few-shot benchmark sets in CoOp's layout: official lists only, never a similar split.

Source: CoOp `datasets/*.py`. `split_zhou_<Name>.json` holds {"train": [[path, label, class name], ...], "val", "test"};
the compact form {"classes": [...], "train": [[path, label], ...], ...}, plain or gzipped, is read as well. FGVC-Aircraft has
its own text lists.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ironclip.core.errors import DataError
from ironclip.data.catalogue import Entry
from ironclip.data.folders import file_sources
from ironclip.data.lists import check_names, inside, label_of, list_of, path_of, read_json, read_text, shown, text_of
from ironclip.data.names import prompt_name, shipped_classes
from ironclip.data.records import SPLITS, Dataset, FileSource, Source, enumerate_items
from ironclip.data.sampling import stratified_split
from ironclip.data.walk import pictures, subfolders

OWN_FRACTIONS = (0.5, 0.2, 0.3)  # the shares of the lists that CoOp's authors drew

Lists = tuple[tuple[str, ...], dict[str, list[tuple[str, int]]]]
"""Class names in label order; (path, label) of each split."""


def read_split(file: Path) -> Lists:
    """Class names and lists of a split file.

    Raises:
        DataError: not such a file, or labels and class names contradict each other.
    """
    found = read_json(file, "split file")
    if not isinstance(found, dict) or not all(isinstance(found.get(split), list) for split in ("train", "test")):
        what = f"its keys are {shown(list(found))}" if isinstance(found, dict) else f"got {shown(found)}"
        raise DataError(f"{file}: expected JSON with train, val and test lists of [path, label, class name]; {what}")
    named = found.get("classes")
    if named is not None:
        check_names(list_of(named, str(file), "'classes'"), str(file))
    lists: dict[str, list[tuple[str, int]]] = {}
    name_of: dict[int, str] = {}
    for split in SPLITS:
        rows = list_of(found.get(split, []), f"{file}, {split}", "rows")
        lists[split] = [_row(row, f"{file}, {split} {k}", named, name_of) for k, row in enumerate(rows)]
    if named is not None:
        return tuple(map(prompt_name, named)), lists
    if sorted(name_of) != list(range(len(name_of))):
        raise DataError(f"{file}: labels are not 0 to {len(name_of) - 1} without a gap")
    return tuple(prompt_name(name_of[label]) for label in range(len(name_of))), lists


def _row(row: Any, where: str, named: Sequence[str] | None, name_of: dict[int, str]) -> tuple[str, int]:
    """(path, label) of one image; its class name goes to `name_of` where the file has no list of classes."""
    fields = 2 if named is not None else 3
    if not isinstance(row, list) or len(row) < fields:
        form = "[path, label]" if named is not None else "[path, label, class name]"
        raise DataError(f"{where}: expected JSON with train, val and test lists of {form}; got {shown(row)}")
    path, label = path_of(row[0], where), label_of(row[1], where, None if named is None else len(named))
    if named is None:
        name = text_of(row[2], where, "a class name")
        if name_of.setdefault(label, name) != name:
            raise DataError(f"{where}: label {label} is {name_of[label]!r} and, for {path}, {name!r}")
    return path, label


def open_lists(file: Path, templates: tuple[str, ...], roots: Sequence[Path] = (), name: str | None = None) -> Dataset:
    """The set of CoOp's lists under any name: images lie beside the file, or in a folder beside it.

    Raises:
        DataError: not such lists, images that lie elsewhere, or none of the first images exists.
    """
    classes, lists = read_split(file)
    first = [path for split in SPLITS for path, _ in lists[split][:20]]
    places = [file.parent, *subfolders(file.parent)]
    base = next((place for place in places if any((place / path).is_file() for path in first)), None)
    if base is None:
        example = f", e.g. {file.parent / first[0]}" if first else ""
        raise DataError(f"{file}: none of the first images exists{example}; paths are relative to {file.parent}")
    title = name or file.name.removesuffix(".gz").removesuffix(".json")
    return _listed(title, classes, lists, base, templates, file.name, roots)


def image_folder(entry: Entry, roots: Sequence[Path]) -> Path | None:
    """The first folder below a data root that may hold the set's images."""
    return next((root / images for root in roots for images in entry.images if (root / images).is_dir()), None)


def split_file(entry: Entry, roots: Sequence[Path]) -> Path | None:
    """The set's split file: in its folder, in the data root, or the compact form in `splits/`."""
    assert entry.split is not None
    for root in roots:
        folders = [root / Path(images).parts[0] for images in entry.images]
        candidates = [folder / entry.split for folder in [*folders, root]] + [root / "splits" / f"{entry.name}.json.gz"]
        for candidate in candidates:
            if candidate.is_file():
                return candidate
    return None


def looked_for(entry: Entry, roots: Sequence[Path]) -> str:
    """Where the images were expected, for messages."""
    return ", ".join(str(root / images) for root in roots for images in entry.images)


def open_coop(
    entry: Entry,
    roots: Sequence[Path],
    templates: tuple[str, ...],
    *,
    folder: Path | None = None,
    split: Path | None = None,
    allow_own_split: bool = False,
    seed: int = 0,
) -> Dataset:
    """The set with its official split.

    Args:
        folder: the images, if they lie in none of the usual places.
        split: the split file, if it lies elsewhere.
        allow_own_split: without the split file, divide the class folders 50/20/30 ourselves and say so in `origin`.

    Raises:
        DataError: images or split file are missing.
    """
    folder = folder or image_folder(entry, roots)
    if folder is None:
        raise DataError(f"{entry.name} is not here; looked for {looked_for(entry, roots)}. To get it: {entry.how()}")
    file = split if split is not None else split_file(entry, roots)
    if file is None and allow_own_split:
        return _own_split(entry, folder, templates, seed)
    if file is None:
        raise DataError(
            f"{entry.name}: the official lists {entry.split} are missing beside {folder}, and a split drawn anew is another "
            f"benchmark. Put the file there (DATASETS.md of KaiyangZhou/CoOp links it), or allow an own split (recorded as such)"
        )
    classes, lists = read_split(file)
    return _listed(entry.name, classes, lists, folder, templates, file.name)


def _listed(
    name: str,
    classes: tuple[str, ...],
    lists: dict[str, list[tuple[str, int]]],
    folder: Path,
    templates: tuple[str, ...],
    origin: str,
    roots: Sequence[Path] = (),
) -> Dataset:
    splits = {
        split: enumerate_items([(FileSource(*inside(path, f"{origin}, {split}", folder, roots)), label) for path, label in rows])
        for split, rows in lists.items()
    }
    return Dataset(name=name, classes=classes, templates=templates, splits=splits, origin=origin)


def _own_split(entry: Entry, folder: Path, templates: tuple[str, ...], seed: int) -> Dataset:
    """A split of the class folders made here; its name says so."""
    inside = subfolders(folder)
    names = shipped_classes(entry.name)
    if len(inside) != entry.classes:
        raise DataError(
            f"{entry.name}: an own split needs one folder for each of the {entry.classes} classes in {folder}; "
            f"found {len(inside)}. Use the official lists {entry.split}"
        )
    by_folder = [prompt_name(path.name) for path in inside]
    classes = names if names is not None and sorted(map(str.lower, by_folder)) == sorted(map(str.lower, names)) else None
    order = inside if classes is None else sorted(inside, key=lambda path: _position(classes, path.name))
    pairs: list[tuple[Source, int]] = [
        (source, label) for label, path in enumerate(order) for source in file_sources(pictures(path), folder)
    ]
    parts = stratified_split(pairs, [source.name for source, _ in pairs], OWN_FRACTIONS, seed)
    return Dataset(
        name=f"{entry.name}-own-split",
        classes=classes or tuple(by_folder),
        templates=templates,
        splits={part: enumerate_items(found) for part, found in parts.items()},
        origin=f"own split 50/20/30, seed {seed}, not {entry.split}",
        notes=(f"this is not the benchmark {entry.name}: its official lists are missing and the split is ours",),
    )


def _position(classes: Sequence[str], folder: str) -> int:
    lowered = [name.lower() for name in classes]
    return lowered.index(prompt_name(folder).lower())


def open_aircraft(entry: Entry, roots: Sequence[Path], templates: tuple[str, ...]) -> Dataset:
    """FGVC-Aircraft with its own lists: `variants.txt` and `images_variant_{train,val,test}.txt` (`<id> <variant>`).

    Raises:
        DataError: images or lists are missing, or a list names an unknown variant.
    """
    folder = image_folder(entry, roots)
    if folder is None:
        raise DataError(f"{entry.name} is not here; looked for {looked_for(entry, roots)}. To get it: {entry.how()}")
    what = f"official list of {entry.name}"
    classes = tuple(name.strip() for name in read_text(folder / "variants.txt", what).split("\n") if name.strip())
    label_of_name = {name: label for label, name in enumerate(classes)}
    lists: dict[str, list[tuple[str, int]]] = {split: [] for split in SPLITS}
    for split in SPLITS:
        for line in read_text(folder / f"images_variant_{split}.txt", what).split("\n"):
            number, _, variant = line.strip().partition(" ")
            if number and variant not in label_of_name:
                raise DataError(f"{entry.name}: images_variant_{split}.txt names {variant!r}, which variants.txt does not")
            if number:
                lists[split].append((f"images/{number}.jpg", label_of_name[variant]))
    return _listed(entry.name, tuple(map(prompt_name, classes)), lists, folder, templates, "official lists images_variant_*.txt")
