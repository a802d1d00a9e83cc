import errno
import os

import numpy as np
import pytest

from ironclip.core.errors import DataError
from ironclip.data import EvalSet, load_images, open_dataset
from ironclip.data import packing as module
from ironclip.data.packing import cache_folder


def decodings(monkeypatch):
    """A list that grows with every image decoded."""
    calls = []
    original = module.decode_into
    monkeypatch.setattr(module, "decode_into", lambda source, *rest: calls.append(source.name) or original(source, *rest))
    return calls


def test_the_second_time_nothing_is_decoded(photos, tmp_path, monkeypatch):
    calls = decodings(monkeypatch)
    items = open_dataset(photos).items("train")
    first = load_images(items, 8)
    assert len(calls) == len(items)
    again = load_images(items, 8)
    assert len(calls) == len(items)
    assert np.array_equal(first.images, again.images)
    assert sorted(path.suffix for path in (tmp_path / "cache").iterdir()) == [".json", ".rgb"]


def test_what_changes_a_picture_changes_the_pack(photos, paint, monkeypatch):
    items = open_dataset(photos).items("train")
    load_images(items, 8)
    calls = decodings(monkeypatch)
    load_images(items, 9)
    load_images(items, 8, preprocess="squash")
    load_images(items[:-1], 8)
    assert len(calls) == 3 * len(items) - 1
    paint(photos / items[0].source.name, seed=999)
    os.utime(photos / items[0].source.name, ns=(1, 1))
    load_images(items, 8)
    assert len(calls) == 4 * len(items) - 1


def test_a_pack_cut_short_is_made_anew(photos, tmp_path, monkeypatch):
    items = open_dataset(photos).items("train")
    whole = load_images(items, 8).images.clone()
    (pack,) = (tmp_path / "cache").glob("*.rgb")
    pack.write_bytes(pack.read_bytes()[:-1])
    assert np.array_equal(load_images(items, 8).images, whole)
    (facts,) = (tmp_path / "cache").glob("*.json")
    facts.write_text("{")
    assert np.array_equal(load_images(items, 8).images, whole)


def test_pictures_can_stay_in_memory(photos, tmp_path):
    items = open_dataset(photos).items("train")
    assert np.array_equal(load_images(items, 8, cache=False).images, load_images(items, 8, cache=tmp_path / "other").images)
    assert not (tmp_path / "cache").exists()


def test_writing_to_a_batch_does_not_reach_the_pack(photos):
    items = open_dataset(photos).items("train")
    first = load_images(items, 8)
    before = first.images.clone()
    first.images[0] = 0
    assert np.array_equal(load_images(items, 8).images, before)


def test_a_full_disk_is_one_line_and_leaves_nothing(photos, tmp_path, monkeypatch):
    def full(*_):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(DataError, match=r"cannot write decoded images to the cache folder .*No space left.*IRONCLIP_CACHE"):
        EvalSet(open_dataset(photos), resolution=8)
    assert list((tmp_path / "cache").iterdir()) == []


def test_a_cache_folder_that_is_a_file_is_one_line(photos, tmp_path):
    (tmp_path / "cache").write_text("")
    with pytest.raises(DataError, match="cannot write decoded images to the cache folder"):
        EvalSet(open_dataset(photos), resolution=8)


def test_progress_counts_every_picture(photos):
    seen = []
    items = open_dataset(photos).items("train")
    load_images(items, 8, progress=lambda done, total: seen.append((done, total)))
    assert seen == [(k + 1, len(items)) for k in range(len(items))]


def test_the_cache_folder_is_the_argument_the_variable_or_the_users(tmp_path, monkeypatch):
    assert cache_folder(tmp_path / "x") == tmp_path / "x"
    assert cache_folder() == tmp_path / "cache"
    monkeypatch.delenv("IRONCLIP_CACHE")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    assert cache_folder() == tmp_path / "xdg" / "ironclip"
