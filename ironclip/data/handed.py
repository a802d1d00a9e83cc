"""Images passed from Python: a torch data set, a Hugging Face data set, or lists of images and labels.

They are written once as a zip set (see `archives`) into the cache folder, under the hash of their pixels. So a run trained on
them is like any other run: it continues after a kill, and the command line can open it.
"""

import hashlib
import shutil
import tempfile
import zipfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from io import BytesIO
from operator import itemgetter
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from ironclip.core.errors import DataError, UsageError
from ironclip.core.files import disk_errors, write_json
from ironclip.data.archives import is_archive
from ironclip.data.hub import column_of
from ironclip.data.images import decode
from ironclip.data.lists import check_names, shown
from ironclip.data.packing import Progress, cache_folder
from ironclip.data.records import SPLITS
from ironclip.data.roles import roles
from ironclip.data.sampling import completed

HOW = "a folder, a data set with len() and [], a list of images with labels, or a dict of them: {'train': ..., 'test': ...}"


@dataclass(frozen=True)
class Handed:
    """An image in memory with the interface of a file, so that one reader treats all images."""

    image: Image.Image
    name: str

    def open(self) -> Image.Image:
        return self.image.copy()

    def stamp(self) -> str:
        return ""


@dataclass(frozen=True)
class Part:
    """One split as passed: the number of images, (image, label) of each, and the meaning of the labels, if given.

    `labels` gives all labels, if possible without opening the images.
    """

    length: int
    pair: Callable[[int], tuple[Any, Any]]
    classes: tuple[str, ...] | None
    labels: Sequence[Any] | None = None

    def every(self) -> Iterator[Any]:
        """All labels."""
        yield from self.labels if self.labels is not None else (self.pair(k)[1] for k in range(self.length))


def keep(
    source: Any,
    labels: Sequence[Any] | None = None,
    *,
    classes: Sequence[str] | None = None,
    cache: Path | None = None,
    progress: Progress | None = None,
) -> Path:
    """The folder of a zip set with these images; the same images again give the same folder.

    Args:
        source: a data set with `len` and `[]` whose items start with an image and its label (torch, torchvision), a Hugging
            Face data set, a list of images with `labels`, or a mapping from names of splits to any of them. An image is a
            PIL image, an array [H, W(, 3)], or a tensor [3, H, W]; bytes, or floats in [0, 1].
        labels: numbers or words, one for each image of the list.
        classes: what the numbers mean; default: what the data set says, or the words in alphabetical order.

    Raises:
        UsageError: none of these kinds, or labels without names. DataError: an image or a label that cannot be used.
    """
    parts = _parts(source, labels)
    names, number = _names(parts, classes)
    place = cache_folder(cache) / "handed"
    with disk_errors(place):
        place.mkdir(parents=True, exist_ok=True)
        work = Path(tempfile.mkdtemp(dir=place))
        try:
            digest = hashlib.sha256(repr(names).encode())
            found: dict[str, list[tuple[str, int]]] = {split: [] for split in SPLITS}
            with zipfile.ZipFile(work / "images.zip", "w", zipfile.ZIP_STORED) as archive:
                for split, name, image, value in _pictures(parts, progress):
                    label = number(value, name)
                    digest.update(f"{split}/{label}/{image.size}".encode() + image.tobytes())
                    archive.writestr(name, _png(image))
                    found[split].append((name, label))
            found, remark = completed(found, {split: [name for name, _ in pairs] for split, pairs in found.items()})
            write_json(work / "index.json", _index(_called(source), names, found, remark))
            folder = place / f"{_called(source)}-{digest.hexdigest()[:16]}"
            if not is_archive(folder):
                work.chmod(0o755)
                work.replace(folder)
            return folder
        finally:
            shutil.rmtree(work, ignore_errors=True)


def _index(called: str, names: Sequence[str], found: Mapping[str, list[tuple[str, int]]], remark: str) -> dict[str, Any]:
    items = [{"file": name, "label": label, "split": split} for split, pairs in found.items() for name, label in pairs]
    classes = [{"id": k, "folder": name, "name": name} for k, name in enumerate(names)]
    return {"dataset": called, "splits_from": f"handed over in Python{remark}", "classes": classes, "items": items}


def _called(source: Any) -> str:
    """The name for a run: the class of the data set, such as CIFAR10."""
    kind = type(next(iter(source.values())) if isinstance(source, Mapping) and source else source).__name__
    return "pictures" if kind in ("list", "tuple", "ndarray", "Tensor", "Dataset") else kind


def _parts(source: Any, labels: Sequence[Any] | None) -> dict[str, Part]:
    """The splits by their names."""
    if not isinstance(source, Mapping):
        return {"train": _part(source, labels)}
    if labels is not None:
        raise UsageError("labels belong to a list of images; of several splits give each as a list of (image, label)")
    meant = roles(source)
    if left := [name for name in source if name not in meant]:
        raise UsageError(f"splits are called train, val and test; got {', '.join(map(shown, left))}")
    return {meant[name]: _part(part, None) for name, part in source.items()}


def _part(source: Any, labels: Sequence[Any] | None) -> Part:
    if isinstance(source, tuple) and len(source) == 2 and labels is None and all(isinstance(each, Sequence) for each in source):
        source, labels = source  # (images, labels), as many libraries have it
    if not (hasattr(source, "__len__") and hasattr(source, "__getitem__")) or isinstance(source, str | bytes):
        hint = "; hand over its .dataset" if hasattr(source, "dataset") else ""
        raise UsageError(f"images come as {HOW}; got {type(source).__name__}{hint}")
    if labels is not None:
        if len(labels) != len(source):
            raise UsageError(f"each image has one label; got {len(source)} images and {len(labels)} labels")
        return Part(len(source), lambda k: (source[k], labels[k]), None, labels)
    if hasattr(source, "features"):
        name = type(source).__name__
        picture = column_of(name, source, "an image", ("Image",), ("image", "img"))
        label = column_of(name, source, "a label", ("ClassLabel",), ("label", "labels", "class"))
        known = getattr(source.features[label], "names", None)
        names = None if known is None else tuple(known)
        return Part(len(source), lambda k: itemgetter(picture, label)(source[k]), names, list(source[label]))
    return Part(len(source), lambda k: _pair(source[k], k), _said(source))


def _pair(item: Any, position: int) -> tuple[Any, Any]:
    if not isinstance(item, tuple | list) or len(item) < 2:
        raise UsageError(
            f"item {position} is no (image, label) but {type(item).__name__}; give labels=[...] for a list of images"
        )
    return item[0], item[1]


def _said(source: Any) -> tuple[str, ...] | None:
    """The class names of a torchvision data set, also inside a Subset, a random split or a ConcatDataset."""
    known = getattr(source, "classes", None)
    if isinstance(known, list | tuple) and known and all(isinstance(name, str) for name in known):
        return tuple(known)
    inside = getattr(source, "dataset", None) or next(iter(getattr(source, "datasets", ())), None)
    return None if inside is None else _said(inside)


def _names(parts: Mapping[str, Part], classes: Sequence[str] | None) -> tuple[tuple[str, ...], Callable[[Any, str], int]]:
    """The class names, and a function from a label to its number."""
    said = classes if classes is not None else next((part.classes for part in parts.values() if part.classes), None)
    if isinstance(said, str):
        raise UsageError(f"classes are a list of names for images that are handed over; got {said!r}")
    if said is None:
        words: set[str] = set()
        for value in (_plain(each) for part in parts.values() for each in part.every()):
            if not isinstance(value, str):
                raise UsageError(f"a label is {shown(value)}; say what it means with classes=['cat', 'dog', ...], in their order")
            words.add(value)
        said = sorted(words)
    names = tuple(said)
    check_names(names, "classes")
    place = {name: k for k, name in enumerate(names)}

    def number(value: Any, where: str) -> int:
        value = _plain(value)
        label = place.get(value) if isinstance(value, str) else value
        if isinstance(label, bool) or not isinstance(label, int) or not 0 <= label < len(names):
            raise DataError(f"{where}: its label {shown(value)} is none of the {len(names)} classes {shown(list(names))}")
        return label

    return names, number


def _plain(value: Any) -> Any:
    """A label as Python's own value."""
    if isinstance(value, np.generic | np.ndarray | torch.Tensor) and getattr(value, "ndim", 0) == 0:
        return value.item()
    return value


def _pictures(parts: Mapping[str, Part], progress: Progress | None) -> Iterator[tuple[str, str, Image.Image, Any]]:
    """(split, name, RGB image, label), one at a time."""
    total, done = sum(part.length for part in parts.values()), 0
    for split, part in parts.items():
        for k in range(part.length):
            name = f"{split}/{k:06d}.png"
            image, label = part.pair(k)
            yield split, name, decode(Handed(picture_of(image, name), name)), label
            done += 1
            if progress is not None:
                progress(done, total)


def picture_of(value: Any, name: str) -> Image.Image:
    """A PIL image of a PIL image, an array [H, W(, 3)] or a tensor [3, H, W].

    Raises:
        DataError: another type or shape, or values that are not brightness.
    """
    if isinstance(value, Image.Image):
        return value
    if isinstance(value, torch.Tensor):
        pixels = value.detach().cpu().numpy()
        pixels = pixels.transpose(1, 2, 0) if pixels.ndim == 3 else pixels
    elif isinstance(value, np.ndarray):
        pixels = value
    else:
        raise DataError(f"{name}: expected an image (PIL, array or tensor); got {type(value).__name__}")
    if pixels.ndim == 3 and pixels.shape[2] == 1:
        pixels = pixels[:, :, 0]
    if pixels.ndim not in (2, 3) or (pixels.ndim == 3 and pixels.shape[2] != 3) or not pixels.size:
        raise DataError(f"{name}: expected an array [H, W(, 3)] or a tensor [3, H, W]; got the shape {tuple(value.shape)}")
    if np.issubdtype(pixels.dtype, np.floating):
        low, high = float(pixels.min()), float(pixels.max())
        if not (low >= 0 and high <= 1):
            raise DataError(f"{name}: values from {low:.3g} to {high:.3g}; expected [0, 1], so leave out Normalize")
        pixels = np.rint(255 * pixels).astype(np.uint8)
    if pixels.dtype != np.uint8:
        raise DataError(f"{name}: expected bytes, or floats in [0, 1]; got {pixels.dtype}")
    return Image.fromarray(np.ascontiguousarray(pixels))


def _png(image: Image.Image) -> bytes:
    written = BytesIO()
    image.save(written, "PNG", compress_level=1)
    return written.getvalue()
