"""Training images that would take too much room are decoded anew in each epoch; nothing else changes."""

import os

import numpy as np
import pytest
import torch

from ironclip.core.errors import DataError
from ironclip.data import TrainSet, open_dataset, packing, room


@pytest.fixture
def sets(photos, tmp_path, monkeypatch):
    """(kept, decoded anew) of the same folder, in which one image is damaged."""
    monkeypatch.setattr(room, "MANY", 1)
    name = open_dataset(photos).items("train")[1].source.name
    (photos / name).write_bytes((photos / name).read_bytes()[:30])
    return lambda: [
        TrainSet(open_dataset(photos), resolution=8, largest=largest, cache=tmp_path / str(largest)) for largest in (10**9, 0)
    ]


@pytest.mark.parametrize("augment", ["rrc_flip", "none", "squash"])
def test_batches_are_those_of_kept_pictures(sets, tmp_path, augment):
    kept, anew = sets()
    assert [len(list((tmp_path / name).glob("*.rgb"))) for name in ("1000000000", "0")] == [1, 0]
    assert anew._data is None
    assert anew.dropped == kept.dropped
    assert len(anew.dropped) == 1
    for epoch, start in ((1, 0), (2, 2)):
        ours, theirs = (list(data.batches(epoch, 5, 4, augment=augment, start=start)) for data in (anew, kept))
        assert len(ours) == len(theirs)
        for one, other in zip(ours, theirs, strict=True):
            assert torch.equal(one.images, other.images)
            assert torch.equal(one.indices, other.indices)
            assert torch.equal(one.labels, other.labels)


def test_what_can_be_used_is_found_out_once(sets, monkeypatch):
    whole = sets()[1]
    calls = []
    original = packing.decode_into
    monkeypatch.setattr(packing, "decode_into", lambda source, *rest: calls.append(source.name) or original(source, *rest))
    again = sets()[1]
    assert calls == []
    assert again.dropped == whole.dropped
    assert np.array_equal(again.picture(3), whole.picture(3))


def test_a_disk_that_is_too_small_for_the_pack_makes_no_training_fail(sets, monkeypatch):
    monkeypatch.setattr(room, "free_bytes", lambda folder: 10)
    assert [data._data for data in sets()] == [None, None]


def test_a_picture_that_is_gone_in_the_middle_is_one_line(sets, photos):
    anew = sets()[1]
    os.remove(photos / anew._sources[2].name)
    with pytest.raises(DataError, match=r"\.png: no such file, though it could be used when the training was prepared"):
        anew.picture(2)


def test_all_seeds_share_the_pack_of_the_same_pictures(photos, tmp_path):
    for seed in (1, 2):
        next(TrainSet(open_dataset(photos), resolution=8).batches(1, seed, 4))
    assert len(list((tmp_path / "cache").glob("*.rgb"))) == 1
