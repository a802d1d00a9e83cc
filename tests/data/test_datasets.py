"""The value `Dataset` itself."""

import json
import zipfile

import pytest
from painted import Painted, listed

from ironclip.core.errors import DataError, UsageError
from ironclip.data.records import Dataset, FileSource, Item, ZipSource, digest


def test_the_hash_knows_classes_and_lists_and_nothing_of_the_machine(tmp_path):
    lists = {"train": (Item(FileSource(tmp_path, "a.png"), 1, 0),), "test": (Item(Painted("b.png"), 0, 0),)}
    one = Dataset("one", ("x", "y"), ("{}",), lists, "here")
    expected = {"classes": ["x", "y"], "splits": {"train": [["a.png", 1]], "val": [], "test": [["b.png", 0]]}}
    text = json.dumps(expected, sort_keys=True, separators=(",", ":"))
    assert one.sha256 == digest(expected) == __import__("hashlib").sha256(text.encode()).hexdigest()
    elsewhere = {**lists, "train": (Item(FileSource(tmp_path / "other", "a.png"), 1, 0),)}
    assert Dataset("two", ("x", "y"), ("a {}",), elsewhere, "there").sha256 == one.sha256
    assert one.changed(classes=("x", "z")).sha256 != one.sha256


def test_a_set_prints_itself_in_one_line():
    assert str(listed({"train": [0, 1, 1], "test": [0]})) == "toy: 2 classes, 3 train / 0 val / 1 test (test)"


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"classes": ("only",)}, r"at least two classes are needed; found 1: \['only'\]"),
        ({"splits": {"train": ()}}, "found no image"),
        ({"splits": {"test": (Item(Painted("p.png"), 7, 0),)}}, r"label 7 of 'p\.png' \(test\) is out of range; 2 classes"),
        ({"splits": {"test": (Item(Painted("p.png"), -1, 0),)}}, "label -1 of"),
        ({"splits": {"tset": (Item(Painted("p.png"), 0, 0),)}}, "unknown split 'tset'; did you mean 'test'"),
        ({"templates": ("a photo",)}, "has no place for the class name"),
    ],
)
def test_contradictions_are_refused(fields, message):
    with pytest.raises((DataError, UsageError), match=message):
        listed({"train": [0, 1], "test": [0]}).changed(**fields)


def test_stamps_change_with_the_bytes(tmp_path, paint):
    path = paint(tmp_path / "a.png")
    source = FileSource(tmp_path, "a.png")
    before = source.stamp()
    assert before == FileSource(tmp_path, "a.png").stamp()
    paint(path, seed=1, size=(30, 30))
    assert source.stamp() != before
    assert FileSource(tmp_path, "gone").stamp() == "missing"
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
        archive.write(path, "a.png")
        archive.write(paint(tmp_path / "b.png"), "b.png")
    stamps = [ZipSource(tmp_path / "a.zip", name).stamp() for name in ("a.png", "b.png", "c.png")]
    assert len(set(stamps)) == 3
    assert stamps[2] == "missing"
