"""The images that `ironclip pretrain` reads: captioned sets, generated shapes, any folder with a folder per class.

Only images of a *train* split are ever decoded for training, so no batch can hold a validation or test image.
`caltech101`, `eurosat` and `flowers5` are an `images.zip` with an `index.json` each, `pretrain64` likewise (objects with
class names, products with titles). `pretrain64_more` holds further objects of the same classes; it may be absent.
"""

import io
import json
import zipfile
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from ironclip.core.errors import DataError
from ironclip.data import shapes
from ironclip.pretraining.data import GENERIC, Source

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


class Check(NamedTuple):
    """Held-out images that show how a run goes.

    Args:
        name: of the check, a column of the log.
        images: [N, 3, S, S] uint8.
        labels: [N] int64 positions in `names`.
        names: of the classes.
        template: a sentence with {} in the place of the name.
    """

    name: str
    images: Tensor
    labels: Tensor
    names: Sequence[str]
    template: str


def load_sources(data: Path, size: int, images: Path | None = None) -> list[Source]:
    """The training images of every set below `data`, of `shapes` and of the folder `images` if it is given.

    Args:
        data: folder that holds the four sets.
        size: S, pixels per side.
        images: a further folder with one folder per class.

    Returns:
        One source for each set.

    Raises:
        DataError: a set is missing (noticed before anything is decoded), or `images` holds no images.
    """
    for name in ("pretrain64", "caltech101", "eurosat", "flowers5"):
        read_index(data / name)
    sources = [
        all_objects(data, size),
        products(data / "pretrain64", size),
        labelled(data / "caltech101", size, GENERIC),
        labelled(data / "eurosat", size, SATELLITE + GENERIC[:8]),
        labelled(data / "flowers5", size, FLOWERS + GENERIC),
        drawn(size),
    ]
    if images is not None:
        sources.append(folder_per_class(images, size))
    return sources


def load_checks(data: Path, size: int) -> list[Check]:
    """Images of the validation splits, and the pairs of `shapes` that training does not show; no test image among them.

    Args:
        data: folder that holds the sets.
        size: S, pixels per side.

    Raises:
        DataError: a set is missing.
    """
    checks = []
    for source in (
        objects(data / "pretrain64", size, "val"),
        labelled(data / "caltech101", size, ("a photo of a {}.",), "val"),
        labelled(data / "eurosat", size, ("a centered satellite photo of {}.",), "val"),
    ):
        checks.append(Check(source.name, source.images, source.labels, source.wordings[0], source.templates[0]))
    pairs = [shapes.draw("val", i, size=size)[:2] for i in range(900) if i % 30 >= 24]
    images = torch.stack([torch.from_numpy(square(image, size)) for image, _ in pairs])
    checks.append(Check("shapes_held_out", images, torch.tensor([k for _, k in pairs]), shapes.CLASSES, "a picture of a {}."))
    return checks


def square(image: Image.Image, size: int) -> np.ndarray:
    """The centre of an image, whose shorter side becomes `size` pixels long (bicubic with antialiasing).

    Returns:
        [3, size, size] uint8, RGB.
    """
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
    """The `index.json` of an image set.

    Raises:
        DataError: `index.json` or `images.zip` is missing.
    """
    for name in ("index.json", "images.zip"):
        if not (folder / name).is_file():
            raise DataError(f"{folder / name} is missing; pre-training expects images.zip and index.json in {folder}/")
    index: dict[str, Any] = json.loads((folder / "index.json").read_text(encoding="utf-8"))
    return index


def read_images(folder: Path, files: Sequence[str], size: int) -> Tensor:
    """The named members of a folder's `images.zip`, decoded.

    Args:
        folder: of the set.
        files: N names of members.
        size: S, pixels per side.

    Returns:
        [N, 3, S, S] uint8, in the order of `files`.

    Raises:
        KeyError: the archive has no such member.
        OSError: the archive cannot be read, or a member is no image.
    """
    with zipfile.ZipFile(folder / "images.zip") as archive:
        return _stack(
            (lambda f=f: Image.open(io.BytesIO(archive.read(f))) for f in files),  # type: ignore[misc]
            len(files),
            size,
        )


def class_names(index: dict[str, Any]) -> tuple[str, ...]:
    """The class names of an index as they are put into prompts: spaces in the place of underscores.

    Source: CoOp (arXiv 2109.01134), its code.
    """
    return tuple(entry["name"].replace("_", " ") for entry in index["classes"])


def labelled(folder: Path, size: int, templates: tuple[str, ...], split: str = "train") -> Source:
    """The images of one split of a set with class names.

    Args:
        folder: of the set; the source has its name.
        size: S, pixels per side.
        templates: sentences with {} in the place of the name.
        split: as the index calls it.

    Raises:
        DataError: the set is missing.
    """
    index = read_index(folder)
    items = [item for item in index["items"] if item["split"] == split]
    labels = torch.tensor([item["label"] for item in items])
    return Source(folder.name, read_images(folder, [i["file"] for i in items], size), labels, (class_names(index),), templates)


def objects(folder: Path, size: int, split: str = "train") -> Source:
    """The images of `pretrain64` that have class names, in one split.

    Args:
        folder: of `pretrain64`.
        size: S, pixels per side.
        split: as the index calls it.

    Raises:
        DataError: the set is missing.
    """
    index = read_index(folder)
    items = [item for item in index["items"] if item[1] == split and item[2] is not None]
    labels = torch.tensor([item[2] for item in items])
    return Source("objects", read_images(folder, [i[0] for i in items], size), labels, (class_names(index),))


def all_objects(data: Path, size: int) -> Source:
    """The object photos of `pretrain64`, and those of `pretrain64_more` where that folder is present: one source.

    Args:
        data: folder that holds both.
        size: S, pixels per side.

    Raises:
        DataError: a set is missing, or the two folders do not name the same classes.
    """
    first = objects(data / "pretrain64", size)
    if not (data / "pretrain64_more").is_dir():
        return first
    more = objects(data / "pretrain64_more", size)
    if more.wordings != first.wordings:
        raise DataError(f"{data / 'pretrain64_more'} names other classes than pretrain64; both must list the same ones")
    return Source(first.name, torch.cat([first.images, more.images]), torch.cat([first.labels, more.labels]), first.wordings)


def products(folder: Path, size: int, split: str = "train") -> Source:
    """The images of `pretrain64` that have product titles, in one split.

    Each image is a label of its own. Its three wordings are the article, colour and article, and the title.

    Args:
        folder: of `pretrain64`.
        size: S, pixels per side.
        split: as the index calls it.

    Raises:
        DataError: the set is missing.
    """
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
    """Generated shapes of the split `pretrain`, which never shows the held-out pairs of colour and kind.

    Args:
        size: S, pixels per side.
        count: N, images from the beginning of the split.
    """
    pairs = [shapes.draw("pretrain", i, size=size)[:2] for i in range(count)]
    names = tuple(name for name in shapes.CLASSES if name not in shapes.HELD_OUT)
    images = _stack((lambda image=image: image for image, _ in pairs), count, size)  # type: ignore[misc]
    return Source("shapes", images, torch.tensor([label for _, label in pairs]), (names,), DRAWINGS + GENERIC[:7])


def folder_per_class(folder: Path, size: int) -> Source:
    """Any folder with a folder per class, such as Tiny-ImageNet's `train`: images are found below each class folder.

    Names are the folders' names without underscores; WordNet ids are named by `words.txt` beside or in the folder.

    Args:
        folder: the source has its name.
        size: S, pixels per side.

    Raises:
        DataError: there are no images in it.
        OSError: a file is no image, or cannot be read.
    """
    classes = sorted(path for path in folder.iterdir() if path.is_dir()) if folder.is_dir() else []
    files = [
        (path, label)
        for label, c in enumerate(classes)
        for path in sorted(c.rglob("*"))
        if path.suffix.lower() in IMAGE_EXTENSIONS
    ]
    if not files:
        raise DataError(f"no images in {folder}; expected a folder per class with {', '.join(sorted(IMAGE_EXTENSIONS))} files")
    words: dict[str, str] = {}
    for listing in (folder.parent / "words.txt", folder / "words.txt"):
        if listing.is_file():
            rows = (line.split("\t", 1) for line in listing.read_text(encoding="utf-8").splitlines() if "\t" in line)
            words |= {key: text.split(",")[0].strip() for key, text in rows}
    names = tuple(words.get(c.name, c.name.replace("_", " ")) for c in classes)
    images = _stack((lambda p=p: Image.open(p) for p, _ in files), len(files), size)  # type: ignore[misc]
    return Source(folder.name, images, torch.tensor([label for _, label in files]), (names,))
