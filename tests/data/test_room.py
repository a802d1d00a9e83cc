"""Decoded images are measured before the first byte is written; old packs give way; a disk that is too small is one line."""

import os
from collections import namedtuple
from pathlib import Path

import pytest

from ironclip.core.errors import DataError
from ironclip.data import room
from ironclip.data.room import can_hold, estimate, make_room, used

Usage = namedtuple("Usage", "total used free")


@pytest.fixture
def cache(tmp_path: Path) -> Path:
    """Two packs of 400 bytes, the first used long ago."""
    for age, name in enumerate(("young", "old")):
        for suffix, content in ((".rgb", bytes(400)), (".json", b"{}")):
            file = tmp_path / f"{name}{suffix}"
            file.write_bytes(content)
            os.utime(file, (1000 - 100 * age, 1000 - 100 * age))
    return tmp_path


def left(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()}


@pytest.fixture
def disk(monkeypatch):
    def free(count: int) -> None:
        monkeypatch.setattr(room.shutil, "disk_usage", lambda _: Usage(0, 0, count))

    monkeypatch.setattr(room, "SPARE", 0)
    return free


def test_few_pictures_are_not_measured(cache, disk):
    disk(0)
    assert estimate(range(room.MANY - 1), lambda _: 1 / 0) == 0
    make_room(cache, range(1), 0)
    assert can_hold(cache, 0)
    assert len(left(cache)) == 4


def test_the_size_is_taken_from_a_few_pictures_spread_over_all(cache, disk):
    asked: list[object] = []
    disk(10**6)
    assert estimate(range(1600), lambda item: asked.append(item) or 2) == 3200
    assert asked == list(range(0, 1600, 100))
    make_room(cache, range(1600), 3200)
    assert len(left(cache)) == 4


def test_a_disk_can_hold_what_fits_beside_or_instead_of_old_packs(cache, disk):
    disk(700)
    assert can_hold(cache, 1500)
    assert not can_hold(cache, 1501)
    assert not can_hold(cache / "not" / "there", 701)


def test_the_pack_that_was_not_used_for_longest_gives_way_first(cache, disk):
    disk(1400)
    make_room(cache, range(1600), 1600)
    assert left(cache) == {"young.rgb", "young.json"}


def test_a_pack_that_is_used_stays_longer(cache, disk):
    used(cache / "old.rgb")
    disk(1400)
    make_room(cache, range(1600), 1600)
    assert left(cache) == {"old.rgb", "old.json"}


def test_a_disk_that_is_too_small_is_said_with_the_size_and_nothing_is_deleted(cache, disk):
    disk(700)
    with pytest.raises(
        DataError, match=r"^1,600 decoded images take about 0\.0 GB, and 0\.0 GB can be used in .* IRONCLIP_CACHE"
    ):
        make_room(cache, range(1600), 1600)
    assert len(left(cache)) == 4
    with pytest.raises(DataError, match="1,600 decoded images"):
        make_room(cache / "not" / "there", range(1600), 1600)
