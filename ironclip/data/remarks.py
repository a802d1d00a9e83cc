"""Warnings about a set before a run: names that mean nothing or the same, splits that measure nothing."""

from collections import Counter

from ironclip.core.shown import number_of
from ironclip.data.names import doubts
from ironclip.data.records import SPLITS, Dataset, FileSource


def remarks(dataset: Dataset) -> tuple[str, ...]:
    """Notes on the class names and on what the splits can measure."""
    return (*doubts(dataset.classes), *gaps(dataset), *_shared(dataset))


NO_TEST = "there is no test image: nothing can be measured on it"


def gaps(dataset: Dataset) -> tuple[str, ...]:
    """Notes on what the splits cannot train or measure."""
    notes = []
    if not dataset.splits["train"]:
        notes.append("there is no training image: nothing can be trained on it")
    if not dataset.splits["test"]:
        notes.append(NO_TEST)
    for split, what in (("train", "training"), ("test", "test")):
        counts = dataset.counts(split)
        absent = [name for name, count in zip(dataset.classes, counts) if not count]
        if dataset.splits[split] and absent:
            so = "" if split == "train" else ": their accuracy cannot be measured"
            notes.append(f"{number_of(len(absent), 'class', 'has', 'have')} no {what} image, e.g. {absent[0]!r}{so}")
    return tuple(notes)


def too_few(dataset: Dataset, shots: int) -> tuple[str, ...]:
    """Which classes have fewer training images than shots."""
    few = [(name, count) for name, count in zip(dataset.classes, dataset.counts("train")) if count < shots]
    if not few:
        return ()
    name, count = min(few, key=lambda pair: pair[1])
    remedy = f"ask for at most {number_of(count, 'shot')}, or add images" if count else "add images"
    which = f"{number_of(len(few), 'class', 'has', 'have')} fewer training images than {number_of(shots, 'shot')}"
    return (f"{which}, e.g. {name!r} has {count}; {remedy}",)


def _shared(dataset: Dataset) -> tuple[str, ...]:
    """Files listed in two splits: training images that are also tested."""
    names = [{item.source.name for item in dataset.splits[split]} for split in SPLITS]
    if sum(map(len, names)) == len(set().union(*names)):
        return ()  # a name is hashed much faster than a file
    files = [{item.source for item in dataset.splits[split] if isinstance(item.source, FileSource)} for split in SPLITS]
    twice = [source.name for source, count in Counter(source for each in files for source in each).items() if count > 1]
    return (f"{number_of(len(twice), 'image', 'is', 'are')} listed in more than one split, e.g. {twice[0]!r}",) if twice else ()
