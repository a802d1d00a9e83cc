"""The data set: class names, prompt templates, and lists of images that are opened when needed."""

import hashlib
import io
import json
import os
import stat
import zipfile
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property, lru_cache
from pathlib import Path
from typing import Protocol

from PIL import Image

from ironclip.core.errors import DataError, unknown
from ironclip.core.shown import number_of
from ironclip.data.lists import check_names, text_of

SPLITS = ("train", "val", "test")
TEMPLATE = "a photo of a {}."
MOST_CLASSES = 100_000
"""As many as a model that leaves the house may have."""
MAX_PICTURE = 600_000_000
"""Bytes of one image's file; 100 million pixels of 16 bits in RGB take this much."""


class Source(Protocol):
    """Something that opens an image. Its name is relative to the data set, so that lists are the same on every machine."""

    @property
    def name(self) -> str: ...

    def open(self) -> Image.Image:
        """The image as PIL opens it: the header is read, the pixels possibly not yet."""
        ...

    def stamp(self) -> str:
        """A text that changes with the image's bytes, made without reading them."""
        ...


@dataclass(frozen=True, slots=True)
class FileSource:
    """An image file, named by its path below a folder."""

    folder: Path
    name: str

    @property
    def path(self) -> Path:
        return self.folder / self.name

    def open(self) -> Image.Image:
        self.size()
        return Image.open(self.path)

    def size(self) -> int:
        """Bytes of the file; OSError where it is a pipe or a device, which may never end."""
        status = self.path.stat()
        if not stat.S_ISREG(status.st_mode):
            raise OSError("no regular file, but a folder, a pipe or a device")
        return bounded(status.st_size)

    def content(self, limit: int) -> bytes:
        """The first bytes of the file."""
        self.size()
        with self.path.open("rb") as file:
            return file.read(limit)

    def stamp(self) -> str:
        try:
            status = self.path.stat()
        except OSError:
            return "missing"
        return f"{status.st_size}:{status.st_mtime_ns}"


@dataclass(frozen=True, slots=True)
class CaptionedFile(FileSource):
    """An image file with a text of its own."""

    caption: str = ""


@dataclass(frozen=True, slots=True)
class ZipSource:
    """A member of a zip archive."""

    archive: Path
    name: str

    def open(self) -> Image.Image:
        return Image.open(io.BytesIO(self.content(self.size())))

    def size(self) -> int:
        """Bytes of the image unpacked, as the archive says; no more are ever unpacked."""
        return bounded(self._opened().getinfo(self.name).file_size)

    def content(self, limit: int) -> bytes:
        """The first bytes of the image."""
        with self._opened().open(self.name) as member:
            return member.read(limit)

    def stamp(self) -> str:
        try:
            return str(self._opened().getinfo(self.name).CRC)
        except KeyError:
            return "missing"

    def _opened(self) -> zipfile.ZipFile:
        status = self.archive.stat()
        return _archive(self.archive, status.st_size, status.st_mtime_ns, os.getpid())


def bounded(size: int) -> int:
    """The size of an image's file in bytes; OSError above the limit."""
    if size > MAX_PICTURE:
        raise OSError(f"{size / 1e6:.0f} million bytes are more than the limit of {MAX_PICTURE / 1e6:g} million")
    return size


@lru_cache(maxsize=8)
def _archive(path: Path, size: int, changed: int, process: int) -> zipfile.ZipFile:
    """An open archive; reopened when the file was replaced, and in each process, because processes must not share a position."""
    return zipfile.ZipFile(path)


@dataclass(frozen=True, slots=True)
class Item:
    """One image: its source, its label, and its position in the full split."""

    source: Source
    label: int
    index: int


def _listed(item: Item) -> list[object]:
    own = [item.source.caption] if isinstance(item.source, CaptionedFile) else []
    return [item.source.name, item.label, *own]


def caption_of(item: Item) -> str:
    """The text that belongs to this image alone, "" where the data have none."""
    return str(getattr(item.source, "caption", ""))


@dataclass(frozen=True, repr=False)
class Dataset:
    """Class names ready for a prompt, templates (`{}` is the class name) and the items of `train`, `val` and `test`.

    `origin` says where the lists come from, `notes` what a user should know about them (names that look like ids, a
    split that is ours). An item's `index` survives few-shot sampling and base/new: it is the position in the full split.

    Raises:
        DataError: fewer than two classes, a label without a class, no image at all.
    """

    name: str
    classes: tuple[str, ...]
    templates: tuple[str, ...]
    splits: Mapping[str, tuple[Item, ...]]
    origin: str
    notes: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        for split in self.splits:
            if split not in SPLITS:
                raise unknown("split", split, SPLITS)
        text_of(self.name, "the data set", "its name")
        if len(self.classes) > MOST_CLASSES:
            raise DataError(f"{self.name}: {len(self.classes):,} classes are more than the limit of {MOST_CLASSES:,}")
        check_names(self.classes, self.name)
        if len(self.classes) < 2:
            raise DataError(f"{self.name}: at least two classes are needed; found {len(self.classes)}: {list(self.classes)}")
        if not any(self.splits.values()):
            raise DataError(f"{self.name}: found no image; expected .jpg, .png, .webp or similar files")
        for split, items in self.splits.items():
            for item in items:
                if not 0 <= item.label < len(self.classes):
                    raise DataError(
                        f"{self.name}: label {item.label} of {item.source.name!r} ({split}) is out of range; "
                        f"{len(self.classes)} classes have labels 0 to {len(self.classes) - 1}"
                    )
        for template in self.templates:
            if "{}" not in template:
                raise DataError(f"{self.name}: template {template!r} has no place for the class name; write {{}} there")
        object.__setattr__(self, "splits", {split: tuple(self.splits.get(split, ())) for split in SPLITS})

    def __str__(self) -> str:
        counts = " / ".join(f"{len(items)} {split}" for split, items in self.splits.items())
        return f"{self.name}: {number_of(len(self.classes), 'class')}, {counts} ({self.origin})"

    def __repr__(self) -> str:
        return f"Dataset({self})"

    def items(self, split: str) -> tuple[Item, ...]:
        """The items of one split.

        Raises:
            UsageError: no such split.
            DataError: the split is empty.
        """
        if split not in SPLITS:
            raise unknown("split", split, SPLITS)
        if not self.splits[split]:
            filled = ", ".join(name for name, items in self.splits.items() if items)
            raise DataError(f"{self.name} has no {split} images; it has {filled}")
        return self.splits[split]

    def counts(self, split: str) -> tuple[int, ...]:
        """Images of each class in one split."""
        found = Counter(item.label for item in self.splits[split])
        return tuple(found[label] for label in range(len(self.classes)))

    @cached_property
    def sha256(self) -> str:
        """Hash of class names and lists (names, labels, captions of a table), for the record; two equal hashes mean one
        benchmark."""
        lists = {split: [_listed(item) for item in items] for split, items in self.splits.items()}
        return digest({"classes": self.classes, "splits": lists})

    def images_sha256(self, split: str) -> str:
        """Hash of the class names and of one split's list: equal where the same images are scored, whatever was trained on."""
        return digest({"classes": self.classes, "images": [_listed(item) for item in self.items(split)]})

    def changed(self, **fields: object) -> "Dataset":
        """The same data set with other fields."""
        return replace(self, **fields)  # type: ignore[arg-type]


def digest(value: object) -> str:
    """sha256 of the canonical JSON form of a value."""
    text = json.dumps(value, ensure_ascii=False, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()  # file names need not be valid UTF-8


def enumerate_items(pairs: Sequence[tuple[Source, int]]) -> tuple[Item, ...]:
    """Items from (source, label) in list order."""
    return tuple(Item(source, label, index) for index, (source, label) in enumerate(pairs))
