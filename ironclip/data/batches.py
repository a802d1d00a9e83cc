"""Decoded images as batches: augmented ones for training, test crops for evaluation.

Every random number comes from a generator keyed by (seed, epoch, position in the full split), so the augmented image does not
depend on the batch size, the order of the batches or the epoch from which a run resumes. The global random state is not touched.
"""

import os
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from typing import Literal

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from ironclip.core.errors import DataError, UsageError, unknown
from ironclip.core.tensors import generator
from ironclip.core.types import Batch
from ironclip.data.augmentation import AREA, random_resized_crop_flip
from ironclip.data.images import MAX_PIXELS, Bad, BadPicture, Preprocess, bound, decode_into, fit
from ironclip.data.packing import Cache, Progress, pack
from ironclip.data.records import Dataset, Item, caption_of
from ironclip.data.room import LARGEST
from ironclip.data.sampling import subset

Augment = Literal["rrc_flip", "none", "squash"]
AUGMENTS = ("rrc_flip", "none", "squash")
OnBad = Literal["drop", "fail"]
_ORDER, _CROP = 101, 102  # keep these draws apart from those of attacks, which use the same seeds


@dataclass(frozen=True)
class Pictures:
    """Test crops of some items. images: [N, 3, R, R] uint8; labels, indices: [N]; dropped: those that cannot be used.

    `indices` are positions in the full split. The images may be mapped from a file: index them, do not write to them.
    """

    images: Tensor
    labels: Tensor
    indices: Tensor
    dropped: tuple[Bad, ...] = ()

    def __len__(self) -> int:
        return len(self.labels)


def load_images(
    items: Sequence[Item],
    resolution: int,
    *,
    preprocess: Preprocess = "crop",
    bad: OnBad = "drop",
    cache: Cache = None,
    max_pixels: int = MAX_PIXELS,
    progress: Progress | None = None,
) -> Pictures:
    """The items as test crops, from the disk cache if they are there.

    Args:
        preprocess: `crop` (shorter side bicubic, centre crop) or `squash`.
        bad: leave out unusable images and name them in `dropped`, or fail on the first.

    Raises:
        DataError: no image can be used, or one cannot and `bad` is "fail"; the cache cannot be written.
    """
    transform = partial(fit, resolution=resolution, preprocess=preprocess)
    transform(Image.new("RGB", (1, 1)))  # a wrong option fails here, not once for every image
    packed = pack(items, transform, ["fit", resolution, preprocess], cache=cache, max_pixels=max_pixels, progress=progress)
    _accept(packed.dropped, bad)
    labels, indices = _positions([items[k] for k in packed.kept])
    assert packed.data is not None
    images = torch.from_numpy(packed.data.reshape(-1, resolution, resolution, 3)).permute(0, 3, 1, 2)
    return Pictures(images, labels, indices, packed.dropped)


def _accept(dropped: Sequence[Bad], bad: OnBad) -> None:
    if bad not in ("drop", "fail"):
        raise unknown("policy for bad images", bad, ("drop", "fail"))
    if dropped and bad == "fail":
        more = f" (and {len(dropped) - 1} more)" if len(dropped) > 1 else ""
        raise DataError(
            f"{dropped[0].name}: {dropped[0].reason}{more}; repair or remove it, or leave bad images out with bad='drop'"
        )


def _positions(items: Sequence[Item]) -> tuple[Tensor, Tensor]:
    return torch.tensor([item.label for item in items]), torch.tensor([item.index for item in items])


def _floats(images: Tensor) -> Tensor:
    return images.float().div_(255)


class EvalSet:
    """One split as test crops, in list order.

    `limit` takes a subset with classes in proportion, chosen by `seed`; a larger limit contains every smaller one.
    """

    def __init__(
        self,
        dataset: Dataset,
        split: str = "test",
        *,
        resolution: int,
        limit: int | None = None,
        seed: int = 0,
        preprocess: Preprocess = "crop",
        bad: OnBad = "drop",
        cache: Cache = None,
        max_pixels: int = MAX_PIXELS,
        progress: Progress | None = None,
    ) -> None:
        self.classes = dataset.classes
        items = subset(dataset.items(split), limit, seed)
        self.pictures = load_images(
            items, resolution, preprocess=preprocess, bad=bad, cache=cache, max_pixels=max_pixels, progress=progress
        )

    @property
    def labels(self) -> Tensor:
        return self.pictures.labels

    @property
    def indices(self) -> Tensor:
        return self.pictures.indices

    @property
    def dropped(self) -> tuple[Bad, ...]:
        return self.pictures.dropped

    def __len__(self) -> int:
        return len(self.pictures)

    def batch(self, rows: Sequence[int] | Tensor | slice) -> Batch:
        """The images at these rows (positions in this set), e.g. those a resumed run still misses."""
        rows = rows if isinstance(rows, slice) else torch.as_tensor(rows, dtype=torch.long)
        return Batch(_floats(self.pictures.images[rows].contiguous()), self.labels[rows], self.indices[rows], self.classes)

    def batches(self, batch_size: int, *, start: int = 0) -> Iterator[Batch]:
        """All images in order, from row `start` on."""
        _check_batch_size(batch_size)
        for row in range(start, len(self), batch_size):
            yield self.batch(slice(row, row + batch_size))


class TrainSet:
    """The training images of a data set, decoded once, augmented anew in each epoch.

    Where they would take more than `largest` bytes, or more than the disk has, they are decoded anew in each epoch by the threads
    that augment them; batches are the same.

    Images are kept with a shorter side of at most `short_side` pixels (default twice the resolution), so crops of large photos
    are resized twice; None keeps them as they are [deviation from CoOp, which crops the file's own pixels].
    """

    def __init__(
        self,
        dataset: Dataset,
        split: str = "train",
        *,
        resolution: int,
        short_side: int | Literal["auto"] | None = "auto",
        bad: OnBad = "drop",
        cache: Cache = None,
        max_pixels: int = MAX_PIXELS,
        progress: Progress | None = None,
        largest: int = LARGEST,
    ) -> None:
        if resolution < 1:
            raise UsageError(f"resolution is a number of pixels, at least 1; got {resolution}")
        self.classes = dataset.classes
        self.resolution = resolution
        items = dataset.items(split)
        side = 2 * resolution if short_side == "auto" else short_side
        transform = partial(bound, short_side=side)
        packed = pack(
            items, transform, ["bound", side], cache=cache, max_pixels=max_pixels, progress=progress, largest=largest
        )  # fmt: skip
        _accept(packed.dropped, bad)
        self.dropped = packed.dropped
        self.labels, self.indices = _positions([items[k] for k in packed.kept])
        texts = tuple(caption_of(items[k]) for k in packed.kept)
        self.texts = texts if all(texts) else ()
        self._data, self._sizes, self._offsets = packed.data, packed.sizes, packed.offsets()
        self._decode = partial(decode_into, use=transform, max_pixels=max_pixels)
        self._sources = [items[k].source for k in packed.kept]

    def __len__(self) -> int:
        return len(self.labels)

    def picture(self, row: int) -> Image.Image:
        """The decoded image at one row.

        Raises:
            DataError: images are decoded anew, and this one cannot be used any more.
        """
        if self._data is None:
            try:
                return self._decode(self._sources[row])
            except BadPicture as problem:
                raise DataError(
                    f"{problem.name}: {problem.reason}, though it could be used when the training was prepared; "
                    "put it back, and the same command goes on"
                ) from None
        height, width = self._sizes[row]
        pixels = self._data[self._offsets[row] : self._offsets[row + 1]].reshape(height, width, 3)
        return Image.fromarray(np.asarray(pixels))

    def order(self, epoch: int, seed: int) -> Tensor:
        """[N] rows in the order of an epoch."""
        return torch.randperm(len(self), generator=generator(seed, epoch, _ORDER))

    def steps(self, batch_size: int, *, drop_last: bool = False) -> int:
        """Batches in one epoch."""
        _check_batch_size(batch_size)
        whole, rest = divmod(len(self), batch_size)
        return whole if drop_last and whole else whole + bool(rest)

    def batches(
        self,
        epoch: int,
        seed: int,
        batch_size: int,
        *,
        augment: Augment = "rrc_flip",
        crop_area: float = AREA,
        resolution: int | None = None,
        start: int = 0,
        drop_last: bool = False,
    ) -> Iterator[Batch]:
        """The batches of one epoch in random order; the next one is prepared while the last one is used.

        Args:
            augment: `rrc_flip`: random resized crop (area 8 to 100 %, bicubic, antialiased) and horizontal flip; `none`:
                the test crop; `squash`: both sides resized (FAP).
            crop_area: smallest share of the image that a random crop covers.
            resolution: pixels per side; default that of the set.
            start: batches to skip.
            drop_last: leave out an incomplete last batch unless it is the only one, as CoOp does.
        """
        if augment not in AUGMENTS:
            raise unknown("augmentation", augment, AUGMENTS)
        steps = self.steps(batch_size, drop_last=drop_last)
        order = self.order(epoch, seed)
        size = self.resolution if resolution is None else resolution
        view = partial(self._view, epoch=epoch, seed=seed, augment=augment, area=crop_area, resolution=size)

        groups = [order[step * batch_size : (step + 1) * batch_size].tolist() for step in range(start, steps)]
        for rows, views in zip(groups, _prepared(view, groups)):
            images = torch.from_numpy(np.stack(views)).permute(0, 3, 1, 2).contiguous()
            texts = tuple(self.texts[row] for row in rows) if self.texts else ()
            yield Batch(_floats(images), self.labels[rows], self.indices[rows], self.classes, texts)

    def _view(self, row: int, epoch: int, seed: int, augment: Augment, area: float, resolution: int) -> np.ndarray:
        image = self.picture(row)
        if augment == "rrc_flip":
            rng = generator(seed, epoch, int(self.indices[row]), _CROP)
            return np.asarray(random_resized_crop_flip(image, resolution, rng, area))
        return np.asarray(fit(image, resolution, "squash" if augment == "squash" else "crop"))


@dataclass(frozen=True)
class Epoch:
    """The batches of one epoch, made while they are read: one or several passes over the images, each in its own order.

    Its length is the number of batches.

    Args:
        passes: numbers of the passes; each is an epoch of `TrainSet.batches`.
    """

    data: TrainSet
    passes: range
    seed: int
    batch_size: int
    augment: Augment = "rrc_flip"
    crop_area: float = AREA

    def __len__(self) -> int:
        return len(self.passes) * self.data.steps(self.batch_size)

    def __iter__(self) -> Iterator[Batch]:
        for number in self.passes:
            yield from self.data.batches(number, self.seed, self.batch_size, augment=self.augment, crop_area=self.crop_area)


def _prepared(view: Callable[[int], np.ndarray], groups: Sequence[Sequence[int]]) -> Iterator[list[np.ndarray]]:
    """The augmented images of each group of rows, made in threads while the caller uses the group before."""
    with ThreadPoolExecutor(min(os.cpu_count() or 1, 8)) as pool:
        coming: list[Future[np.ndarray]] = []
        for group in groups:
            ready, coming = coming, [pool.submit(view, row) for row in group]
            if ready:
                yield [future.result() for future in ready]
        if coming:
            yield [future.result() for future in coming]


def _check_batch_size(batch_size: int) -> None:
    if batch_size < 1:
        raise UsageError(f"the batch size is a number of images, at least 1; got {batch_size}")
