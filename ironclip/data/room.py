"""Disk space for decoded images: how much is needed, whether it is free, and which old packs are deleted."""

import os
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TypeVar

from ironclip.core.errors import DataError

T = TypeVar("T")
MANY = 256  # fewer images are packed without a question
SAMPLE = 16
LARGEST = 50_000_000_000
"""Bytes of decoded training images that are kept; more are decoded anew in each epoch."""
SPARE = 500_000_000  # bytes that stay free on the disk


def estimate(items: Sequence[T], size_of: Callable[[T], int]) -> int:
    """About how many bytes these images take decoded; 0 for few images.

    Args:
        size_of: item -> bytes of its decoded image; asked for a few, spread over all.
    """
    if len(items) < MANY:
        return 0
    chosen = items[:: max(1, len(items) // SAMPLE)][:SAMPLE]
    return sum(map(size_of, chosen)) * len(items) // len(chosen)


def can_hold(folder: Path, needed: int) -> bool:
    """Whether the folder's disk has this many bytes free, also counting the packs in the folder."""
    return not needed or free_bytes(folder) + sum(pack.stat().st_size for pack in folder.glob("*.rgb")) >= needed


def free_bytes(folder: Path) -> int:
    """Bytes on the disk of a folder, which may not be there yet, that packs may take."""
    while not folder.exists():
        folder = folder.parent
    return max(0, shutil.disk_usage(folder).free - SPARE)


def make_room(folder: Path, items: Sequence[object], needed: int) -> None:
    """Make `needed` bytes free on the folder's disk.

    The packs not used for longest are deleted, if that makes enough space; if not, nothing is deleted.

    Raises:
        DataError: the disk is too small; the message states the size.
    """
    free = free_bytes(folder)
    if not can_hold(folder, needed):
        raise DataError(
            f"{len(items):,} decoded images take about {needed / 1e9:.1f} GB, and {free / 1e9:.1f} GB can be used in "
            f"the cache folder {folder}; name another one with IRONCLIP_CACHE, or take fewer images (--shots, --limit)"
        )
    for pack in sorted(folder.glob("*.rgb"), key=lambda pack: pack.stat().st_mtime):
        if free >= needed:
            break
        free += pack.stat().st_size
        pack.unlink(missing_ok=True)
        pack.with_suffix(".json").unlink(missing_ok=True)


def used(pack: Path) -> None:
    """Note that a pack is used now, so that others are deleted before it. A read-only folder is left as it is."""
    try:
        os.utime(pack)
    except OSError:
        return
