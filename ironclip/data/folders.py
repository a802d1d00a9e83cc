"""A user's own pictures: a folder for each class, or a CSV table; with their splits or with one made here."""

import csv
import os
from collections.abc import Sequence
from pathlib import Path

from ironclip.core.errors import DataError
from ironclip.data.names import doubts, prompt_name, read_classes
from ironclip.data.records import SPLITS, TEMPLATE, Dataset, FileSource, Source, enumerate_items
from ironclip.data.sampling import stratified_split

EXTENSIONS = (".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".webp", ".bmp", ".gif", ".tif", ".tiff", ".ppm", ".pgm", ".jp2", ".avif")
ALIASES = {
    "train": "train",
    "training": "train",
    "val": "val",
    "valid": "val",
    "validation": "val",
    "test": "test",
    "testing": "test",
}
FRACTIONS = (0.6, 0.1, 0.3)

Pairs = list[tuple[Source, int]]


def pictures(folder: Path) -> list[Path]:
    """All picture files below a folder, sorted by path; hidden ones and what archives of a Mac add are left out."""

    def refuse(problem: OSError) -> None:
        raise DataError(f"cannot read the folder {problem.filename}: {problem.strerror}") from problem

    found: list[Path] = []
    for top, folders, files in os.walk(folder, onerror=refuse):
        folders[:] = [name for name in folders if not name.startswith(".") and name != "__MACOSX"]
        found += [Path(top, name) for name in files if not name.startswith(".") and Path(name).suffix.lower() in EXTENSIONS]
    return sorted(found)


def subfolders(folder: Path) -> list[Path]:
    """The folders inside, sorted by name, without hidden ones."""
    try:
        inside = sorted(folder.iterdir())
    except OSError as problem:
        raise DataError(f"cannot read the folder {folder}: {problem.strerror}") from problem
    return [path for path in inside if path.is_dir() and not path.name.startswith(".") and path.name != "__MACOSX"]


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
) -> Dataset:
    """The set in a folder with one folder for each class, or with `train`, `val` and `test` folders that hold those.

    Without split folders each class is divided by the hash of seed and file name. With `train` and `val` but no `test`,
    `val` is the test split, as in ImageNet.

    Raises:
        DataError: no class folders, a class without pictures, fewer than two classes.
    """
    inside = subfolders(folder)
    parts = [path for path in inside if path.name.lower() in ALIASES]
    if len(parts) >= 2 or (parts and len(parts) == len(inside)):
        return _open_parts(folder, parts, classes_file, templates)
    if not inside:
        loose = len(pictures(folder))
        found = f"{loose} pictures directly in it" if loose else "an empty folder" if not any(folder.iterdir()) else "no folder"
        raise DataError(f"{folder}: expected one folder of pictures for each class; found {found}")
    members = [pictures(path) for path in inside]
    for path, files in zip(inside, members):
        if not files:
            raise DataError(f"{folder}: the class folder {path.name!r} holds no picture; add some or remove the folder")
    pairs: Pairs = [(source, label) for label, files in enumerate(members) for source in file_sources(files, folder)]
    return _with_own_split(folder.resolve().name, [path.name for path in inside], pairs, classes_file, templates, seed, fractions)


def _open_parts(
    folder: Path, parts: Sequence[Path], classes_file: Path | str | None, templates: tuple[str, ...] | None
) -> Dataset:
    names = sorted({path.name for part in parts for path in subfolders(part)})
    pairs: dict[str, Pairs] = {split: [] for split in SPLITS}
    for part in parts:
        files = pictures(part)
        for source in file_sources(files, folder):
            inner = Path(source.name).parts
            if len(inner) < 3:
                raise DataError(f"{folder}: {source.name} lies in no class folder; expected {part.name}/<class>/<picture>")
            pairs[ALIASES[part.name.lower()]].append((source, names.index(inner[1])))
    notes: list[str] = []
    if pairs["val"] and not pairs["test"]:
        pairs["test"], pairs["val"] = pairs["val"], []
        notes.append("there is no test folder: val serves as the test split")
    trained = {label for _, label in pairs["train"]}
    absent = [name for label, name in enumerate(names) if trained and label not in trained]
    if absent:
        notes.append(f"{len(absent)} classes have no training picture, e.g. {absent[0]!r}")
    return _dataset(folder.resolve().name, names, pairs, classes_file, templates, "split folders", notes)


def open_table(
    table: Path,
    *,
    root: Path | None = None,
    classes_file: Path | str | None = None,
    templates: tuple[str, ...] | None = None,
    seed: int = 0,
    fractions: tuple[float, float, float] = FRACTIONS,
) -> Dataset:
    """The set listed in a CSV file with the columns path, label and, if wanted, split.

    Paths are relative to the table's folder or to `root`; labels are names or numbers. Without the column split each class
    is divided as a folder is.

    Raises:
        DataError: missing columns, an unknown split, or none of the first pictures exists.
    """
    rows = _rows(table)
    base = table.parent if root is None else root
    if not any((base / path).is_file() for path, _, _ in rows[:20]):
        raise DataError(f"{table}: none of the first pictures exists, e.g. {base / rows[0][0]}; paths are relative to {base}")
    found = {label for _, label, _ in rows}
    folders = sorted(found, key=int) if all(label.isdecimal() for label in found) else sorted(found)
    label_of = {name: label for label, name in enumerate(folders)}
    pairs: Pairs = [(FileSource(base, Path(path).as_posix()), label_of[label]) for path, label, _ in rows]
    if all(split is None for _, _, split in rows):
        return _with_own_split(table.stem, folders, pairs, classes_file, templates, seed, fractions)
    parts: dict[str, Pairs] = {split: [] for split in SPLITS}
    for line, (pair, (_, _, split)) in enumerate(zip(pairs, rows), 2):
        if split is None or split.lower() not in ALIASES:
            raise DataError(f"{table}, line {line}: split {split or ''!r}; expected train, val or test")
        parts[ALIASES[split.lower()]].append(pair)
    return _dataset(table.stem, folders, parts, classes_file, templates, f"column split of {table.name}")


def _rows(table: Path) -> list[tuple[str, str, str | None]]:
    """(path, label, split or None) of each line."""
    try:
        with table.open(newline="", encoding="utf-8-sig") as file:
            header = file.readline()
            file.seek(0)
            delimiter = max(",;\t", key=header.count)
            rows = list(csv.DictReader(file, delimiter=delimiter, skipinitialspace=True))
    except (OSError, UnicodeDecodeError, csv.Error) as problem:
        raise DataError(f"cannot read the table {table}: {problem}") from problem
    if not rows:
        raise DataError(f"{table}: no line below the header; expected columns path, label[, split]")
    missing = {"path", "label"} - set(rows[0])
    if missing:
        raise DataError(f"{table}: no column {' and '.join(sorted(missing))}; found {', '.join(filter(None, rows[0]))}")
    for line, row in enumerate(rows, 2):
        if not row["path"] or not row["label"]:
            raise DataError(f"{table}, line {line}: path or label is empty")
    return [(row["path"].strip(), row["label"].strip(), row["split"].strip() if row.get("split") else None) for row in rows]


def _with_own_split(
    name: str,
    folders: Sequence[str],
    pairs: Pairs,
    classes_file: Path | str | None,
    templates: tuple[str, ...] | None,
    seed: int,
    fractions: tuple[float, float, float],
) -> Dataset:
    parts = stratified_split(pairs, [source.name for source, _ in pairs], fractions, seed)
    shares = "/".join(f"{100 * fraction:g}" for fraction in fractions)
    return _dataset(name, folders, parts, classes_file, templates, f"own split {shares}, seed {seed}")


def _dataset(
    name: str,
    folders: Sequence[str],
    pairs: dict[str, Pairs],
    classes_file: Path | str | None,
    templates: tuple[str, ...] | None,
    origin: str,
    notes: Sequence[str] = (),
) -> Dataset:
    classes = tuple(map(prompt_name, folders)) if classes_file is None else read_classes(classes_file, folders)
    return Dataset(
        name=name,
        classes=classes,
        templates=templates or (TEMPLATE,),
        splits={split: enumerate_items(found) for split, found in pairs.items()},
        origin=origin,
        notes=(*notes, *(doubts(folders, classes) if folders else ())),
    )
