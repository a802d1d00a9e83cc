"""What `ironclip pretrain` trains on: decoded training pictures with their names, and batches that are pure in the step.

Only pictures of a *train* split are ever decoded for training, so no batch can hold a validation or test picture.
Sets are downstream-like: `caltech101`, `eurosat`, `flowers5` (an `images.zip` with an `index.json` each), `pretrain64`
(objects with class names, products with titles), the generated `shapes`, or any folder with a folder per class.
"""

import io
import json
import math
import zipfile
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from ironclip.data import shapes
from ironclip.errors import DataError

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
FLOWERS = ("a photo of a {}, a type of flower.", "{}, a flower.", "a close-up photo of a {} flower.")
SATELLITE = (
    "a centered satellite photo of {}.",
    "a centered satellite photo of a {}.",
    "a satellite photo of {}.",
    "an aerial photo of {}.",
    "{} seen from above.",
)
CLOTHES = ("a photo of a {}, a piece of clothing.", "a product photo of a {}.", "a {} on a white background.")
DRAWINGS = ("a picture of a {}.", "a drawing of a {}.", "a {} on a light background.", "an image of a {}.")
IMAGE_EXTENSIONS = {".jpg", ".jpeg", ".png", ".webp", ".bmp"}


@dataclass(frozen=True)
class Source:
    """One set of training pictures, already decoded.

    images: [N, 3, S, S] uint8. labels: [N] into every list of `wordings`. A wording is one way to name all labels
    (class names; or product titles, articles); a batch uses one wording and one template for the whole source.
    """

    name: str
    images: Tensor
    labels: Tensor
    wordings: tuple[tuple[str, ...], ...]
    templates: tuple[str, ...] = GENERIC
    all_names: bool = True
    """Whether every batch holds the captions of all labels (class names) or only of its own pictures (titles)."""
    _orders: dict[tuple[int, int], Tensor] = field(default_factory=dict, repr=False, compare=False)

    def order(self, seed: int, epoch: int) -> Tensor:
        """The order in which epoch number `epoch` visits the pictures."""
        key = (seed, epoch)
        if key not in self._orders:
            self._orders.clear()
            generator = torch.Generator().manual_seed(seed * 1_000_003 + epoch)
            self._orders[key] = torch.randperm(len(self.images), generator=generator)
        return self._orders[key]


@dataclass(frozen=True)
class Batch:
    """images [B, 3, S, S] uint8, captions U texts without repetition, targets [B] the caption of each picture,
    groups: for each source its pictures' rows and the captions of its own labels (text columns)."""

    images: Tensor
    captions: list[str]
    targets: Tensor
    groups: list[tuple[slice, Tensor]]


def make_batch(sources: Sequence[Source], counts: Sequence[int], step: int, seed: int) -> Batch:
    """Batch number `step`: `counts[i]` pictures of `sources[i]`, each source without replacement within its epochs."""
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
    """Split `total` pictures of a batch in proportion to `weights`, at least one each, exact in sum."""
    counts = [max(1, math.floor(total * w / sum(weights))) for w in weights]
    counts[max(range(len(weights)), key=lambda i: weights[i])] += total - sum(counts)
    return counts


def square(image: Image.Image, size: int) -> np.ndarray:
    """[3, size, size] uint8: shorter side to `size` (bicubic, anti-aliased), centre crop."""
    image = image.convert("RGB")
    scale = size / min(image.size)
    width, height = (max(size, round(side * scale)) for side in image.size)
    left, top = (width - size) // 2, (height - size) // 2
    image = image.resize((width, height), Image.Resampling.BICUBIC).crop((left, top, left + size, top + size))
    return np.array(image).transpose(2, 0, 1).copy()


def _stack(pictures: Iterable[Callable[[], Image.Image]], count: int, size: int) -> Tensor:
    out = np.empty((count, 3, size, size), np.uint8)
    for row, load in enumerate(pictures):
        out[row] = square(load(), size)
    return torch.from_numpy(out)


def read_index(folder: Path) -> dict[str, Any]:
    """`index.json` of an image set, or one line on what is missing."""
    for name in ("index.json", "images.zip"):
        if not (folder / name).is_file():
            raise DataError(f"{folder / name} is missing; pre-training expects images.zip and index.json in {folder}/")
    index: dict[str, Any] = json.loads((folder / "index.json").read_text(encoding="utf-8"))
    return index


def read_images(folder: Path, files: Sequence[str], size: int) -> Tensor:
    """[N, 3, size, size] uint8 of the named members of the folder's `images.zip`."""
    with zipfile.ZipFile(folder / "images.zip") as archive:
        return _stack(
            (lambda f=f: Image.open(io.BytesIO(archive.read(f))) for f in files),  # type: ignore[misc]
            len(files),
            size,
        )


def class_names(index: dict[str, Any]) -> tuple[str, ...]:
    """Names as they are put into prompts: no underscores (CoOp's rule)."""
    return tuple(entry["name"].replace("_", " ") for entry in index["classes"])


def labelled(folder: Path, size: int, templates: tuple[str, ...], split: str = "train") -> Source:
    """The pictures of one split of a set with class names."""
    index = read_index(folder)
    items = [item for item in index["items"] if item["split"] == split]
    labels = torch.tensor([item["label"] for item in items])
    return Source(folder.name, read_images(folder, [i["file"] for i in items], size), labels, (class_names(index),), templates)


def objects(folder: Path, size: int, split: str = "train") -> Source:
    """The part of `pretrain64` that has class names."""
    index = read_index(folder)
    items = [item for item in index["items"] if item[1] == split and item[2] is not None]
    labels = torch.tensor([item[2] for item in items])
    return Source("objects", read_images(folder, [i[0] for i in items], size), labels, (class_names(index),))


def products(folder: Path, size: int, split: str = "train") -> Source:
    """The part of `pretrain64` that has product titles; each picture is a label of its own with three wordings."""
    items = [item for item in read_index(folder)["items"] if item[1] == split and item[3] is not None]
    texts = [item[3] for item in items]
    article = [everyday(text["article"]) for text in texts]
    colored = [f"{text['color'].lower()} {name}" for text, name in zip(texts, article, strict=True)]
    titles = [text["caption"] for text in texts]
    wordings = (tuple(article), tuple(colored), tuple(titles))
    images = read_images(folder, [item[0] for item in items], size)
    return Source("products", images, torch.arange(len(items)), wordings, CLOTHES + GENERIC[:8], all_names=False)


def everyday(article: str) -> str:
    """A shop's plural as people say it: Casual Shoes -> pair of casual shoes, Dresses -> dress, Tshirts -> t-shirt."""
    name = article.lower().replace("tshirt", "t-shirt")
    pairs = (
        "shoes",
        "heels",
        "sandals",
        "flops",
        "flats",
        "socks",
        "shorts",
        "jeans",
        "trousers",
        "pants",
        "leggings",
        "earrings",
    )
    if name.endswith((*pairs, "sunglasses", "boxers", "briefs", "jeggings", "capris", "tights", "cufflinks", "gloves")):
        return f"pair of {name}"
    if name.endswith(("sses", "tches", "shes", "xes")):
        return name[:-2]
    if name.endswith("scarves"):
        return name.replace("scarves", "scarf")
    return name[:-1] if name.endswith("s") and not name.endswith("ss") else name


def drawn(size: int, count: int = shapes.SPLITS["pretrain"]) -> Source:
    """Generated shapes of the split that leaves the held-out pairs away."""
    pairs = [shapes.draw("pretrain", i, size=size)[:2] for i in range(count)]
    names = tuple(name for name in shapes.CLASSES if name not in shapes.HELD_OUT)
    images = _stack((lambda image=image: image for image, _ in pairs), count, size)  # type: ignore[misc]
    return Source("shapes", images, torch.tensor([label for _, label in pairs]), (names,), DRAWINGS + GENERIC[:7])


def folder_per_class(folder: Path, size: int) -> Source:
    """Any folder with a folder per class, such as Tiny-ImageNet's `train`: pictures are found below each class folder.

    Names are the folders' names without underscores; WordNet ids are named by `words.txt` beside or in the folder.
    """
    classes = sorted(path for path in folder.iterdir() if path.is_dir()) if folder.is_dir() else []
    files = [
        (path, label)
        for label, c in enumerate(classes)
        for path in sorted(c.rglob("*"))
        if path.suffix.lower() in IMAGE_EXTENSIONS
    ]
    if not files:
        raise DataError(f"no pictures in {folder}; expected a folder per class with {', '.join(sorted(IMAGE_EXTENSIONS))} files")
    words: dict[str, str] = {}
    for listing in (folder.parent / "words.txt", folder / "words.txt"):
        if listing.is_file():
            rows = (line.split("\t", 1) for line in listing.read_text(encoding="utf-8").splitlines() if "\t" in line)
            words |= {key: text.split(",")[0].strip() for key, text in rows}
    names = tuple(words.get(c.name, c.name.replace("_", " ")) for c in classes)
    images = _stack((lambda p=p: Image.open(p) for p, _ in files), len(files), size)  # type: ignore[misc]
    return Source(folder.name, images, torch.tensor([label for _, label in files]), (names,))
