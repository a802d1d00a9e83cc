"""One set of training images, and batches that are pure functions of (seed, step)."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

GENERIC = (
    "a photo of a {}.",
    "a photo of the {}.",
    "a photo of one {}.",
    "a photo of my {}.",
    "{}.",
    "a {}.",
    "a picture of a {}.",
    "an image of a {}.",
    "a blurry photo of a {}.",
    "a low resolution photo of a {}.",
    "a cropped photo of the {}.",
    "a close-up photo of a {}.",
    "a good photo of a {}.",
    "a bad photo of a {}.",
    "a photo of a small {}.",
    "a photo of a large {}.",
    "this is a photo of a {}.",
    "there is a {} in the photo.",
    "X X {}.",
    "X X X X {}.",
)


@dataclass(frozen=True)
class Source:
    """One set of training images, already decoded.

    A wording is one way to name all labels: class names, product titles, or articles. A batch uses one wording and one template
    for the whole source.

    Args:
        name: of the set; it decides the share of the set in a batch.
        images: [N, 3, S, S] uint8.
        labels: [N] int64 positions in every wording.
        wordings: each has one name for each label.
        templates: sentences with {} in the place of the name.
        all_names: whether every batch holds the captions of all labels (class names) or only of its own images (titles).
    """

    name: str
    images: Tensor
    labels: Tensor
    wordings: tuple[tuple[str, ...], ...]
    templates: tuple[str, ...] = GENERIC
    all_names: bool = True
    _orders: dict[tuple[int, int], Tensor] = field(default_factory=dict, repr=False, compare=False)

    def order(self, seed: int, epoch: int) -> Tensor:
        """[N] positions of the images in the order in which an epoch visits them; the last order is kept in memory.

        Args:
            seed: of the run.
            epoch: number of the epoch, from 0.
        """
        key = (seed, epoch)
        if key not in self._orders:
            self._orders.clear()
            generator = torch.Generator().manual_seed(seed * 1_000_003 + epoch)
            self._orders[key] = torch.randperm(len(self.images), generator=generator)
        return self._orders[key]


@dataclass(frozen=True)
class Batch:
    """Images of all sources with their captions.

    Args:
        images: [B, 3, S, S] uint8.
        captions: U texts, none of them twice.
        targets: [B] int64 position in `captions` of each image's caption.
        groups: one pair for each source: the rows of its images, and the ascending positions of the captions of its own labels.
    """

    images: Tensor
    captions: list[str]
    targets: Tensor
    groups: list[tuple[slice, Tensor]]


def make_batch(sources: Sequence[Source], counts: Sequence[int], step: int, seed: int) -> Batch:
    """The batch of one step, a function of its arguments alone; within an epoch no image of a source is drawn twice.

    Args:
        sources: the sets to draw from.
        counts: images of each source, in their order.
        step: number of the step, from 0.
        seed: of the run.

    Returns:
        A batch of sum(counts) images, source after source.

    Raises:
        ValueError: not one count for each source.
    """
    generator = torch.Generator().manual_seed(seed * 7_919 + step)
    columns: dict[str, int] = {}
    images, targets, groups, start = [], [], [], 0
    for source, count in zip(sources, counts, strict=True):
        position = torch.arange(step * count, (step + 1) * count)
        epochs = position // len(source.images)
        chosen = torch.cat([source.order(seed, int(e))[position[epochs == e] % len(source.images)] for e in epochs.unique()])
        labels = source.labels[chosen]
        wording = source.wordings[_randint(len(source.wordings), generator)]
        # half of the time the first template, the one users type
        pick = max(0, _randint(2 * len(source.templates), generator) - len(source.templates))
        used = range(len(wording)) if source.all_names else labels.unique().tolist()
        own = {label: columns.setdefault(source.templates[pick].format(wording[label]), len(columns)) for label in used}
        images.append(source.images[chosen])
        targets.append(torch.tensor([own[int(label)] for label in labels]))
        groups.append((slice(start, start + count), torch.tensor(sorted(set(own.values())))))
        start += count
    return Batch(torch.cat(images), list(columns), torch.cat(targets), groups)


def _randint(below: int, generator: torch.Generator) -> int:
    return int(torch.randint(below, (), generator=generator))


def share(total: int, weights: Sequence[float]) -> list[int]:
    """The images of a batch divided in proportion to `weights`; the largest weight takes what rounding leaves.

    Args:
        total: images of the batch, many more than there are weights.
        weights: one positive number for each source.

    Returns:
        One count of at least 1 for each weight; together they are `total`.

    Raises:
        ValueError: no weights.
    """
    counts = [max(1, math.floor(total * w / sum(weights))) for w in weights]
    counts[max(range(len(weights)), key=lambda i: weights[i])] += total - sum(counts)
    return counts
