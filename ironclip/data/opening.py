"""A data set from its name or from a path."""

import os
from collections.abc import Sequence
from pathlib import Path

from ironclip.core.errors import DataError, IronclipError, UsageError, unknown
from ironclip.data.archives import archive_classes, is_archive, open_archive
from ironclip.data.catalogue import Entry, catalogue, choose_templates
from ironclip.data.class_lists import read_classes
from ironclip.data.coop import image_folder, open_aircraft, open_coop, open_lists
from ironclip.data.folders import FRACTIONS, SPLIT_FOLDERS, open_folder
from ironclip.data.given import given_split, labelled_table
from ironclip.data.records import Dataset
from ironclip.data.remarks import remarks
from ironclip.data.roles import Layout, parse_layout
from ironclip.data.shards import open_shards, shard_files
from ironclip.data.tables import open_table

Root = Path | str | Sequence[Path | str] | None


def data_roots(root: Root = None) -> tuple[Path, ...]:
    """Where sets are looked for by name: the argument, or IRONCLIP_DATA (several, separated as in PATH), or ./data."""
    if isinstance(root, Path | str):
        return (Path(root).expanduser(),)
    if root:
        return tuple(Path(part).expanduser() for part in root)
    named = os.environ.get("IRONCLIP_DATA", "")
    return tuple(Path(part).expanduser() for part in named.split(os.pathsep) if part) or (Path("data"),)


def named_roots(root: Root = None) -> tuple[Path, ...]:
    """The data roots that the user named; none where ./data is only looked at by default."""
    return data_roots(root) if root or os.environ.get("IRONCLIP_DATA") else ()


def place(name: str | Path, root: Root = None) -> Path:
    """The folder or file of this name below a data root, else the path that the name is."""
    return next((base / name for base in data_roots(root) if (base / name).exists()), Path(name).expanduser())


def open_dataset(
    name: str | Path,
    *,
    root: Root = None,
    split_file: Path | str | None = None,
    classes_file: Path | str | None = None,
    templates: str | Sequence[str] | None = None,
    seed: int = 0,
    fractions: tuple[float, float, float] = FRACTIONS,
    allow_own_split: bool = False,
    download: bool = False,
    layout: str = "auto",
) -> Dataset:
    """The data set with this name or at this path.

    Names: those of `catalogue()`; `shapes:sketch`; `imagenet_a:1000` (scored over all of ImageNet's classes);
    `torchvision:dtd` (torchvision's split instead of CoOp's); `hf:owner/name`; a folder below a data root. Paths: a folder
    for each class (with split folders or without), a CSV table, CoOp's lists (JSON), a folder with `images.zip` and
    `index.json`, a folder in CoOp's layout, WebDataset shards (`.tar`). What a user should know about the
    set stands in its `notes`.

    Args:
        root: where sets are looked for by name; default IRONCLIP_DATA, else ./data.
        split_file: CoOp's split file, if it does not lie beside the images.
        layout: what the folders mean where that is not clear: `classes`, `splits`, `class/split`, or `NAME=train,NAME=test`
            (folders, or values of a table's column).
        classes_file: a file with names for the classes, or "imagenet" for folders named by WordNet ids; see `class_list`.
        templates: one or several prompts with {}, or a kind: `single` (default), `ensemble`, `tecoa`.
        seed, fractions: of a split made here, where the set has none.
        allow_own_split: for a benchmark whose official lists are missing.
        download: let torchvision or the hub fetch what is missing.

    Raises:
        UsageError: unknown name.
        DataError: the set is missing, empty, damaged or not what it should be.
    """
    options = (root, split_file, classes_file, templates, seed, fractions, allow_own_split, download, parse_layout(layout))
    try:
        found = _open(str(name), *options)
        return found.changed(notes=(*found.notes, *remarks(found)))
    except OSError as problem:  # no permission, a name too long, a disk that is gone
        raise DataError(f"cannot read {problem.filename or name}: {problem.strerror or problem}") from problem


def _open(
    name: str,
    root: Root,
    split_file: Path | str | None,
    classes_file: Path | str | None,
    templates: str | Sequence[str] | None,
    seed: int,
    fractions: tuple[float, float, float],
    allow_own_split: bool,
    download: bool,
    layout: Layout,
) -> Dataset:
    if not name.strip():
        raise UsageError("expected the name or the path of a data set; got an empty text")
    roots = data_roots(root)
    prefix, _, rest = name.partition(":")
    entry = catalogue().get(rest if prefix == "torchvision" else prefix)
    if split_file is not None and (entry is None or entry.split is None or prefix == "torchvision"):
        raise UsageError(f"a split file belongs to a set in CoOp's layout; {name!r} is none")
    if prefix == "hf" and rest:
        from ironclip.data.hub import open_hub

        found = open_hub(rest, templates=templates, download=download, seed=seed, fractions=fractions)
    elif entry is not None and prefix == "torchvision":
        from ironclip.data.torchvision_sets import open_torchvision

        found = open_torchvision(entry, roots, choose_templates(entry.name, templates), download=download, seed=seed)
    elif entry is not None:
        split = None if split_file is None else Path(split_file)
        chosen = choose_templates(entry.name, templates)
        found = _open_known(
            entry, rest, roots, chosen, split=split, allow_own_split=allow_own_split, seed=seed, download=download
        )
    else:
        path = place(name, roots)
        if not path.exists():
            raise _no_such(name, roots)
        return _open_path(path, templates, classes_file, seed, fractions, layout, named_roots(root))
    if layout.kind != "auto":
        raise UsageError(f"a layout says what folders mean; {name!r} has its own")
    return _named(found, classes_file)


def _no_such(name: str, roots: Sequence[Path]) -> IronclipError:
    if "/" in name or os.sep in name or Path(name).suffix:
        raise DataError(f"{name}: no such file or folder; give the path of a folder of images or of a CSV table, or a known name")
    there = [path.name for base in roots if base.is_dir() for path in base.iterdir() if archive_classes(path) is not None]
    return unknown("data set", name, {*catalogue(), *there})


def _open_known(
    entry: Entry,
    variant: str,
    roots: Sequence[Path],
    templates: tuple[str, ...],
    *,
    split: Path | None,
    allow_own_split: bool,
    seed: int,
    download: bool,
) -> Dataset:
    if entry.layout == "generated":
        from ironclip.data.generated import open_shapes

        return open_shapes(variant, templates)
    label_space = int(variant) if variant.isdecimal() and entry.layout == "imagenet_wnids" else None
    if variant and label_space is None:
        raise UsageError(f"{entry.name} has no variant {variant!r}; write {entry.name}")
    packed = next((root / entry.name for root in roots if is_archive(root / entry.name)), None)
    if packed is not None:
        return open_archive(packed, templates)
    if entry.layout == "torchvision" or (download and entry.downloads and image_folder(entry, roots) is None):
        from ironclip.data.torchvision_sets import load, open_torchvision

        if entry.layout == "torchvision":
            return open_torchvision(entry, roots, templates, download=download, seed=seed)
        load(entry, roots, next(iter(entry.arguments)), download=True)
    if entry.layout == "coop":
        return open_coop(entry, roots, templates, split=split, allow_own_split=allow_own_split, seed=seed)
    if entry.layout == "aircraft":
        return open_aircraft(entry, roots, templates)
    from ironclip.data.imagenet import open_imagenet

    return open_imagenet(entry, roots, templates, label_space=label_space)


def _open_path(
    path: Path,
    templates: str | Sequence[str] | None,
    classes_file: Path | str | None,
    seed: int,
    fractions: tuple[float, float, float],
    layout: Layout,
    roots: Sequence[Path],
) -> Dataset:
    chosen = choose_templates(path.stem if path.is_file() else path.name, templates)
    own = {"classes_file": classes_file, "templates": chosen, "seed": seed, "fractions": fractions, "layout": layout}
    if shards := shard_files(path):
        if layout.kind != "auto":
            raise UsageError(f"a layout says what folders mean; {path} holds shards")
        return open_shards(path, shards, chosen, classes_file=classes_file, seed=seed, fractions=fractions)
    if not path.is_dir():
        if path.name.lower().endswith((".json", ".json.gz")):
            return _named(open_lists(path, chosen, roots), classes_file)
        if path.suffix.lower() not in (".csv", ".tsv"):
            raise DataError(
                f"{path}: expected a folder of images or a table (.csv); got a {path.suffix or 'file'}"
                + ("; unpack it first" if path.suffix.lower() in (".zip", ".gz", ".tgz", ".7z", ".rar") else "")
            )
        return open_table(path, roots=roots, **own)  # type: ignore[arg-type]
    if is_archive(path):
        return _named(open_archive(path, None if templates is None else chosen), classes_file)
    known = next((entry for entry in catalogue().values() if entry.split and (path / entry.split).is_file()), None)
    if known is not None:
        places = (path.joinpath(*Path(images).parts[1:]) for images in known.images)
        folder = next((place for place in places if place.is_dir()), path)
        known_templates = choose_templates(known.name, templates)
        return _named(open_coop(known, (), known_templates, folder=folder, split=path / str(known.split)), classes_file)
    try:
        lists = given_split(path) if layout.kind == "auto" else None
    except DataError:
        found = open_folder(path, **own)  # type: ignore[arg-type]
        if found.origin != SPLIT_FOLDERS:
            raise
        return found  # the folders say it already
    if lists is not None:
        return _named(open_lists(lists, chosen, roots, name=path.resolve().name), classes_file)
    try:
        return open_folder(path, **own)  # type: ignore[arg-type]
    except DataError as problem:
        table = labelled_table(path)
        if table is None:
            raise
        raise DataError(f"{problem}; {table.name} lists images with labels: give {table} as the data set") from None


def _named(found: Dataset, classes_file: Path | str | None) -> Dataset:
    """The set, with names from a file if one is given: those for its own names, or one for each label."""
    return found if classes_file is None else found.changed(classes=read_classes(classes_file, found.classes))
