"""The hub's library is optional, so a stand-in with its interface takes its place."""

import sys
from types import ModuleType

import pytest
from PIL import Image

from ironclip.core.errors import DataError, UsageError
from ironclip.data import decode, open_dataset
from ironclip.data.records import SPLITS


class ClassLabel:
    def __init__(self, names):
        self.names = names


class Value:
    pass


class Part(list):
    """Rows with features, columns by name and rows by number."""

    def __init__(self, features, rows):
        super().__init__(rows)
        self.features = features

    def __getitem__(self, key):
        return [row[key] for row in self] if isinstance(key, str) else super().__getitem__(key)


Picture = type("Image", (), {})


def rows(labels, column="label"):
    return [{"img": Image.new("RGB", (2, 2), (k, k, k)), column: label} for k, label in enumerate(labels)]


@pytest.fixture
def library(monkeypatch):
    """Installs a stand-in; its `sets` are what it can load, its `asked` what it was asked for."""
    module = ModuleType("datasets")
    module.sets, module.asked = {}, []
    module.DownloadConfig = lambda local_files_only: local_files_only

    def load_dataset(name, configuration, download_config):
        module.asked.append((name, configuration, download_config))
        if name not in module.sets:
            raise ConnectionError(f"cannot\nfind {name}")
        return module.sets[name]

    module.load_dataset = load_dataset
    monkeypatch.setitem(sys.modules, "datasets", module)
    return module


def test_columns_are_found_by_their_types(library):
    features = {"img": Picture(), "label": ClassLabel(["red_fox", "owl"])}
    labels = {"train": [0, 1, 1], "validation": [0], "test": [1, 0]}
    library.sets["me/birds"] = {split: Part(features, rows(found)) for split, found in labels.items()}
    found = open_dataset("hf:me/birds@small")
    assert library.asked == [("me/birds", "small", True)]
    assert (found.name, found.classes) == ("hf:me/birds@small", ("red fox", "owl"))
    assert [found.counts(split) for split in SPLITS] == [(1, 2), (1, 0), (1, 1)]
    assert decode(found.splits["train"][2].source).getpixel((0, 0)) == (2, 2, 2)
    open_dataset("hf:me/birds", download=True)
    assert library.asked[-1] == ("me/birds", None, False)


def test_words_as_labels_and_a_single_split(library):
    features = {"img": Picture(), "label": Value()}
    library.sets["me/birds"] = {"train": Part(features, rows(["owl", "fox"] * 10))}
    found = open_dataset("hf:me/birds")
    assert found.classes == ("fox", "owl")
    assert [found.counts(split) for split in SPLITS] == [(6, 6), (1, 1), (3, 3)]
    assert found.origin == "hub me/birds, own split, seed 0"


def test_validation_serves_as_test(library):
    features = {"img": Picture(), "label": ClassLabel(["a", "b"])}
    library.sets["me/birds"] = {"train": Part(features, rows([0, 1])), "validation": Part(features, rows([0, 1]))}
    found = open_dataset("hf:me/birds")
    assert [len(found.splits[split]) for split in SPLITS] == [2, 0, 2]
    assert found.origin.endswith("validation as test")


def test_sets_that_cannot_be_used(library):
    with pytest.raises(DataError, match="hf:me/gone cannot be loaded: cannot find me/gone; it may have to be downloaded"):
        open_dataset("hf:me/gone")
    library.sets["me/text"] = {"train": Part({"text": Value()}, [])}
    with pytest.raises(DataError, match="hf:me/text has no column with an image; columns: text"):
        open_dataset("hf:me/text")
    library.sets["me/captions"] = {"train": Part({"img": Picture(), "text": Value()}, [])}
    with pytest.raises(DataError, match="has no column with a label"):
        open_dataset("hf:me/captions")


def test_without_the_library_the_extra_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "datasets", None)
    with pytest.raises(UsageError, match=r'hf:me/birds needs the library `datasets`; .*pip install "ironclip\[hf\]"'):
        open_dataset("hf:me/birds")
