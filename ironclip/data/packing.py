"""Decoded images in one memory-mapped file, so that training and attacks never wait for JPEG decoding.

A pack is a file of raw RGB bytes, one image after the other, and a JSON file with their sizes and with the images that could not
be used. Its name is the hash of everything it depends on: names, sizes and times of the files, the transform. So bad images are
found and named before a run begins. Where a pack would be too large, every image is decoded once as a check, and again whenever
it is used.
"""

import os
import warnings
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from functools import partial
from itertools import accumulate
from json import JSONDecodeError, loads
from pathlib import Path
from typing import Literal

import numpy as np
import PIL
from PIL import Image

from ironclip.core.errors import DataError
from ironclip.core.files import write_json, write_whole
from ironclip.data.images import MAX_PIXELS, Bad, BadPicture, decode_into
from ironclip.data.records import Item, digest
from ironclip.data.room import can_hold, estimate, make_room, used

Cache = Path | str | Literal[False] | None
"""A folder; None for IRONCLIP_CACHE or the user's cache folder; False to keep images in memory only."""
Progress = Callable[[int, int], None]
"""(images done, images in all)."""
FORMAT = 1


@dataclass(frozen=True)
class Packed:
    """Decoded images. data: [bytes] uint8; sizes: (height, width) of each; kept: positions of the usable items.

    Without data they have to be decoded where they are used.
    """

    data: np.ndarray | None
    sizes: tuple[tuple[int, int], ...]
    kept: tuple[int, ...]
    dropped: tuple[Bad, ...]

    def __len__(self) -> int:
        return len(self.kept)

    def offsets(self) -> list[int]:
        return list(accumulate((3 * height * width for height, width in self.sizes), initial=0))


def cache_folder(cache: Path | str | None = None) -> Path:
    """Where packs are kept: the argument, IRONCLIP_CACHE, or the user's cache folder."""
    if cache is not None:
        return Path(cache)
    if named := os.environ.get("IRONCLIP_CACHE"):
        return Path(named)
    base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(base) / "ironclip"


def pack(
    items: Sequence[Item],
    transform: Callable[[Image.Image], Image.Image],
    recipe: Sequence[object],
    *,
    cache: Cache = None,
    max_pixels: int = MAX_PIXELS,
    progress: Progress | None = None,
    largest: int | None = None,
) -> Packed:
    """The items' images, decoded and transformed, from the cache if they are there.

    Args:
        recipe: what the transform does, as JSON values; part of the name of the cache file.
        largest: largest number of bytes to keep; above it, or on a disk that is too small, no pack is kept. None: a small disk is
            an error.

    Raises:
        DataError: the cache folder cannot be written, or no image at all can be used.
    """
    if cache is False:
        chunks: list[bytes] = []
        decoded = _decode_all(items, transform, max_pixels, chunks.append, progress)
        return _packed(np.frombuffer(bytearray(b"".join(chunks)), np.uint8), decoded, items)
    key = digest([FORMAT, PIL.__version__, list(recipe), max_pixels, [[item.source.name, item.source.stamp()] for item in items]])
    folder = cache_folder(cache)
    pixels, description, seen = (folder / f"{key[:32]}{end}" for end in (".rgb", ".json", ".seen.json"))
    facts = _read(description, pixels)
    if facts is not None:
        used(pixels)
        return _packed(_mapped(pixels), facts, items)
    fill = partial(_decode_all, items, transform, max_pixels, progress=progress)
    if largest is not None and (facts := _json(seen)) is not None:
        return _packed(None, facts, items)
    needed = estimate(items, partial(_size, transform=transform, max_pixels=max_pixels))
    with _writing(folder):
        if largest is not None and (needed > largest or not can_hold(folder, needed)):
            facts = fill(lambda _: None)
            write_json(seen, facts)
            return _packed(None, facts, items)
        make_room(folder, items, needed)
        found: list[dict] = []
        write_whole(pixels, lambda file: found.append(_fill(file, fill)))
        write_json(description, found[0])
    return _packed(_mapped(pixels), found[0], items)


@contextmanager
def _writing(folder: Path) -> Iterator[None]:
    try:
        yield
    except OSError as problem:
        raise DataError(
            f"cannot write decoded images to the cache folder {folder}: {problem.strerror or problem}; "
            "name another folder with IRONCLIP_CACHE"
        ) from problem


def _mapped(pixels: Path) -> np.ndarray:
    """The bytes of a pack: copy-on-write, because torch refuses read-only memory; an empty file cannot be mapped."""
    return np.memmap(pixels, np.uint8, "c") if pixels.stat().st_size else np.empty(0, np.uint8)


def _size(item: Item, *, transform: Callable[[Image.Image], Image.Image], max_pixels: int) -> int:
    """Bytes of a decoded image; 0 for one that cannot be used."""
    try:
        return int(decode_into(item.source, lambda image: np.asarray(transform(image)), max_pixels).nbytes)
    except BadPicture:
        return 0


def _packed(data: np.ndarray | None, facts: dict, items: Sequence[Item]) -> Packed:
    dropped = tuple(Bad(**bad) for bad in facts["dropped"])
    if not facts["kept"]:
        reason = f"; the first: {dropped[0].name}: {dropped[0].reason}" if dropped else ""
        raise DataError(f"none of the {len(items)} images can be used{reason}")
    return Packed(data, tuple((h, w) for h, w in facts["sizes"]), tuple(facts["kept"]), dropped)


def _json(file: Path) -> dict | None:
    """What a file holds, or None where it is not there or damaged."""
    try:
        return dict(loads(file.read_text(encoding="utf-8")))
    except (OSError, JSONDecodeError):
        return None


def _read(description: Path, pixels: Path) -> dict | None:
    """The facts of a complete pack, or None."""
    facts = _json(description)
    complete = facts is not None and pixels.is_file() and pixels.stat().st_size == sum(3 * h * w for h, w in facts["sizes"])
    return facts if complete else None


def _fill(file: Path, fill: Callable[[Callable[[bytes], object]], dict]) -> dict:
    with file.open("wb") as out:
        return fill(out.write)


def _decode_all(
    items: Sequence[Item],
    transform: Callable[[Image.Image], Image.Image],
    max_pixels: int,
    write: Callable[[bytes], object],
    progress: Progress | None,
) -> dict:
    facts: dict = {"sizes": [], "kept": [], "dropped": []}

    def one(item: Item) -> np.ndarray | BadPicture:
        try:
            return decode_into(item.source, lambda image: np.asarray(transform(image)), max_pixels)
        except BadPicture as problem:
            return problem

    with warnings.catch_warnings():  # here, because threads share the filters
        warnings.simplefilter("ignore")
        for position, outcome in enumerate(in_order(one, items)):
            if isinstance(outcome, BadPicture):
                facts["dropped"].append(asdict(Bad(outcome.name, outcome.reason)))
            else:
                write(outcome.tobytes())
                facts["kept"].append(position)
                facts["sizes"].append([outcome.shape[0], outcome.shape[1]])
            if progress is not None:
                progress(position + 1, len(items))
    return facts


def in_order(function: Callable, items: Sequence, workers: int | None = None) -> Iterator:
    """function(item) for each item, in order, on threads, never more than a few ahead of the consumer."""
    workers = workers or min(os.cpu_count() or 1, 16)
    with ThreadPoolExecutor(workers) as pool:
        for start in range(0, len(items), 8 * workers):
            yield from pool.map(function, items[start : start + 8 * workers])
