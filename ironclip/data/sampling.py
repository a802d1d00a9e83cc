"""The selection of images: few shots, base and new classes, a split made here, nested subsets. All pure functions of a seed."""

import hashlib
import random
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TypeVar

from ironclip.core.errors import DataError, UsageError
from ironclip.core.shown import number_of
from ironclip.data.records import SPLITS, Dataset, Item

T = TypeVar("T")


def few_shot(dataset: Dataset, shots: int, seed: int, *, strict: bool = True) -> Dataset:
    """The data set with at most `shots` training and min(shots, 4) validation images of each class.

    Source: CoOp with Dassl `generate_fewshot_dataset`: one Python generator; classes in order of first appearance in the
    train list, `random.sample` within each, then the same for val. Draws exactly what those programs draw from the same list.

    Args:
        strict: refuse a class with fewer training images than shots; otherwise take all it has, as CoOp does.

    Raises:
        UsageError: shots below 1.
        DataError: a class with too few training images (strict), or no training images at all.
    """
    if shots < 1:
        raise UsageError(f"shots is a number of images for each class, at least 1; got {shots}")
    dataset.items("train")
    counts = dataset.counts("train")
    if strict and min(counts) < shots:
        label = counts.index(min(counts))
        raise DataError(
            f"{dataset.name}: class {dataset.classes[label]!r} has {number_of(counts[label], 'training image')}, "
            f"fewer than {number_of(shots, 'shot')}; "
            f"ask for at most {number_of(counts[label], 'shot')}, add images or leave the class out"
        )
    rng = random.Random(seed)
    train = _sample(dataset.splits["train"], shots, rng)
    val = _sample(dataset.splits["val"], min(shots, 4), rng)
    return dataset.changed(
        splits={**dataset.splits, "train": train, "val": val}, origin=f"{dataset.origin}; {shots} shots, seed {seed}"
    )


def _sample(items: Sequence[Item], count: int, rng: random.Random) -> tuple[Item, ...]:
    by_label: dict[int, list[Item]] = defaultdict(list)
    for item in items:
        by_label[item.label].append(item)
    chosen: list[Item] = []
    for members in by_label.values():
        chosen += rng.sample(members, count) if len(members) >= count else members
    return tuple(chosen)


def base_to_new(dataset: Dataset) -> tuple[Dataset, Dataset]:
    """(base, new): the first ceil(C/2) classes and the rest, each with labels from 0 and only its own class names.

    Source: CoOp `subsample_classes`: the labels present in train, sorted; applied after few-shot sampling. Without a train
    split the labels of the other splits count.
    """
    present = dataset.splits["train"] or tuple(item for split in SPLITS for item in dataset.splits[split])
    labels = sorted({item.label for item in present})
    half = (len(labels) + 1) // 2
    return _only(dataset, labels[:half], "base"), _only(dataset, labels[half:], "new")


def _only(dataset: Dataset, labels: Sequence[int], part: str) -> Dataset:
    renumbered = {label: position for position, label in enumerate(labels)}
    splits = {
        split: tuple(replace(item, label=renumbered[item.label]) for item in items if item.label in renumbered)
        for split, items in dataset.splits.items()
    }
    classes = tuple(dataset.classes[label] for label in labels)
    return dataset.changed(
        name=f"{dataset.name}-{part}", classes=classes, splits=splits, origin=f"{dataset.origin}; {part} classes"
    )


def stratified_split(
    pairs: Sequence[tuple[T, int]], names: Sequence[str], fractions: tuple[float, float, float] = (0.6, 0.1, 0.3), seed: int = 0
) -> dict[str, list[tuple[T, int]]]:
    """(image, label) pairs in three parts, each class divided alike; list order is kept inside a part.

    Images of a class are ranked by the hash of seed and name, so a part hardly changes when images are added. Each
    class has a training image and, from two images on, a test image.

    Args:
        names: one for each pair; the same on every machine.
        fractions: of train, val and test; they add up to 1.
    """
    if min(fractions) < 0 or abs(sum(fractions) - 1) > 1e-6 or fractions[0] <= 0:
        raise UsageError(f"fractions of train, val and test are not negative and add up to 1; got {fractions}")
    members: dict[int, list[int]] = defaultdict(list)
    for position, (_, label) in enumerate(pairs):
        members[label].append(position)
    part_of: dict[int, str] = {}
    for positions in members.values():
        ranked = sorted(positions, key=lambda p: hashlib.sha256(f"{seed}/{names[p]}".encode("utf-8", "surrogatepass")).digest())
        count = len(ranked)
        test = min(max(round(fractions[2] * count), 1), count - 1) if fractions[2] else 0
        val = min(round(fractions[1] * count), count - 1 - test)
        for rank, position in enumerate(ranked):
            part_of[position] = "test" if rank < test else "val" if rank < test + val else "train"
    return {split: [pair for position, pair in enumerate(pairs) if part_of[position] == split] for split in SPLITS}


def completed(
    found: Mapping[str, list[tuple[T, int]]],
    names: Mapping[str, Sequence[str]],
    fractions: tuple[float, float, float] = (0.6, 0.1, 0.3),
    seed: int = 0,
) -> tuple[dict[str, list[tuple[T, int]]], str]:
    """Splits that can be measured, and a remark for the origin: validation serves as test; with training alone, it is divided.

    Args:
        names: of the images of each split, as in `stratified_split`.
    """
    if found["test"]:
        return dict(found), ""
    if found["val"]:
        return {**found, "test": found["val"], "val": []}, ", validation as test"
    return stratified_split(found["train"], names["train"], fractions, seed), f", own split, seed {seed}"


def subset(items: Sequence[Item], limit: int | None, seed: int = 0) -> tuple[Item, ...]:
    """`limit` of the items in list order, classes in proportion; a larger limit contains every smaller one.

    Raises:
        UsageError: limit below 1.
    """
    return tuple(items[position] for position in spread([item.label for item in items], limit, seed))


def spread(labels: Sequence[int], limit: int | None, seed: int = 0) -> list[int]:
    """Positions of `limit` of these labels in rising order, each label in proportion; None: all. Errors as in `subset`."""
    if limit is None:
        return list(range(len(labels)))
    if limit < 1:
        raise UsageError(f"limit is a number of images, at least 1; got {limit}")
    rng = random.Random(seed)
    members: dict[int, list[int]] = defaultdict(list)
    for position, label in enumerate(labels):
        members[label].append(position)
    turn: dict[int, float] = {}
    for label in sorted(members):
        positions = members[label]
        offset = rng.random()
        for rank, position in enumerate(rng.sample(positions, len(positions))):
            turn[position] = (rank + offset) / len(positions)
    return sorted(sorted(turn, key=lambda position: (turn[position], position))[:limit])
