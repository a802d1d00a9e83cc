import json
import random

import numpy as np
import pytest
import torch
from painted import Painted, listed
from PIL import Image
from torch.testing import assert_close
from torchvision.transforms import RandomResizedCrop

from ironclip.core.errors import DataError, UsageError
from ironclip.core.tensors import generator
from ironclip.data import Dataset, EvalSet, Item, TrainSet, load_images
from ironclip.data.augmentation import crop_box, random_resized_crop_flip
from ironclip.data.images import fit
from ironclip.data.records import FileSource


class Noise(Painted):
    """An image whose pixels all differ."""

    def open(self):
        size = (30 + self.value % 7, 24 + self.value % 5)
        return Image.fromarray(np.random.default_rng(self.value).integers(0, 256, (*size, 3), dtype=np.uint8))


@pytest.fixture
def noise():
    items = {s: tuple(Item(Noise(f"{s}/{k}", 50 * n + k), k % 3, k) for k in range(11)) for n, s in enumerate(("train", "test"))}
    return Dataset("noise", ("a", "b", "c"), ("a {}",), items, "test")


def by_index(batches):
    return {
        int(i): (image, int(label)) for batch in batches for image, label, i in zip(batch.images, batch.labels, batch.indices)
    }


def same(a, b):
    assert a.keys() == b.keys()
    for index in a:
        assert torch.equal(a[index][0], b[index][0])
        assert a[index][1] == b[index][1]


def test_load_images_gives_test_crops(noise):
    pictures = load_images(noise.items("test"), 16)
    assert (pictures.images.shape, pictures.images.dtype) == ((11, 3, 16, 16), torch.uint8)
    for row, item in enumerate(noise.items("test")):
        assert np.array_equal(pictures.images[row].permute(1, 2, 0), fit(item.source.open(), 16))
    assert pictures.labels.tolist() == [k % 3 for k in range(11)]
    squashed = load_images(noise.items("test"), 16, preprocess="squash")
    assert not torch.equal(squashed.images, pictures.images)


def test_images_are_floats_from_zero_to_one(noise):
    ends = Dataset("ends", ("a", "b"), (), {"test": (Item(Painted("0", 0), 0, 0), Item(Painted("1", 255), 1, 1))}, "test")
    (batch,) = EvalSet(ends, resolution=4).batches(8)
    assert batch.images.dtype == torch.float32
    assert batch.images.amin((1, 2, 3)).tolist() == batch.images.amax((1, 2, 3)).tolist() == [0.0, 1.0]


def test_evaluation_runs_in_order_whatever_the_batch_size(noise):
    whole = EvalSet(noise, resolution=16)
    assert len(whole) == 11
    assert [len(batch) for batch in whole.batches(4)] == [4, 4, 3]
    assert torch.cat([batch.indices for batch in whole.batches(4)]).tolist() == list(range(11))
    same(by_index(whole.batches(4)), by_index(whole.batches(11)))
    assert torch.cat([batch.indices for batch in whole.batches(4, start=6)]).tolist() == list(range(6, 11))
    picked = whole.batch([7, 2])
    assert picked.indices.tolist() == [7, 2]
    assert picked.classes == ("a", "b", "c")


def test_limits_are_nested_and_keep_positions(noise):
    small, large = (EvalSet(noise, resolution=16, limit=limit, seed=3) for limit in (4, 8))
    assert set(small.indices.tolist()) < set(large.indices.tolist())
    full = by_index(EvalSet(noise, resolution=16).batches(11))
    for index, (image, label) in by_index(small.batches(3)).items():
        assert torch.equal(image, full[index][0])
        assert label == index % 3


def test_an_epoch_visits_every_picture_once_in_its_own_order(noise):
    train = TrainSet(noise, resolution=16)
    orders = [torch.cat([batch.indices for batch in train.batches(epoch, 1, 4)]).tolist() for epoch in (0, 1)]
    assert sorted(orders[0]) == sorted(orders[1]) == list(range(11))
    assert orders[0] != orders[1]
    assert orders[0] == torch.cat([batch.indices for batch in train.batches(0, 1, 3)]).tolist()


def test_augmentation_depends_neither_on_batch_size_nor_on_resuming(noise):
    train = TrainSet(noise, resolution=16)
    whole = by_index(train.batches(2, 1, 4))
    same(whole, by_index(train.batches(2, 1, 11)))
    resumed = list(TrainSet(noise, resolution=16).batches(2, 1, 4, start=1))
    assert len(resumed) == 2
    for index, (image, _) in by_index(resumed).items():
        assert torch.equal(image, whole[index][0])
    assert any(not torch.equal(image, whole[index][0]) for index, (image, _) in by_index(train.batches(3, 1, 4)).items())
    assert any(not torch.equal(image, whole[index][0]) for index, (image, _) in by_index(train.batches(2, 2, 4)).items())


def test_without_augmentation_training_pictures_are_test_crops(noise):
    train = TrainSet(noise, resolution=16)
    for augment, preprocess in (("none", "crop"), ("squash", "squash")):
        expected = load_images(noise.items("train"), 16, preprocess=preprocess).images
        for index, (image, _) in by_index(train.batches(0, 1, 4, augment=augment)).items():
            assert torch.equal(image, expected[index].float() / 255)


def test_the_last_batch_is_dropped_only_when_asked(noise):
    train = TrainSet(noise, resolution=16)
    assert [len(batch) for batch in train.batches(0, 1, 4)] == [4, 4, 3]
    assert [len(batch) for batch in train.batches(0, 1, 4, drop_last=True)] == [4, 4]
    assert [len(batch) for batch in train.batches(0, 1, 32, drop_last=True)] == [11]
    assert [train.steps(4), train.steps(4, drop_last=True), train.steps(32, drop_last=True)] == [3, 2, 1]


def test_batches_leave_global_random_states_alone(noise):
    states = torch.get_rng_state(), random.getstate(), np.random.get_state()[1].tolist()  # noqa: NPY002
    list(TrainSet(noise, resolution=16).batches(0, 1, 4))
    EvalSet(noise, resolution=16, limit=3)
    assert torch.equal(states[0], torch.get_rng_state())
    assert states[1] == random.getstate()
    assert states[2] == np.random.get_state()[1].tolist()  # noqa: NPY002


def test_training_pictures_are_bounded_but_not_enlarged(noise):
    assert min(TrainSet(noise, resolution=4).picture(0).size) == 8
    assert TrainSet(noise, resolution=4, short_side=None).picture(0).size == noise.items("train")[0].source.open().size
    assert TrainSet(noise, resolution=64).picture(0).size == noise.items("train")[0].source.open().size


def test_random_crops_are_distributed_as_torchvisions():
    sizes = {"ours": [], "theirs": []}
    blank = torch.empty(3, 80, 100)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        for k in range(1500):
            left, top, right, bottom = crop_box(100, 80, torch.rand(10, 4, generator=generator(0, k)).tolist())
            sizes["ours"].append((left, top, right - left, bottom - top))
            y, x, height, width = RandomResizedCrop.get_params(blank, (0.08, 1.0), (3 / 4, 4 / 3))
            sizes["theirs"].append((x, y, width, height))
    ours, theirs = (torch.tensor(found, dtype=torch.float) for found in sizes.values())
    assert_close(ours.mean(0), theirs.mean(0), atol=2.0, rtol=0)
    assert_close(ours.std(0), theirs.std(0), atol=2.0, rtol=0)
    assert (ours[:, 0] + ours[:, 2]).max() <= 100
    assert (ours[:, 1] + ours[:, 3]).max() <= 80


def test_a_crop_covers_at_least_the_share_that_is_asked_for(noise):
    for k in range(200):
        left, top, right, bottom = crop_box(100, 80, torch.rand(10, 4, generator=generator(0, k)).tolist(), 0.5)
        assert (right - left) * (bottom - top) >= 0.49 * 100 * 80
    train = TrainSet(noise, resolution=8)
    views = {area: next(train.batches(1, 1, 4, crop_area=area)).images for area in (0.08, 0.5, 1.0)}
    assert not torch.equal(views[0.08], views[0.5])
    assert not torch.equal(views[0.5], views[1.0])


def test_random_crops_are_cut_from_the_picture_and_mirrored_half_of_the_time():
    ramp = np.broadcast_to(np.arange(100, dtype=np.uint8)[None, :, None], (80, 100, 3))
    flips = 0
    for k in range(200):
        draws = torch.rand(11, 4, generator=generator(0, k)).tolist()
        left, _, right, _ = crop_box(100, 80, draws[:10])
        row = np.asarray(random_resized_crop_flip(Image.fromarray(ramp), 16, generator(0, k)), float)[8, :, 0]
        flips += row[0] > row[-1]
        assert abs(min(row) - left) <= (right - left) / 16 + 1
        assert abs(max(row) - right) <= (right - left) / 16 + 2
    assert 75 < flips < 125


@pytest.mark.parametrize("size", [(1, 1), (1, 50), (300, 2)])
def test_random_crops_of_odd_shapes(size):
    for k in range(10):
        part = random_resized_crop_flip(Image.new("RGB", size, (7, 8, 9)), 8, generator(k))
        assert np.asarray(part).reshape(-1, 3).tolist() == [[7, 8, 9]] * 64


@pytest.fixture
def damaged(tmp_path, paint):
    paths = [paint(tmp_path / "set" / f"{k}.png", k) for k in range(6)]
    paths[1].write_bytes(b"nothing")
    paths[4].write_bytes(paths[4].read_bytes()[:200])
    items = tuple(Item(FileSource(path.parent, path.name), k % 2, k) for k, path in enumerate(paths))
    return Dataset("damaged", ("a", "b"), ("{}",), {"train": items, "test": items}, "test")


def test_bad_pictures_are_left_out_and_named_before_a_run(damaged):
    for found in (EvalSet(damaged, resolution=8), TrainSet(damaged, resolution=8), EvalSet(damaged, resolution=8)):
        assert [bad.name for bad in found.dropped] == ["1.png", "4.png"]
        assert found.dropped[0].reason == "not an image but text that starts 'nothing'; fetch it again"
        assert found.indices.tolist() == [0, 2, 3, 5]
        assert found.labels.tolist() == [0, 0, 1, 1]
    assert sorted(by_index(TrainSet(damaged, resolution=8).batches(0, 1, 3))) == [0, 2, 3, 5]


def test_bad_pictures_can_be_an_error(damaged):
    with pytest.raises(DataError, match=r"1\.png: not an image.* \(and 1 more\); repair or remove it"):
        EvalSet(damaged, resolution=8, bad="fail")
    with pytest.raises(UsageError, match="unknown policy"):
        TrainSet(damaged, resolution=8, bad="ignore")


def test_a_set_without_a_usable_picture_is_refused(tmp_path):
    items = tuple(Item(FileSource(tmp_path, f"{k}.png"), k, k) for k in range(2))
    with pytest.raises(DataError, match=r"none of the 2 images can be used; the first: 0\.png: no such file"):
        load_images(items, 8)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda d: EvalSet(d, "tests", resolution=8), "unknown split 'tests'; did you mean 'test'"),
        (lambda d: EvalSet(d, "val", resolution=8), "toy has no val images; it has train, test"),
        (lambda d: EvalSet(d, resolution=0), "at least 1; got 0"),
        (lambda d: TrainSet(d, resolution=-4), "at least 1; got -4"),
        (lambda d: EvalSet(d, resolution=8, preprocess="squsah"), "did you mean 'squash'"),
        (lambda d: list(EvalSet(d, resolution=8).batches(0)), "batch size .* got 0"),
        (lambda d: list(TrainSet(d, resolution=8).batches(0, 1, -1)), "batch size .* got -1"),
        (lambda d: list(TrainSet(d, resolution=8).batches(0, 1, 2, augment="flip")), "did you mean 'rrc_flip'"),
    ],
)
def test_wrong_options_are_refused(call, message):
    with pytest.raises((UsageError, DataError), match=message):
        call(listed({"train": [0, 1], "test": [1, 0]}))


def test_few_shot_pictures_are_keyed_by_their_place_in_the_full_split(noise):
    from ironclip.data import few_shot

    full = by_index(TrainSet(noise, resolution=16).batches(0, 1, 4))
    few = by_index(TrainSet(few_shot(noise, 2, 1), resolution=16).batches(0, 1, 4))
    assert len(few) == 6
    for index, (image, _) in few.items():
        assert torch.equal(image, full[index][0])


def test_real_pictures_become_batches(shared):
    from ironclip.data import open_dataset

    dataset = open_dataset("eurosat", root=shared / "data")
    subset = EvalSet(dataset, resolution=64, limit=40)
    assert torch.bincount(subset.labels).tolist() == [4] * 10
    index = json.loads((shared / "data" / "eurosat" / "index.json").read_text())
    tests = [item for item in index["items"] if item["split"] == "test"]
    assert [tests[k]["label"] for k in subset.indices.tolist()] == subset.labels.tolist()
