import csv

import pytest

from ironclip.core.errors import DataError
from ironclip.data import EvalSet, open_dataset
from ironclip.data.records import SPLITS


def names(dataset, split):
    return [item.source.name for item in dataset.splits[split]]


def test_a_folder_for_each_class_is_divided_by_class(photos):
    found = open_dataset(photos)
    assert found.classes == ("badger", "owl", "red fox")
    assert found.templates == ("a photo of a {}.",)
    assert [found.counts(split) for split in SPLITS] == [(4, 3, 6), (1, 0, 1), (2, 2, 3)]
    everything = [name for split in SPLITS for name in names(found, split)]
    assert len(set(everything)) == len(everything) == 22
    for split in SPLITS:
        for item in found.splits[split]:
            assert item.source.name.split("/")[0].replace("_", " ") == found.classes[item.label]
    assert found.origin == "own split 60/10/30, seed 0"


def test_an_own_split_is_the_same_each_time_and_follows_the_seed(photos):
    assert open_dataset(photos).sha256 == open_dataset(photos).sha256
    assert open_dataset(photos, seed=1).sha256 != open_dataset(photos).sha256
    assert sum(open_dataset(photos, fractions=(0.5, 0.0, 0.5)).counts("val")) == 0


def test_pictures_are_found_below_and_other_files_are_not(photos, paint):
    paint(photos / "owl" / "deep" / "er" / "x.JPG")
    paint(photos / "owl" / "._x.png")
    paint(photos / ".thumbnails" / "x.png")
    paint(photos / "__MACOSX" / "x.png")
    (photos / "owl" / "notes.txt").write_text("")
    (photos / "readme.md").write_text("")
    found = open_dataset(photos)
    assert sum(len(items) for items in found.splits.values()) == 23
    assert "owl/deep/er/x.JPG" in [name for split in SPLITS for name in names(found, split)]


def test_split_folders_are_kept(tmp_path, paint):
    for split, count in (("Train", 3), ("valid", 1), ("test", 2)):
        for name in ("fox", "owl"):
            for n in range(count):
                paint(tmp_path / "set" / split / name / f"{n}.png", n)
    found = open_dataset(tmp_path / "set")
    assert [found.counts(split) for split in SPLITS] == [(3, 3), (1, 1), (2, 2)]
    assert names(found, "val") == ["valid/fox/0.png", "valid/owl/0.png"]
    assert (found.origin, found.notes) == ("split folders", ())


def test_without_a_test_folder_val_is_the_test_split(tmp_path, paint):
    for split in ("train", "val"):
        for name in ("fox", "owl"):
            paint(tmp_path / "set" / split / name / "a.png")
    paint(tmp_path / "set" / "val" / "newt" / "a.png")
    found = open_dataset(tmp_path / "set")
    assert [found.counts(split) for split in SPLITS] == [(1, 0, 1), (0, 0, 0), (1, 1, 1)]
    assert found.notes[0] == "there is no test folder: val serves as the test split"
    assert "1 class has no training image, e.g. 'newt'" in found.notes[1]


def test_classes_called_train_among_others_are_classes(tmp_path, paint):
    for name in ("train", "bus", "car"):
        for n in range(3):
            paint(tmp_path / "set" / name / f"{n}.png", n)
    assert open_dataset(tmp_path / "set").classes == ("bus", "car", "train")


def test_folders_named_by_ids_get_a_note_and_names_from_a_file(tmp_path, paint):
    for name in ("n01855672", "n01440764"):
        for n in range(3):
            paint(tmp_path / "set" / name / f"{n}.png", n)
    assert "look like ids" in open_dataset(tmp_path / "set").notes[0]
    named = open_dataset(tmp_path / "set", classes_file="imagenet")
    assert (named.classes, named.notes) == (("tench", "goose"), ())


def test_folders_that_hold_no_set_say_what_was_expected(tmp_path, paint):
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match="expected one folder of images for each class; found an empty folder"):
        open_dataset(tmp_path / "empty")
    paint(tmp_path / "loose" / "a.png")
    with pytest.raises(DataError, match="found 1 image directly in it"):
        open_dataset(tmp_path / "loose")
    paint(tmp_path / "one" / "fox" / "a.png")
    with pytest.raises(DataError, match=r"at least two classes are needed; found 1: \['fox'\]"):
        open_dataset(tmp_path / "one")
    (tmp_path / "one" / "owl").mkdir()
    with pytest.raises(DataError, match="the class folder 'owl' holds no image"):
        open_dataset(tmp_path / "one")
    paint(tmp_path / "flat" / "train" / "a.png")
    with pytest.raises(DataError, match=r"train/a\.png lies in no class folder; expected train/<class>/<image>"):
        open_dataset(tmp_path / "flat")


def table(path, rows, header=("path", "label"), delimiter=","):
    with path.open("w", newline="") as file:
        csv.writer(file, delimiter=delimiter).writerows([header, *rows])
    return path


@pytest.mark.parametrize("delimiter", [",", ";", "\t"])
def test_a_table_of_paths_and_labels(photos, delimiter):
    rows = [(f"{name}/{n:02d}.png", name) for name in ("owl", "badger") for n in range(5)]
    found = open_dataset(table(photos / "list.csv", rows, delimiter=delimiter))
    assert (found.name, found.classes) == ("list", ("badger", "owl"))
    assert [found.counts(split) for split in SPLITS] == [(3, 3), (0, 0), (2, 2)]


def test_a_table_with_splits_and_numbered_labels(photos, tmp_path):
    rows = [(photos / "owl" / "00.png", "10", "training"), ("photos/owl/01.png", 2, "Test"), ("photos/owl/02.png", 2, "val")]
    (tmp_path / "names.txt").write_text("2\tfox\n10\towl\n")
    path = table(tmp_path / "list.csv", rows, ("path", "label", "split"))
    found = open_dataset(path, classes_file=tmp_path / "names.txt")
    assert found.classes == ("fox", "owl")
    assert [(item.label, item.index) for split in SPLITS for item in found.splits[split]] == [(1, 0), (0, 0), (0, 0)]
    assert "look like ids" in open_dataset(path).notes[0]


@pytest.mark.parametrize(
    ("rows", "header", "message"),
    [
        ([("owl/00.png", "owl")], ("file", "label"), "no column path; found file, label"),
        ([], ("path", "label"), "no line below the header"),
        ([("owl/00.png", "")], ("path", "label"), "line 2: path or label is empty"),
        ([("owl/00.png", "owl", "trian")], ("path", "label", "split"), "line 2: split 'trian'; expected train, val or test"),
        ([("owl/00.png", "owl", "test"), ("owl/01.png", "owl", "")], ("path", "label", "split"), "line 3: split ''"),
        ([("gone/00.png", "owl")], ("path", "label"), r"none of the first images exists, e\.g\. .*gone/00\.png"),
        ([("owl/00.png", "owl")], ("path", "label"), "at least two classes"),
    ],
)
def test_tables_that_do_not_fit(photos, rows, header, message):
    with pytest.raises(DataError, match=message):
        open_dataset(table(photos / "list.csv", rows, header))


def test_a_table_that_is_no_text(tmp_path):
    for content in (b"\xff\xfe\x00", b"path,label\ncaf\xe9.png,owl\n", b"p\0a\0t\0h\0"):
        (tmp_path / "list.csv").write_bytes(content)
        with pytest.raises(DataError, match=r"cannot read the table .* save"):
            open_dataset(tmp_path / "list.csv")


def test_file_names_need_not_be_text(photos):
    raw = b"caf\xe9.png".decode("utf-8", "surrogateescape")
    (photos / "owl" / "00.png").rename(photos / "owl" / raw)
    found = open_dataset(photos)
    assert f"owl/{raw}" in [name for split in SPLITS for name in names(found, split)]
    assert len(found.sha256) == 64
    assert len(EvalSet(found, resolution=4)) == 7
