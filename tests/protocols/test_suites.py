"""Named lists of data sets: what is in them, what the published traps do, and what happens to sets that are not here."""

import pytest

from ironclip.core.errors import DataError, UsageError
from ironclip.data import open_dataset
from ironclip.data.catalogue import catalogue
from ironclip.protocols import suites
from ironclip.protocols.suites import SUITES, as_tecoa, open_suite


def shaped(name, classes, templates=("a photo of a {}.",)):
    """Generated images under another name and with other class names."""
    base = open_dataset("shapes")
    splits = {split: tuple(item for item in items if item.label < len(classes)) for split, items in base.splits.items()}
    return base.changed(name=name, classes=tuple(classes), templates=templates, splits=splits)


def test_every_data_set_of_a_suite_is_known():
    for names in SUITES.values():
        assert {name.partition(":")[0] for name in names} <= catalogue().keys()
        assert len(set(names)) == len(names)
    assert len(SUITES["coop"]) == 11
    assert len(SUITES["fine-grained"]) == 8
    assert len(SUITES["tecoa"]) == 17


def test_caltech_has_two_classes_called_person_and_all_images_are_tested():
    base = shaped("torchvision:caltech101", ["Faces", "Faces_easy", "Ketch/Boat"])
    made = as_tecoa("caltech101", base)
    assert made.classes == ("person", "person", "ketch boat")
    assert made.templates == ("A photo of a {}.",)
    assert len(made.items("test")) == sum(len(items) for items in base.splits.values())
    assert made.sha256 != base.sha256


def test_other_sets_keep_their_test_split_and_have_the_prompts_of_the_suite():
    base = shaped("cifar10", ["Air_Plane", "cat"])
    made = as_tecoa("cifar10", base)
    assert made.classes == ("air plane", "cat")
    assert made.templates == ("This is a photo of a {}",)
    assert made.items("test") == base.items("test")
    assert as_tecoa("food101", shaped("food101", ["pie", "soup"])).templates == ("a photo of {}, a type of food.",)
    misspelt = as_tecoa("pcam", shaped("pcam", ["no", "yes"]))
    assert misspelt.templates == ("{}",)
    assert [name[:5] for name in misspelt.classes] == ["Tthis", "This "]


def test_a_set_that_is_not_here_is_left_out_with_its_reason(monkeypatch):
    asked = []

    def opened(name):
        asked.append(name)
        if name.removeprefix("torchvision:") in ("dtd", "eurosat"):
            return shaped(name, ["a", "b"])
        raise DataError(f"{name} is not here")

    monkeypatch.setattr(suites, "open_dataset", opened)
    found, missing = open_suite("cross")
    assert list(found) == ["dtd", "eurosat"]
    assert missing.keys() == set(SUITES["cross"]) - {"dtd", "eurosat"}
    assert all("is not here" in reason for reason in missing.values())
    asked.clear()
    found, _ = open_suite("tecoa", only=["dtd"])
    assert asked == ["torchvision:dtd"]
    assert found["dtd"].name == "dtd"
    with pytest.raises(DataError, match="none of the data sets of the suite shift is here"):
        open_suite("shift")


def test_wrong_names_are_refused():
    with pytest.raises(UsageError, match="did you mean 'tecoa'"):
        open_suite("tekoa")
    with pytest.raises(UsageError, match="data set of the suite shift"):
        open_suite("shift", only=["dtd"])
