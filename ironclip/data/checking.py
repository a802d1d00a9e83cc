"""The functions behind `ironclip data list`, `check` and `prepare`. They return values and print nothing."""

import hashlib
import warnings
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from PIL import Image

from ironclip.core.errors import DataError, UsageError, unknown
from ironclip.core.shown import number_of
from ironclip.data.archives import archive_classes, is_archive
from ironclip.data.catalogue import Entry, catalogue
from ironclip.data.coop import split_file
from ironclip.data.images import MAX_PIXELS, Bad, BadPicture, decode_into
from ironclip.data.opening import Root, data_roots, open_dataset
from ironclip.data.packing import Progress, cache_folder, in_order
from ironclip.data.records import SPLITS, Dataset, Item
from ironclip.data.remarks import NO_TEST, too_few


@dataclass(frozen=True)
class Availability:
    """Whether a known set is on this machine. found: its folder; looked: the places tried; how: how to get it, in one
    sentence."""

    name: str
    found: str | None
    missing: str | None
    looked: tuple[str, ...]
    how: str
    classes: int | None
    licence: str
    source: str

    @property
    def ready(self) -> bool:
        return self.found is not None and self.missing is None


def available(root: Root = None) -> tuple[Availability, ...]:
    """Every set known by name, and every zip set below the data roots; opens no image and imports no torch."""
    roots = data_roots(root)
    known = tuple(_look(entry, roots) for entry in catalogue().values())
    inside = sorted(path for base in roots if base.is_dir() for path in base.iterdir() if path.name not in catalogue())
    return known + tuple(
        Availability(path.name, str(path), None, (str(path),), "it is there", classes, "see its index.json", "a data root")
        for path in inside
        if (classes := archive_classes(path)) is not None
    )


def _look(entry: Entry, roots: Sequence[Path]) -> Availability:
    packed = [root / entry.name for root in roots]
    places = [root / images for root in roots for images in entry.images]
    found = next((place for place in packed if is_archive(place)), None)
    missing = None
    if found is None:
        found = next((place for place in places if place.exists()), None)
        if found is not None and entry.split and split_file(entry, roots) is None:
            missing = f"the split file {entry.split}"
    generated = entry.layout == "generated"
    return Availability(
        entry.name,
        "drawn when needed" if generated else None if found is None else str(found),
        missing,
        () if generated else tuple(map(str, packed + places)),
        entry.how(),
        entry.classes,
        entry.licence,
        entry.source,
    )


@dataclass(frozen=True)
class Report:
    """What a check found. counts: images of each split; bad: split -> images that cannot be used; problems: what is wrong
    with the set as a whole; repeated: images with identical pixels in two splits (what is learned is measured) or under two
    classes."""

    name: str
    problems: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
    origin: str = ""
    sha256: str | None = None
    classes: tuple[str, ...] = ()
    counts: Mapping[str, int] = field(default_factory=dict)
    smallest_class: Mapping[str, int] = field(default_factory=dict)
    bad: Mapping[str, tuple[Bad, ...]] = field(default_factory=dict)
    repeated: tuple[tuple[str, ...], ...] = ()

    @property
    def ok(self) -> bool:
        """Whether a run can start and be trusted without any repair."""
        return not self.problems and not any(self.bad.values()) and not self.repeated


def check(
    dataset: Dataset | str | Path,
    *,
    max_pixels: int = MAX_PIXELS,
    progress: Progress | None = None,
    decode: bool = True,
    shots: int | None = None,
    **options: Any,
) -> Report:
    """Everything wrong with a set: what is missing, images that cannot be used with reasons, images in two splits.

    Args:
        dataset: a set, or its name or path with the options of `open_dataset`; a set that cannot be opened is a problem in
            the report, an unknown name an error.
        decode: read every image; otherwise only the lists are checked.
        shots: training images wanted of each class; too few in a class are a problem.
        progress: called with (images done, images in all).

    Raises:
        UsageError: unknown name or option; fewer than 1 shot.
    """
    if shots is not None and shots < 1:
        raise UsageError(f"shots is a number of training images of each class, at least 1; got {shots}")
    if not isinstance(dataset, Dataset):
        try:
            dataset = open_dataset(dataset, **options)
        except DataError as problem:
            return Report(name=str(dataset), problems=(str(problem),))
    notes = dataset.notes
    counts = {split: len(dataset.splits[split]) for split in SPLITS}
    expected = catalogue()[dataset.name].counts if dataset.name in catalogue() else None
    if expected is not None and tuple(counts.values()) != expected:
        notes += (f"{_slashed(counts.values())} images (train / val / test); the benchmark has {_slashed(expected)}",)
    problems: tuple[str, ...] = () if dataset.splits["test"] else (NO_TEST,)
    problems += too_few(dataset, shots) if shots is not None else ()
    bad, repeated, again = _read_all(dataset, max_pixels, progress) if decode else ({}, (), ())
    notes = (*(note for note in notes if note not in problems), *again)
    return Report(
        name=dataset.name,
        problems=problems,
        notes=notes,
        origin=dataset.origin,
        sha256=dataset.sha256,
        classes=dataset.classes,
        counts=counts,
        smallest_class={split: min(dataset.counts(split)) for split in SPLITS},
        bad=bad,
        repeated=repeated,
    )


def _slashed(numbers: Any) -> str:
    return " / ".join(str(number) for number in numbers)


Groups = tuple[tuple[str, ...], ...]


def _read_all(dataset: Dataset, max_pixels: int, progress: Any) -> tuple[dict[str, tuple[Bad, ...]], Groups, tuple[str, ...]]:
    """(bad images of each split, groups of one image in several splits or classes, notes on other repeats)."""
    rows = [(split, item) for split in SPLITS for item in dataset.splits[split]]
    bad: dict[str, list[Bad]] = {split: [] for split in SPLITS}
    same: dict[bytes, list[tuple[str, Item]]] = defaultdict(list)

    def one(row: tuple[str, Item]) -> bytes | BadPicture:
        try:
            return decode_into(row[1].source, _pixels, max_pixels)
        except BadPicture as problem:
            return problem

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for done, (row, outcome) in enumerate(zip(rows, in_order(one, rows)), 1):
            if isinstance(outcome, BadPicture):
                bad[row[0]].append(Bad(outcome.name, outcome.reason))
            else:
                same[outcome].append(row)
            if progress is not None:
                progress(done, len(rows))
    repeated = tuple(
        tuple(f"{split}: {item.source.name}" for split, item in group)
        for group in same.values()
        if len({(split, item.label) for split, item in group}) > 1
    )
    inside = [group for group in same.values() if len(group) > 1 and len({(split, item.label) for split, item in group}) == 1]
    which = "" if not inside else ", ".join(item.source.name for _, item in inside[0][:3])
    twice = number_of(len(inside), "image", "is", "are")
    notes = (f"{twice} more than once in one split and class, e.g. {which}",) if inside else ()
    return {split: tuple(found) for split, found in bad.items()}, repeated, notes


def _pixels(image: Image.Image) -> bytes:
    return hashlib.blake2b(image.tobytes(), digest_size=16, key=str(image.size).encode()).digest()


@dataclass(frozen=True)
class Prepared:
    """The result of `prepare`: the set, and for each split the number of decoded images and those left out."""

    dataset: Dataset
    resolution: int
    cache: Path
    decoded: Mapping[str, int]
    dropped: Mapping[str, tuple[Bad, ...]]


def prepare(
    name: str | Path,
    *,
    resolution: int = 224,
    splits: Sequence[str] = SPLITS,
    cache: Path | str | None = None,
    download: bool = True,
    progress: Progress | None = None,
    **options: Any,
) -> Prepared:
    """Fetch a set (through torchvision or the hub, where possible) and decode its test crops into the cache.

    Args:
        resolution: that of the backbone to be used, in pixels.
        options: those of `open_dataset`.

    Raises:
        UsageError: unknown name or split.
        DataError: the set is not there and cannot be fetched; the message says how to get it.
    """
    from ironclip.data.batches import load_images

    for split in splits:
        if split not in SPLITS:
            raise unknown("split", split, SPLITS)
    if resolution < 1:
        raise UsageError(f"resolution is a number of pixels, at least 1; got {resolution}")
    dataset = open_dataset(name, download=download, **options)
    decoded: dict[str, int] = {}
    dropped: dict[str, tuple[Bad, ...]] = {}
    for split in splits:
        if dataset.splits[split]:
            pictures = load_images(dataset.items(split), resolution, cache=cache, progress=progress)
            decoded[split], dropped[split] = len(pictures), pictures.dropped
    return Prepared(dataset, resolution, cache_folder(cache), decoded, dropped)
