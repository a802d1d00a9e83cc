"""Room on the disk for decoded pictures: how much they will take, whether it is there, and which old packs give way."""

import os
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path

from ironclip.core.errors import DataError

MANY = 256  # fewer pictures are packed without a question
SAMPLE = 16
SPARE = 500_000_000  # bytes that stay free on the disk


def make_room(folder: Path, items: Sequence[object], size_of: Callable[[object], int]) -> int:
    """About how many bytes these pictures will take in the folder, with so much free on its disk; 0 for few pictures.

    Old packs, those not used for longest, are deleted where that makes the room; if it cannot, nothing is deleted.

    Args:
        size_of: item -> bytes of its decoded picture; asked for a few, spread over all.

    Raises:
        DataError: the disk is too small; the message states the size.
    """
    if len(items) < MANY:
        return 0
    chosen = items[:: max(1, len(items) // SAMPLE)][:SAMPLE]
    needed = sum(map(size_of, chosen)) * len(items) // len(chosen)
    there = folder
    while not there.exists():
        there = there.parent
    free = shutil.disk_usage(there).free - SPARE
    old = sorted(folder.glob("*.rgb"), key=lambda pack: pack.stat().st_mtime) if free < needed else []
    if free + sum(pack.stat().st_size for pack in old) < needed:
        raise DataError(
            f"{len(items):,} decoded pictures take about {needed / 1e9:.1f} GB, and {max(0, free) / 1e9:.1f} GB can be used in "
            f"the cache folder {folder}; name another one with IRONCLIP_CACHE, or take fewer pictures (--shots, --limit)"
        )
    for pack in old:
        if free >= needed:
            break
        free += pack.stat().st_size
        pack.unlink(missing_ok=True)
        pack.with_suffix(".json").unlink(missing_ok=True)
    return needed


def used(pack: Path) -> None:
    """Note that a pack is used now, so that others give way before it; a folder that cannot be written is left alone."""
    try:
        os.utime(pack)
    except OSError:
        return
