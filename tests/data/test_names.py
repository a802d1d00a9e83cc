import json
import os

import pytest

from ironclip.core.errors import DataError
from ironclip.data.names import class_list, doubts, imagenet_names, looks_like_id, prompt_name, read_classes, shipped_classes


def test_underscores_become_spaces():
    assert prompt_name("Apply_Eye__Makeup ") == "Apply Eye Makeup"


@pytest.mark.parametrize("name", ["n01855672", "class_3", "Class 12", "0", "007", "c10", "id-4", "3fa85f64c1", "??"])
def test_ids_are_recognised(name):
    assert looks_like_id(name)


@pytest.mark.parametrize("name", ["goose", "boeing 747", "747-200", "n", "class", "гусь", "鹅", "A4 paper", "cat"])
def test_words_are_not_ids(name):
    assert looks_like_id(name) is (name == "747-200")  # a bare number says nothing to a text tower


def test_doubts_offer_a_classes_file():
    (note,) = doubts(["n01855672", "n01440764"])
    assert "look like ids (n01855672, n01440764)" in note
    assert "folder<TAB>name" in note
    assert "'imagenet'" in note
    assert "'imagenet'" not in doubts(["0", "1"])[0]
    assert doubts(["goose", "owl", "boeing 747"]) == ()
    assert "1 of 4 class names look like ids (class_3)" in doubts(["goose", "owl", "fox", "class_3"])[0]


@pytest.mark.parametrize(
    ("one", "other"),
    [("owl", "owl"), ("Cat", "cat"), ("café", "cafe\u0301"), ("red_fox", "red  fox"), ("salt &amp; pepper", "salt & pepper")],
)
def test_names_that_a_text_tower_cannot_tell_apart_are_noted_with_the_remedy(one, other):
    (note,) = doubts([one, other, "fox"])
    assert note.startswith("1 class names stand for more than one class")
    assert repr(one) in note
    assert repr(other) in note
    assert "classes file" in note


@pytest.mark.parametrize(
    ("file", "text"),
    [
        ("names.txt", "# our classes\nfox\tred_fox\nowl\tbarn owl\n\nextra\tunused\n"),
        ("names.txt", "fox => red fox\nowl=>barn owl\n"),
        ("names.txt", "red fox\nbarn owl"),
        ("names.json", json.dumps({"owl": "barn owl", "fox": "red fox"})),
        ("names.json", json.dumps(["red_fox", "barn owl"])),
        ("names.txt", json.dumps(["red_fox", "barn owl"])),
        ("names.csv", "fox,red_fox\nowl,barn owl\n"),
        ("names.csv", "folder,name\r\nowl,barn owl\r\nfox,red_fox\r\n"),
        ("names.txt", "\ufefffox\tred fox\r\n  # ours\r\nowl\tbarn owl\r\n"),
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
        ("a.txt", b"caf\xe9\nowl\n", "line 1 is not UTF-8 text; save the file as UTF-8"),
        ("a.txt", "", "no class name in it"),
        ("a.txt", "# fox\n\n", "no class name in it"),
        ("a.txt", "fox\tred fox\nowl\t\n", "line 2: 'owl' has no folder"),
        ("a.txt", "fox\tred fox\n => owl\n", "line 2: expected 'folder<TAB>name'"),
        ("a.txt", "fox\tred\tfox\nowl\tbarn owl", "line 1: expected 'folder<TAB>name'"),
        ("a.txt", "fox => red => fox\nowl => owl", "line 1: expected 'folder<TAB>name'"),
        ("a.txt", "fox\tred fox\nowl\towl\nfox\tgrey fox", "line 3: 'fox' is 'grey fox' here and 'red fox' before"),
        ("a.txt", "fox,red fox\nbarn owl\n", "line 2: 'barn owl' is no 'folder,name'"),
        ("a.txt", "fox,red fox\nowel,barn owl\n", "line 2: 'owel,barn owl' is no 'folder,name'"),
        ("a.txt", "__\nowl", "line 1: '__' is no name"),
        ("a.json", '{"fox": 3, "owl": "owl"}', r"a\.json, 'fox': expected a name \(text\); got 3"),
        ("a.json", '["fox", null]', r"a\.json, name 2: expected a name \(text\); got None"),
        ("a.json", '["fox", " "]', r"a\.json, name 2: a name is empty"),
        ("a.json", '["fox", "\\ud800"]', "holds signs that are no text"),
        ("a.json", "[" * 100_000, "nested too deeply"),
        ("a.txt", '{"fox": NaN}', "not JSON: NaN is no JSON number"),
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


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16", "utf-16-be-bom"])
def test_byte_order_marks_are_read(tmp_path, encoding):
    text = "fox\tred fox\r\nowl\tbarn owl\r\n"
    content = b"\xfe\xff" + text.encode("utf-16-be") if encoding == "utf-16-be-bom" else text.encode(encoding)
    (tmp_path / "names.txt").write_bytes(content)
    assert read_classes(tmp_path / "names.txt", ["fox", "owl"]) == ("red fox", "barn owl")


def test_names_with_commas_are_names_where_no_folder_is_meant(tmp_path):
    (tmp_path / "names.txt").write_text("tench, Tinca tinca\ngoose\n")
    assert read_classes(tmp_path / "names.txt", ["n01440764", "n01855672"]) == ("tench, Tinca tinca", "goose")


def test_folders_are_found_however_their_accents_are_written(tmp_path):
    (tmp_path / "names.txt").write_text("caf\u00e9\tcoffee house\nowl\tbarn owl\n")
    assert read_classes(tmp_path / "names.txt", ["cafe\u0301", "owl"]) == ("coffee house", "barn owl")


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("red_fox\n# ours\nbarn owl\n", ("red fox", "barn owl")),
        ("fox\tred fox\nowl\tbarn owl\n", ("red fox", "barn owl")),
        ("n01440764,tench\nn01855672,goose", ("tench", "goose")),
        ('["red_fox", "owl, barn"]', ("red fox", "owl, barn")),
        ('{"fox": "red fox", "owl": "barn owl"}', ("red fox", "barn owl")),
    ],
)
def test_without_folders_the_same_file_gives_the_names_alone(tmp_path, text, expected):
    (tmp_path / "names.txt").write_text(text)
    assert class_list(tmp_path / "names.txt").alone() == expected


@pytest.mark.parametrize("text", ["cat,dog,bird\n", "fox\ncat,a small cat\n"])
def test_without_folders_a_comma_may_mean_anything_and_is_refused_with_its_line(tmp_path, text):
    (tmp_path / "names.txt").write_text(text)
    with pytest.raises(DataError, match=rf"line {text.count(chr(10))}: .* JSON list for names with commas"):
        class_list(tmp_path / "names.txt").alone()


def test_a_pipe_is_refused_and_never_waited_for(tmp_path):
    os.mkfifo(tmp_path / "names.txt")
    with pytest.raises(DataError, match="it is no regular file"):
        class_list(tmp_path / "names.txt")
