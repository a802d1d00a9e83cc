"""A user's own images in folders, with their splits or with a split made here."""

from collections.abc import Sequence
from pathlib import Path

from ironclip.core.errors import DataError
from ironclip.data.class_lists import read_classes
from ironclip.data.layouts import arrange, left_out
from ironclip.data.listed import listed_splits
from ironclip.data.names import prompt_name
from ironclip.data.records import SPLITS, TEMPLATE, Dataset, FileSource, Source, enumerate_items
from ironclip.data.roles import Layout
from ironclip.data.sampling import stratified_split
from ironclip.data.walk import contents

FRACTIONS = (0.6, 0.1, 0.3)
SPLIT_FOLDERS = "split folders"

Pairs = list[tuple[Source, int]]


def file_sources(paths: Sequence[Path], root: Path) -> list[FileSource]:
    """Sources named by their path below the root, with forward slashes."""
    return [FileSource(root, path.relative_to(root).as_posix()) for path in paths]


def open_folder(
    folder: Path,
    *,
    classes_file: Path | str | None = None,
    templates: tuple[str, ...] | None = None,
    seed: int = 0,
    fractions: tuple[float, float, float] = FRACTIONS,
    layout: Layout = Layout(),  # noqa: B008
) -> Dataset:
    """The set in a folder, arranged as `layouts.arrange` reads it.

    Without splits each class is divided by the hash of seed and file name. With `train` and `val` but no `test`, `val` is the
    test split, as in ImageNet.

    Raises:
        DataError: no class folders, a class without images, fewer than two classes, folders that may be meant in two ways,
            lists that give a split in a form that is not read.
    """
    found = contents(folder)
    arranged = arrange(found, str(folder), layout)
    label_of = {name: label for label, name in enumerate(arranged.classes)}
    notes = [*arranged.notes, *left_out(found)]
    name = folder.resolve().name
    if all(split is None for _, _, split in arranged.rows):
        if layout.kind == "auto" and (lists := listed_splits(found)):
            path, inside, _ = arranged.rows[0]
            top = path.partition(f"{inside}/")[0]
            anew = f"name {folder / top}" if top else "say --layout classes"
            raise DataError(
                f"{folder}: {', '.join(lists[:3])} {'gives' if len(lists) == 1 else 'give'} a split; write it as a table (.csv "
                f"with path, label, split) and name that as the data set, or {anew} to have each class divided anew"
            )
        pairs: Pairs = [(FileSource(folder, path), label_of[inside]) for path, inside, _ in arranged.rows]
        return own_split(name, arranged.classes, pairs, classes_file, templates, seed, fractions, notes)
    parts: dict[str, Pairs] = {split: [] for split in SPLITS}
    for path, inside, split in arranged.rows:
        parts[str(split)].append((FileSource(folder, path), label_of[inside]))
    notes += val_as_test(parts, "folder")
    return dataset_of(name, arranged.classes, parts, classes_file, templates, SPLIT_FOLDERS, notes)


def val_as_test(parts: dict[str, Pairs], what: str) -> list[str]:
    """Makes `val` the test split where there is none, as in ImageNet, and says so in a note."""
    if parts["test"] or not parts["val"]:
        return []
    parts["test"], parts["val"] = parts["val"], []
    return [f"there is no test {what}: val serves as the test split"]


def own_split(
    name: str,
    folders: Sequence[str],
    pairs: Pairs,
    classes_file: Path | str | None,
    templates: tuple[str, ...] | None,
    seed: int,
    fractions: tuple[float, float, float],
    notes: Sequence[str] = (),
) -> Dataset:
    """The set with a split of each class made here; its `origin` says so."""
    parts = stratified_split(pairs, [source.name for source, _ in pairs], fractions, seed)
    shares = "/".join(f"{100 * fraction:g}" for fraction in fractions)
    return dataset_of(name, folders, parts, classes_file, templates, f"own split {shares}, seed {seed}", notes)


def dataset_of(
    name: str,
    folders: Sequence[str],
    pairs: dict[str, Pairs],
    classes_file: Path | str | None,
    templates: tuple[str, ...] | None,
    origin: str,
    notes: Sequence[str] = (),
) -> Dataset:
    """The set of these lists, with names for its folders or labels."""
    return Dataset(
        name=name,
        classes=tuple(map(prompt_name, folders)) if classes_file is None else read_classes(classes_file, folders),
        templates=templates or (TEMPLATE,),
        splits={split: enumerate_items(found) for split, found in pairs.items()},
        origin=origin,
        notes=tuple(notes),
    )
