import json

import pytest

from ironclip.core.errors import DataError
from ironclip.data.names import doubts, imagenet_names, looks_like_id, prompt_name, read_classes, shipped_classes


def test_underscores_become_spaces():
    assert prompt_name("Apply_Eye__Makeup ") == "Apply Eye Makeup"


@pytest.mark.parametrize("name", ["n01855672", "class_3", "Class 12", "0", "007", "c10", "id-4", "3fa85f64c1", "??"])
def test_ids_are_recognised(name):
    assert looks_like_id(name)


@pytest.mark.parametrize("name", ["goose", "boeing 747", "747-200", "n", "class", "гусь", "鹅", "A4 paper", "cat"])
def test_words_are_not_ids(name):
    assert looks_like_id(name) is (name == "747-200")  # a bare number says nothing to a text tower


def test_doubts_offer_a_classes_file():
    (note,) = doubts(["n01855672", "n01440764"], ["n01855672", "n01440764"])
    assert "look like ids (n01855672, n01440764)" in note
    assert "folder<TAB>name" in note
    assert "'imagenet'" in note
    assert "'imagenet'" not in doubts(["0", "1"], ["0", "1"])[0]
    assert doubts(["a", "b"], ["goose", "owl"]) == ()
    assert "2 class names" not in doubts(["a", "b", "c"], ["owl", "owl", "fox"])[0]
    assert "more than one class, e.g. 'owl'" in doubts(["a", "b", "c"], ["owl", "owl", "fox"])[0]


@pytest.mark.parametrize(
    ("file", "text"),
    [
        ("names.txt", "# our classes\nfox\tred_fox\nowl\tbarn owl\n\nextra\tunused\n"),
        ("names.txt", "fox => red fox\nowl=>barn owl\n"),
        ("names.txt", "red fox\nbarn owl"),
        ("names.json", json.dumps({"owl": "barn owl", "fox": "red fox"})),
        ("names.json", json.dumps(["red_fox", "barn owl"])),
    ],
)
def test_every_kind_of_classes_file(tmp_path, file, text):
    (tmp_path / file).write_text(text)
    assert read_classes(tmp_path / file, ["fox", "owl"]) == ("red fox", "barn owl")


@pytest.mark.parametrize(
    ("file", "text", "message"),
    [
        ("a.txt", "fox\tred fox\n", "no name for 1 of 2 classes, e.g. 'owl'; add a line"),
        ("a.txt", "red fox\n", r"1 names for 2 classes \(fox, owl, \.\.\.\)"),
        ("a.txt", "fox\tred fox\nowl\n", r"some lines are 'folder<TAB>name' \(e\.g\. .*\) and some are not"),
        ("a.json", "{", r"a\.json: not JSON"),
        ("a.json", '{"fox": "red fox"}', "no name for 1 of 2 classes"),
        ("a.json", "3", "expected a JSON object .* or a list of names"),
        ("a.txt", b"\xff\xfe\x00", "cannot read the classes file"),
    ],
)
def test_classes_files_that_do_not_fit(tmp_path, file, text, message):
    (tmp_path / file).write_bytes(text if isinstance(text, bytes) else text.encode())
    with pytest.raises(DataError, match=message):
        read_classes(tmp_path / file, ["fox", "owl"])


def test_a_missing_classes_file_is_named():
    with pytest.raises(DataError, match=r"cannot read the classes file gone\.txt"):
        read_classes("gone.txt", ["fox"])


def test_imagenet_names_wordnet_ids():
    names = imagenet_names()
    assert len(names) == 1000
    assert list(names) == sorted(names)
    assert read_classes("imagenet", ["n01855672", "n01440764"]) == ("goose", "tench")


def test_shipped_names_are_those_of_the_lists(shared):
    import gzip

    for file in sorted((shared / "data" / "splits").glob("*.json.gz")):
        names = json.loads(gzip.decompress(file.read_bytes()))["classes"]
        assert shipped_classes(file.name.removesuffix(".json.gz")) == tuple(map(prompt_name, names))
    assert shipped_classes("food101") is None
