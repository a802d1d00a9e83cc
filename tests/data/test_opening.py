import os

import pytest

from ironclip.core.errors import DataError, UsageError
from ironclip.data import open_dataset
from ironclip.data.opening import data_roots


def test_unknown_names_offer_the_nearest(tmp_path):
    for name, near in (("caltech10", "caltech101"), ("cifar-10", "cifar10"), ("shape", "shapes")):
        with pytest.raises(UsageError, match=f"unknown data set {name!r}; did you mean {near!r}"):
            open_dataset(name)


def test_sets_in_the_data_root_are_offered_too(shared):
    with pytest.raises(UsageError, match="did you mean 'clothing10'"):
        open_dataset("clothing", root=shared / "data")


@pytest.mark.parametrize("path", ["./gone", "photos/gone", "list.csv"])
def test_missing_paths_are_named(path):
    with pytest.raises(DataError, match="no such file or folder; give the path"):
        open_dataset(path)


@pytest.mark.parametrize("name", ["", " "])
def test_an_empty_name_is_not_the_current_folder(name):
    with pytest.raises(UsageError, match="got an empty text"):
        open_dataset(name)


def test_a_list_that_is_a_pipe_is_refused_in_one_short_line(tmp_path):
    for name in ("a.csv", "a.json", "a.tar"):
        os.mkfifo(tmp_path / name)
        with pytest.raises(DataError, match=r"^cannot read the [a-z ]+ \S+: it is no regular file$"):
            open_dataset(tmp_path / name)


def test_a_file_that_is_no_table_is_refused(tmp_path):
    (tmp_path / "photo.jpg").write_text("")
    with pytest.raises(DataError, match=r"expected a folder of images or a table \(\.csv\); got a \.jpg"):
        open_dataset(tmp_path / "photo.jpg")


def test_names_are_looked_for_below_the_data_roots(photos, tmp_path, monkeypatch):
    expected = open_dataset(photos).sha256
    assert open_dataset("photos", root=tmp_path).sha256 == expected
    assert open_dataset("photos", root=[tmp_path / "a", tmp_path]).sha256 == expected
    (tmp_path / "data").mkdir()
    photos.rename(tmp_path / "data" / "photos")
    assert open_dataset("photos").sha256 == expected
    monkeypatch.setenv("IRONCLIP_DATA", os.pathsep.join(["x", "y"]))
    assert [str(root) for root in data_roots()] == ["x", "y"]
    with pytest.raises(UsageError):
        open_dataset("photos")


def test_templates_and_names_can_be_given_for_any_set(photos, tmp_path):
    assert open_dataset(photos, templates="a {} outdoors").templates == ("a {} outdoors",)
    (tmp_path / "names.txt").write_text("\n".join(f"thing {k}" for k in range(30)))
    assert open_dataset("shapes", classes_file=tmp_path / "names.txt").classes[7] == "thing 7"
    with pytest.raises(DataError, match="30 names for 3 classes"):
        open_dataset(photos, classes_file=tmp_path / "names.txt")


def test_what_the_system_refuses_is_one_line(photos, monkeypatch):
    with pytest.raises(DataError, match=r"cannot read .*name too long"):
        open_dataset("x" * 5000)

    def locked(*_, **__):
        raise PermissionError(13, "Permission denied", str(photos / "owl"))

    monkeypatch.setattr(os, "scandir", locked)
    with pytest.raises(DataError, match=r"cannot read .*Permission denied"):
        open_dataset(photos)


@pytest.mark.parametrize("name", ["shapes", "cifar10", "torchvision:dtd", "imagenet"])
def test_a_split_file_without_use_is_refused(name, tmp_path):
    with pytest.raises(UsageError, match="a split file belongs to a set in CoOp's layout"):
        open_dataset(name, split_file=tmp_path / "split.json")


def test_a_variant_that_does_not_exist_is_refused():
    with pytest.raises(UsageError, match="dtd has no variant 'sketch'; write dtd"):
        open_dataset("dtd:sketch")
