"""A data set from its name or from a path."""

import os
from pathlib import Path

from ironclip.data.archives import is_archive, open_archive
from ironclip.data.folders import FRACTIONS, open_folder, open_table
from ironclip.data.records import Dataset
from ironclip.errors import DataError, unknown


def data_roots(root: Path | str | None = None) -> tuple[Path, ...]:
    """Where sets are looked for by name: the argument, or IRONCLIP_DATA (several, separated as in PATH), or ./data."""
    if root is not None:
        return (Path(root),)
    named = os.environ.get("IRONCLIP_DATA", "")
    return tuple(Path(part) for part in named.split(os.pathsep) if part) or (Path("data"),)


def open_dataset(
    name: str | Path,
    *,
    root: Path | str | None = None,
    classes_file: Path | str | None = None,
    templates: tuple[str, ...] | None = None,
    seed: int = 0,
    fractions: tuple[float, float, float] = FRACTIONS,
) -> Dataset:
    """The data set with this name or at this path."""
    path = next((base / name for base in data_roots(root) if (base / name).exists()), Path(name))
    if not path.exists():
        raise unknown("data set", str(name), ())
    if path.is_file() and path.suffix.lower() in (".csv", ".tsv"):
        return open_table(path, classes_file=classes_file, templates=templates, seed=seed, fractions=fractions)
    if not path.is_dir():
        raise DataError(f"{path}: expected a folder or a CSV table")
    if is_archive(path):
        return open_archive(path, templates)
    return open_folder(path, classes_file=classes_file, templates=templates, seed=seed, fractions=fractions)
