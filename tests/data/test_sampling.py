import gzip
import json
import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from painted import Painted, listed

from ironclip.core.errors import DataError, UsageError
from ironclip.data.records import SPLITS, Item
from ironclip.data.sampling import base_to_new, few_shot, stratified_split, subset


def reference_few_shot(train, val, shots, seed):
    """Positions drawn the way CoOp with Dassl does: the global generator, labels in order of appearance, train then val."""
    before = random.getstate()
    random.seed(seed)
    drawn = []
    for labels, count in ((train, shots), (val, min(shots, 4))):
        tracker = {}
        for position, label in enumerate(labels):
            if label not in tracker:
                tracker[label] = []
            tracker[label].append(position)
        chosen = []
        for members in tracker.values():
            chosen.extend(random.sample(members, count) if len(members) >= count else members)
        drawn.append(chosen)
    random.setstate(before)
    return drawn


def positions(dataset, split):
    return [item.index for item in dataset.splits[split]]


def test_few_shot_draws_known_positions():
    # computed once with `random.seed(1); random.sample(...)` in the order of first appearance: label 1, 0, 2
    toy = listed({"train": [1, 1, 0, 2, 0, 1, 2, 0, 1, 2], "val": [0, 1, 2, 0, 1, 2], "test": [0]})
    shot = few_shot(toy, 2, seed=1)
    assert positions(shot, "train") == [1, 5, 2, 4, 3, 6]
    assert positions(shot, "val") == [3, 0, 4, 1, 2, 5]
    assert [item.label for item in shot.splits["train"]] == [1, 1, 0, 0, 2, 2]
    assert shot.splits["test"] == toy.splits["test"]
    assert "2 shots, seed 1" in shot.origin


@given(
    train=st.lists(st.integers(0, 4), min_size=1, max_size=60),
    val=st.lists(st.integers(0, 4), max_size=30),
    shots=st.integers(1, 20),
    seed=st.integers(0, 2**32),
)
@settings(max_examples=60, deadline=None)
def test_few_shot_is_what_the_reference_draws(train, val, shots, seed):
    toy = listed({"train": train, "val": val, "test": [0]}, classes=5)
    shot = few_shot(toy, shots, seed, strict=False)
    assert [positions(shot, "train"), positions(shot, "val")] == reference_few_shot(train, val, shots, seed)


def test_few_shot_leaves_the_global_generator_alone():
    before = random.getstate()
    few_shot(listed({"train": [0, 1] * 5, "test": [0, 1]}), 3, seed=1)
    assert random.getstate() == before


@pytest.mark.parametrize("shots", [0, -3])
def test_shots_below_one_are_refused(shots):
    with pytest.raises(UsageError, match=f"at least 1; got {shots}"):
        few_shot(listed({"train": [0, 1]}), shots, seed=1)


def test_a_class_with_fewer_pictures_than_shots_is_named():
    toy = listed({"train": [0] * 5 + [1] * 3, "test": [0, 1]})
    with pytest.raises(DataError, match="class 'classb' has 3 training images, fewer than 4 shots; ask for at most 3"):
        few_shot(toy, 4, seed=1)
    assert few_shot(toy, 4, seed=1, strict=False).counts("train") == (4, 3)


def test_few_shot_without_training_pictures_is_refused():
    with pytest.raises(DataError, match="toy has no train images; it has test"):
        few_shot(listed({"test": [0, 1]}), 1, seed=1)


@pytest.mark.parametrize("name", ["caltech101", "dtd", "eurosat", "oxford_flowers", "oxford_pets", "stanford_cars", "ucf101"])
def test_few_shot_on_the_lists_of_the_benchmark(shared, name):
    lists = json.loads(gzip.decompress((shared / "data" / "splits" / f"{name}.json.gz").read_bytes()))
    labels = {split: [label for _, label in lists[split]] for split in SPLITS}
    toy = listed(labels)
    for shots, seed in ((1, 1), (4, 2), (16, 3)):
        shot = few_shot(toy, shots, seed, strict=False)
        assert [positions(shot, "train"), positions(shot, "val")] == reference_few_shot(
            labels["train"], labels["val"], shots, seed
        )


def test_base_and_new_are_halves_with_labels_from_zero():
    toy = listed({"train": [4, 2, 0, 1, 3], "val": [3, 0], "test": [0, 1, 2, 3, 4]})
    base, new = base_to_new(toy)
    assert (base.classes, new.classes) == (("classa", "classb", "classc"), ("classd", "classe"))
    assert [(item.index, item.label) for item in base.splits["train"]] == [(1, 2), (2, 0), (3, 1)]
    assert [(item.index, item.label) for item in new.splits["test"]] == [(3, 0), (4, 1)]
    assert [(item.index, item.label) for item in new.splits["val"]] == [(0, 0)]


@pytest.mark.parametrize(
    ("name", "halves"),
    [
        ("caltech101", (50, 50)),
        ("oxford_pets", (19, 18)),
        ("eurosat", (5, 5)),
        ("dtd", (24, 23)),
        ("ucf101", (51, 50)),
        ("oxford_flowers", (51, 51)),
        ("stanford_cars", (98, 98)),
    ],
)
def test_base_and_new_have_the_sizes_of_the_benchmark(shared, name, halves):
    lists = json.loads(gzip.decompress((shared / "data" / "splits" / f"{name}.json.gz").read_bytes()))
    parts = base_to_new(listed({split: [label for _, label in lists[split]] for split in SPLITS}))
    assert tuple(len(part.classes) for part in parts) == halves
    assert sum(len(part.splits["test"]) for part in parts) == len(lists["test"])


@given(counts=st.lists(st.integers(1, 40), min_size=2, max_size=5), seed=st.integers(0, 99))
@settings(max_examples=40, deadline=None)
def test_an_own_split_is_a_stratified_partition(counts, seed):
    pairs = [(f"{label}/{k}", label) for label, count in enumerate(counts) for k in range(count)]
    names = [name for name, _ in pairs]
    parts = stratified_split(pairs, names, seed=seed)
    assert sorted(pair for part in parts.values() for pair in part) == sorted(pairs)
    assert parts == stratified_split(pairs, names, seed=seed)
    for label, count in enumerate(counts):
        train, val, test = (sum(found == label for _, found in parts[split]) for split in SPLITS)
        assert train >= 1
        assert test == (0 if count == 1 else max(1, round(0.3 * count)))
        assert abs(val - 0.1 * count) <= 1


def test_an_own_split_depends_on_names_not_on_their_order():
    pairs = [(f"{k}", k % 2) for k in range(40)]
    first = stratified_split(pairs, [name for name, _ in pairs])
    again = stratified_split(pairs[::-1], [name for name, _ in pairs[::-1]])
    assert {split: set(part) for split, part in first.items()} == {split: set(part) for split, part in again.items()}
    assert first != stratified_split(pairs, [name for name, _ in pairs], seed=1)


@pytest.mark.parametrize("fractions", [(0.5, 0.2, 0.2), (1.2, -0.2, 0.0), (0.0, 0.5, 0.5)])
def test_fractions_that_are_no_division_are_refused(fractions):
    with pytest.raises(UsageError, match="add up to 1"):
        stratified_split([("a", 0)], ["a"], fractions)


@given(labels=st.lists(st.integers(0, 6), min_size=1, max_size=120), seed=st.integers(0, 9))
@settings(max_examples=40, deadline=None)
def test_subsets_are_nested_ordered_and_in_proportion(labels, seed):
    items = [Item(Painted(str(k)), label, k) for k, label in enumerate(labels)]
    smaller: set[int] = set()
    for limit in range(1, len(items) + 3, 7):
        chosen = [item.index for item in subset(items, limit, seed)]
        assert chosen == sorted(chosen)
        assert len(chosen) == min(limit, len(items))
        assert smaller <= set(chosen)
        for label in set(labels):
            share = labels.count(label) / len(labels)
            wanted = min(limit, len(labels)) * share
            assert abs(sum(labels[k] == label for k in chosen) - wanted) <= 1 + share * len(set(labels))
        smaller = set(chosen)
    assert subset(items, None) == tuple(items)


def test_a_limit_below_one_is_refused():
    with pytest.raises(UsageError, match="number of images, at least 1; got 0"):
        subset([Item(Painted("x"), 0, 0)], 0)


def test_a_rare_class_keeps_its_share_of_a_subset():
    items = [Item(Painted(str(k)), int(k >= 90), k) for k in range(100)]
    for limit, rare in ((10, 1), (50, 5), (90, 9)):
        assert abs(sum(item.label for item in subset(items, limit)) - rare) <= 1
