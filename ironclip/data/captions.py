"""Images with captions, for retrieval: a data set whose images have texts, or a folder with images.zip and index.json."""

from dataclasses import dataclass
from pathlib import Path

from ironclip.core.errors import DataError
from ironclip.data.archives import is_archive
from ironclip.data.lists import read_json
from ironclip.data.opening import place
from ironclip.data.records import Dataset, ZipSource, caption_of, enumerate_items

NAMELESS = ("picture", "photo")  # a data set has classes; these stand where images have captions alone


@dataclass(frozen=True)
class Captioned:
    """A data set and the captions of its images.

    Args:
        dataset: the images. texts: index of an image of the split -> its captions.
    """

    dataset: Dataset
    texts: dict[int, tuple[str, ...]]


def captions_of(dataset: Dataset, split: str) -> Captioned:
    """One caption for each image of this split.

    Raises:
        DataError: an image has none.
    """
    texts: dict[int, tuple[str, ...]] = {item.index: (caption_of(item),) for item in dataset.items(split)}
    missing = sum(not text for (text,) in texts.values())
    if missing:
        raise DataError(
            f"{dataset.name}: {missing} of {len(texts)} images have no caption; retrieval needs `shapes`, a table with a "
            "column caption, or a folder with images.zip and an index.json whose items have captions"
        )
    return Captioned(dataset, texts)


def captioned_folder(name: str | Path) -> Captioned | None:
    """The images and captions of a folder with images.zip and index.json, by its path or its name below a data root.

    None where it is not such a folder.

    Each item of index.json has "file", a member of the archive, and "captions", a list of texts.

    Raises:
        DataError: items without images or without texts.
    """
    folder = place(name)
    if not is_archive(folder):
        return None
    index, archive = folder / "index.json", folder / "images.zip"
    value = read_json(index, "index")
    items = value.get("items") if isinstance(value, dict) else None
    if not isinstance(items, list) or not any(isinstance(item, dict) and "captions" in item for item in items):
        return None
    sources, texts = [], {}
    for number, item in enumerate(items):
        file, captions = (item.get("file"), item.get("captions")) if isinstance(item, dict) else (None, None)
        if not isinstance(file, str) or not isinstance(captions, list) or not captions:
            raise DataError(f"{index}: item {number} needs a file and at least one caption")
        if not all(isinstance(text, str) and text.strip() for text in captions):
            raise DataError(f"{index}: a caption of item {number} is no text")
        sources.append((ZipSource(archive, file), 0))
        texts[number] = tuple(text.strip() for text in captions)
    name = str(value.get("dataset") or folder.name)
    dataset = Dataset(
        name=name, classes=NAMELESS, templates=("{}",), splits={"test": enumerate_items(sources)}, origin=str(folder)
    )
    return Captioned(dataset, texts)
