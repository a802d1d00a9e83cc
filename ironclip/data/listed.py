"""Lists below a folder of images whose names say that they give its splits: named, and never ignored."""

from collections import defaultdict

from ironclip.data.roles import WORDS, roles, words
from ironclip.data.walk import Contents

ENDINGS = ("txt", "csv", "tsv", "lst", "json")


def listed_splits(found: Contents) -> list[str]:
    """Paths of the lists in the first folder that gives splits: `meta/train.txt` and `meta/test.txt`, `train_test_split.txt`."""
    folders: dict[str, dict[str, str]] = defaultdict(dict)
    for _, path in found.left_out:
        folder, _, name = path.rpartition("/")
        stem, _, ending = name.rpartition(".")
        if ending.lower() in ENDINGS:
            folders[folder][stem] = path
    for _, lists in sorted(folders.items()):
        both = [path for stem, path in lists.items() if {"train", "test"} <= {WORDS.get(word) for word in words(stem)}]
        named = roles(lists)
        if both or len(set(named.values())) > 1:
            return both or sorted(lists[stem] for stem in named)
    return []
