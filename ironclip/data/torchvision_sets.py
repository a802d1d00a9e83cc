"""Data sets that torchvision reads, and downloads when asked."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from PIL import Image

from ironclip.core.errors import DataError, UsageError
from ironclip.data.catalogue import Entry
from ironclip.data.coop import OWN_FRACTIONS
from ironclip.data.names import prompt_name, shipped_classes
from ironclip.data.records import Dataset, FileSource, Source, enumerate_items
from ironclip.data.sampling import stratified_split


@dataclass(frozen=True)
class IndexedSource:
    """An image of another library's data set, by number.

    data: anything whose `data[position]` starts with, or under `key` holds, a PIL image.
    """

    data: Any
    position: int
    name: str
    key: str | int = 0

    def open(self) -> Image.Image:
        return self.data[self.position][self.key]

    def stamp(self) -> str:
        return f"{type(self.data).__name__}:{len(self.data)}"


def open_torchvision(
    entry: Entry, roots: Sequence[Path], templates: tuple[str, ...], *, download: bool = False, seed: int = 0
) -> Dataset:
    """The set with torchvision's own splits; where it has none, each class is divided 50/20/30 by us.

    Raises:
        DataError: the set is not there, or the download failed.
        UsageError: torchvision has no such set.
    """
    if entry.torchvision is None:
        raise UsageError(f"torchvision has no data set {entry.name!r}; {entry.how()}")
    parts = {split: load(entry, roots, split, download=download) for split in entry.arguments}
    first = next(iter(parts.values()))
    found = {split: _pairs(data, split) for split, data in parts.items()}
    origin = f"torchvision {entry.torchvision}"
    if "all" in found:
        names = [source.name for source, _ in found["all"]]
        found = dict(stratified_split(found["all"], names, OWN_FRACTIONS, seed))
        origin += f"; own split 50/20/30, seed {seed}"
    return Dataset(
        name=f"torchvision:{entry.name}" if entry.layout != "torchvision" else entry.name,
        classes=_classes(entry, first),
        templates=templates,
        splits={split: enumerate_items(pairs) for split, pairs in found.items()},
        origin=origin,
    )


def load(entry: Entry, roots: Sequence[Path], split: str, *, download: bool = False) -> Any:
    """The torchvision object of one split, from the first root that holds it; downloads go to the first root."""
    from torchvision import datasets

    kind = getattr(datasets, str(entry.torchvision))
    for root in roots:
        try:
            return kind(str(root), **entry.arguments[split])
        except ImportError as problem:
            raise DataError(f"{entry.name}: torchvision needs another library to read it: {problem}") from problem
        except (RuntimeError, OSError, ValueError, KeyError):
            continue  # absent, incomplete or damaged: torchvision does not tell which
    if not download or entry.dead:
        hint = "its download no longer works" if entry.dead else f"`ironclip data prepare {entry.name}` downloads it"
        raise DataError(f"{entry.name} is not here, or not whole; looked in {', '.join(map(str, roots))}; {hint}")
    try:
        roots[0].mkdir(parents=True, exist_ok=True)
        return kind(str(roots[0]), **entry.arguments[split], download=True)
    except (RuntimeError, OSError, ImportError, ValueError) as problem:
        raise DataError(f"{entry.name}: the download failed: {' '.join(str(problem).split())}") from problem


def _pairs(data: Any, split: str) -> list[tuple[Source, int]]:
    labels = _labels(data)
    files = _files(data)
    if files is None:
        return [(IndexedSource(data, k, f"{split}/{k:06d}"), label) for k, label in enumerate(labels)]
    root = Path(data.root)
    rows = sorted((Path(path).relative_to(root).as_posix(), label) for path, label in zip(files, labels))
    return [(FileSource(root, name), label) for name, label in rows]


def _labels(data: Any) -> list[int]:
    for attribute in ("targets", "labels", "_labels", "y"):
        if hasattr(data, attribute):
            return [int(label) for label in getattr(data, attribute)]
    for attribute in ("_samples", "samples"):
        if hasattr(data, attribute):
            return [int(label) for _, label in getattr(data, attribute)]
    return [int(data[k][1]) for k in range(len(data))]


def _files(data: Any) -> list[str] | None:
    """The image files of a set that keeps files, else None."""
    for attribute in ("_image_files", "_images"):
        if hasattr(data, attribute):
            return [str(path) for path in getattr(data, attribute)]
    for attribute in ("_samples", "samples"):
        if hasattr(data, attribute):
            return [str(path) for path, _ in getattr(data, attribute)]
    return None


def _classes(entry: Entry, data: Any) -> tuple[str, ...]:
    if entry.layout == "torchvision":
        shipped = shipped_classes(entry.name)
        if shipped is not None:
            return shipped
    names = getattr(data, "classes", None) or getattr(data, "categories", None)
    if names is None:
        raise DataError(f"{entry.name}: torchvision gives no class names; hand in a classes file")
    if entry.name == "caltech256":  # "001.ak47", "251.airplanes-101"
        names = [re.sub(r"^\d+\.|-101$", "", name).replace("-", " ") for name in names]
    # torchvision's Imagenette gives every synonym of a class
    return tuple(prompt_name(name if isinstance(name, str) else name[0]) for name in names)
