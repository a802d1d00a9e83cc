import json
import zipfile

import pytest

from ironclip.core.errors import DataError
from ironclip.data import available, decode, few_shot, open_dataset
from ironclip.data.checking import check
from ironclip.data.records import SPLITS


@pytest.fixture
def packed(tmp_path, paint):
    """Writes a set of two classes; returns (folder, index)."""
    folder = tmp_path / "data" / "birds"
    folder.mkdir(parents=True)
    index = {
        "dataset": "birds",
        "splits_from": "drawn by hand",
        "classes": [{"id": 1, "folder": "b", "name": "barn_owl"}, {"id": 0, "folder": "a", "name": "goose"}],
        "items": [
            {"file": f"{'ab'[k % 2]}/{k}.png", "label": k % 2, "split": split}
            for k, split in enumerate(["train"] * 4 + ["test"] * 2)
        ],
    }
    with zipfile.ZipFile(folder / "images.zip", "w") as archive:
        for k, item in enumerate(index["items"]):
            archive.write(paint(tmp_path / f"{k}.png", k), item["file"])
    (folder / "index.json").write_text(json.dumps(index))
    return folder, index


def test_a_zip_set_opens_by_name_and_by_path(packed, tmp_path):
    found = open_dataset("birds", root=tmp_path / "data")
    assert found.sha256 == open_dataset(packed[0]).sha256
    assert found.classes == ("goose", "barn owl")
    assert [found.counts(split) for split in SPLITS] == [(2, 2), (0, 0), (1, 1)]
    assert found.origin == "drawn by hand"
    assert decode(found.splits["test"][0].source).tobytes() == decode(tmp_path / "4.png").tobytes()


def test_known_sets_get_their_template(packed):
    folder, index = packed
    (folder / "index.json").write_text(json.dumps({**index, "dataset": "eurosat"}))
    assert open_dataset(folder).templates == ("a centered satellite photo of {}.",)
    assert open_dataset(folder, templates="{}").templates == ("{}",)
    (folder / "index.json").write_text(json.dumps({**index, "templates": ["one {}", "two {}"]}))
    assert open_dataset(folder).templates == ("one {}", "two {}")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"classes": 3}, r"index\.json: expected JSON with 'classes'"),
        ({"items": [{"file": "a/0.png"}]}, "item 0: expected an object with 'label'"),
        (
            {"items": [{"file": "a/9.png", "label": 0, "split": "test"}]},
            r"1 of 1 images of index\.json are missing, e\.g\. a/9",
        ),
        ({"items": [{"file": "a/0.png", "label": 0, "split": "dev"}]}, r"split 'dev' of a/0\.png; expected train, val, test"),
        ({"items": [{"file": "a/0.png", "label": 2, "split": "test"}]}, "label 2 of 'a/0.png'"),
        ({"items": []}, "found no image"),
        ({"items": 3}, "expected JSON with 'classes'"),
        ({"items": [7]}, "item 0: expected an object with 'file'; got 7"),
        ({"items": [{"file": None, "label": 0, "split": "test"}]}, "item 0: expected an image's path .* got None"),
        ({"items": [{"file": "a/0.png", "label": "0", "split": "test"}]}, "expected a label .* got '0'"),
        ({"items": [{"file": "a/0.png", "label": 0.5, "split": "test"}]}, "expected a label .* got 0.5"),
        ({"items": [{"file": "a/0.png", "label": False, "split": "test"}]}, "expected a label .* got False"),
        ({"items": [{"file": "a/0.png", "label": 0, "split": ["test"]}]}, r"split \['test'\] of a/0\.png; expected train"),
        ({"items": [{"file": "a/0.png", "label": 0, "split": None}]}, "split None of"),
        ({"classes": [{"id": 0, "name": 5}, {"id": 1, "name": "b"}]}, "class 0: expected a class name .* got 5"),
        ({"classes": [{"id": 0, "name": ""}, {"id": 1, "name": "b"}]}, "class 0: a class name is empty"),
        ({"classes": [{"id": 0, "name": "\ud800"}, {"id": 1, "name": "b"}]}, "holds signs that are no text"),
        ({"classes": [{"id": 0, "name": "a"}, {"id": 0, "name": "b"}]}, "the id 0 is there twice"),
        ({"classes": [{"id": "0", "name": "a"}, {"id": 1, "name": "b"}]}, "expected a label .* got '0'"),
        ({"classes": ["a", "b"]}, "expected an object with 'id'; got 'a'"),
        ({"dataset": 5}, "expected a name .* got 5"),
        ({"dataset": "\udfff"}, "holds signs that are no text"),
        ({"templates": "{}"}, "expected templates"),
        ({"templates": [None]}, "expected a template .* got None"),
        ({"splits_from": {}}, "expected a text"),
    ],
)
def test_an_index_that_does_not_fit(packed, change, message):
    folder, index = packed
    (folder / "index.json").write_text(json.dumps({**index, **change}))
    with pytest.raises(DataError, match=message):
        open_dataset(folder)


def test_a_damaged_zip_or_index_is_named(packed):
    folder, _ = packed
    content = (folder / "images.zip").read_bytes()
    (folder / "images.zip").write_bytes(content[: len(content) // 2])
    with pytest.raises(DataError, match=r"images\.zip: not a readable zip file"):
        open_dataset(folder)
    (folder / "index.json").write_text("{")
    with pytest.raises(DataError, match=r"index\.json: not JSON"):
        open_dataset(folder)


def test_a_damaged_member_is_a_bad_picture(packed):
    folder, _ = packed
    content = bytearray((folder / "images.zip").read_bytes())
    content[200] ^= 255
    (folder / "images.zip").write_bytes(content)
    report = check(open_dataset(folder))
    assert [bad.name for bad in report.bad["train"]] == ["a/0.png"]
    assert "Bad CRC-32" in report.bad["train"][0].reason


COUNTS = {
    "caltech101": (100, 4128, 1649, 2465),
    "eurosat": (10, 2000, 400, 2000),
    "flowers5": (5, 2934, 0, 736),
    "clothing10": (10, 3068, 341, 372),
}


@pytest.mark.parametrize("name", COUNTS)
def test_the_real_sets(shared, name):
    found = open_dataset(name, root=shared / "data")
    assert (len(found.classes), *(len(found.splits[split]) for split in SPLITS)) == COUNTS[name]
    assert not any("_" in label for label in found.classes)
    assert not found.notes
    assert decode(found.splits["test"][-1].source).mode == "RGB"


def test_the_real_lists_are_those_of_the_benchmark(shared):
    import gzip

    found = open_dataset("caltech101", root=shared / "data")
    lists = json.loads(gzip.decompress((shared / "data" / "splits" / "caltech101.json.gz").read_bytes()))
    for split in SPLITS:
        assert [[item.source.name, item.label] for item in found.splits[split]] == lists[split]


@pytest.mark.parametrize("name", ["caltech101", "eurosat"])
def test_few_shot_pictures_never_show_up_in_the_test_split(shared, name):
    full = open_dataset(name, root=shared / "data")
    shot = few_shot(full, 16, seed=1)
    checksums = {split: [item.source.stamp() for item in shot.splits[split]] for split in SPLITS}
    assert len(set(checksums["train"])) == len(checksums["train"]) == 16 * len(full.classes)
    for first, second in (("train", "test"), ("val", "test"), ("train", "val")):
        assert not set(checksums[first]) & set(checksums[second])


def test_one_index_that_is_nested_too_deeply_does_not_hide_the_other_sets(packed, tmp_path):
    other = tmp_path / "data" / "deep"
    other.mkdir()
    (other / "images.zip").write_bytes(b"")
    (other / "index.json").write_text('{"a":' * 100_000)
    assert "birds" in [entry.name for entry in available(tmp_path / "data")]
    with pytest.raises(DataError, match="nested too deeply"):
        open_dataset(other)


def test_a_member_that_unpacks_to_more_than_a_picture_may_take_is_never_unpacked(packed, monkeypatch):
    monkeypatch.setattr("ironclip.data.records.MAX_PICTURE", 100)
    report = check(open_dataset(packed[0]))
    assert len(report.bad["train"]) == 4
    assert "million bytes are more than the limit" in report.bad["train"][0].reason


def test_names_and_classes_beyond_any_use_are_refused_before_work(packed):
    folder, index = packed
    many = [{"id": k, "name": f"c{k}"} for k in range(100_001)]
    for classes, message in (
        (many, "100,001 classes are more than"),
        ([{"id": 0, "name": "x" * 1001}, *many[1:2]], "more than 1000"),
    ):
        (folder / "index.json").write_text(json.dumps(index | {"classes": classes}))
        with pytest.raises(DataError, match=message) as problem:
            open_dataset(folder)
        assert len(str(problem.value)) < 300
