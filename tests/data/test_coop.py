import gzip
import json

import pytest

from ironclip.core.errors import DataError
from ironclip.data import open_dataset
from ironclip.data.catalogue import catalogue
from ironclip.data.coop import read_split
from ironclip.data.records import SPLITS


def write_split(path, rows):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(rows))
    return path


@pytest.fixture
def coop(tmp_path, paint):
    """Writes a set in CoOp's layout: two classes, their images, the split file; returns the data root."""

    def write(name, folder=None, split=True):
        entry = catalogue()[name]
        images = tmp_path / "data" / (folder or entry.images[0])
        rows = {split: [[f"Some_Class/{split}{k}.png", 1, "Some_Class"] for k in range(2)] for split in SPLITS}
        for part in rows:
            rows[part].append([f"Other/{part}.png", 0, "Other"])
        for k, (path, _, _) in enumerate(row for part in rows.values() for row in part):
            paint(images / path, k)
        if split:
            write_split(tmp_path / "data" / entry.images[0].split("/")[0] / entry.split, rows)
        return tmp_path / "data"

    return write


COOP = [name for name, entry in catalogue().items() if entry.layout == "coop"]


@pytest.mark.parametrize("name", COOP)
def test_every_set_opens_in_coops_layout(coop, name):
    root = coop(name)
    found = open_dataset(name, root=root)
    assert found.classes == ("Other", "Some Class")
    assert [found.counts(split) for split in SPLITS] == [(1, 2)] * 3
    assert found.splits["train"][0].source.name == "Some_Class/train0.png"
    assert found.splits["train"][0].source.path.is_file()
    assert found.origin == catalogue()[name].split
    assert found.templates != ()
    by_path = open_dataset(root / catalogue()[name].images[0].split("/")[0])
    assert (by_path.name, by_path.sha256) == (name, found.sha256)


@pytest.mark.parametrize("name", [name for name in COOP if len(catalogue()[name].images) > 1])
def test_pictures_in_torchvisions_layout_serve_too(coop, name):
    root = coop(name, folder=catalogue()[name].images[1])
    assert open_dataset(name, root=root).counts("test") == (1, 2)


def test_the_data_root_comes_from_the_variable(coop, monkeypatch):
    root = coop("dtd")
    monkeypatch.setenv("IRONCLIP_DATA", f"/nowhere:{root}")
    assert open_dataset("dtd").templates == ("{} texture.",)


def test_nine_of_the_eleven_benchmarks_have_a_split_file():
    assert len(COOP) == 9
    assert {"fgvc_aircraft", "imagenet"} == {
        name for name in list(catalogue())[: list(catalogue()).index("imagenet") + 1] if name not in COOP
    } - {"shapes"}


def test_a_missing_set_says_where_it_was_looked_for_and_how_to_get_it(tmp_path):
    with pytest.raises(DataError) as problem:
        open_dataset("oxford_pets", root=tmp_path)
    message = str(problem.value)
    assert message.startswith("oxford_pets is not here; looked for ")
    for part in (
        "oxford_pets/images",
        "oxford-iiit-pet/images",
        "ironclip data prepare oxford_pets",
        "split_zhou_OxfordPets.json",
    ):
        assert part in message
    assert "\n" not in message


def test_a_split_is_never_drawn_anew_in_silence(coop):
    root = coop("eurosat", split=False)
    with pytest.raises(DataError, match=r"official lists split_zhou_EuroSAT\.json are missing .* another benchmark"):
        open_dataset("eurosat", root=root)


def test_an_own_split_on_request_says_so(tmp_path, paint):
    folders = ["AnnualCrop", "Forest", "Herb", "Highway", "Industrial", "Pasture", "Permanent", "Residential", "River", "Sea"]
    for label, name in enumerate(folders):
        for n in range(10):
            paint(tmp_path / "eurosat" / "2750" / name / f"{n}.jpg", 100 * label + n, (4, 4))
    found = open_dataset("eurosat", root=tmp_path, allow_own_split=True)
    assert found.name == "eurosat-own-split"
    assert found.origin == "own split 50/20/30, seed 0, not split_zhou_EuroSAT.json"
    assert "not the benchmark" in found.notes[0]
    assert [found.counts(split) for split in SPLITS] == [(5,) * 10, (2,) * 10, (3,) * 10]
    assert found.sha256 != open_dataset("eurosat", root=tmp_path, allow_own_split=True, seed=1).sha256
    (tmp_path / "eurosat" / "2750" / "Sea" / "0.jpg").unlink()
    paint(tmp_path / "eurosat" / "2750" / "Extra" / "0.jpg")
    with pytest.raises(DataError, match=r"one folder for each of the 10 classes in .*; found 11"):
        open_dataset("eurosat", root=tmp_path, allow_own_split=True)


def test_an_own_split_uses_the_benchmarks_names_and_labels_where_folders_match(tmp_path, paint, shared):
    names = read_split(shared / "data" / "splits" / "dtd.json.gz")[0]
    for name in names:
        for n in range(2):
            paint(tmp_path / "dtd" / "images" / name / f"{n}.jpg", n, (4, 4))
    assert open_dataset("dtd", root=tmp_path, allow_own_split=True).classes == names


def test_compact_lists_are_read_plain_and_gzipped(coop, tmp_path):
    root = coop("dtd", split=False)
    compact = {
        "classes": ["Other", "Some_Class"],
        "train": [["Some_Class/train0.png", 1]],
        "val": [],
        "test": [["Other/test.png", 0]],
    }
    file = write_split(tmp_path / "mine.json", compact)
    found = open_dataset("dtd", root=root, split_file=file)
    assert (found.classes, found.origin) == (("Other", "Some Class"), "mine.json")
    (root / "splits").mkdir()
    (root / "splits" / "dtd.json.gz").write_bytes(gzip.compress(json.dumps(compact).encode()))
    assert open_dataset("dtd", root=root).sha256 == found.sha256


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ({"train": [], "val": []}, r"expected JSON with train, val and test lists .* its keys are \['train', 'val'\]"),
        ([], "expected JSON with train, val and test lists"),
        ({"train": [["a", 0]], "val": [], "test": []}, "expected JSON with train"),
        ({"train": [["a", 0, "x"], ["b", 0, "y"]], "val": [], "test": []}, "label 0 is 'x' and, for b, 'y'"),
        ({"train": [["a", 0, "x"], ["b", 2, "y"]], "val": [], "test": []}, "labels are not 0 to 1 without a gap"),
        ({"train": [["a", "0", "x"]], "test": []}, r"train 0: expected a label \(a whole number from 0\); got '0'"),
        ({"train": [["a", 1.5, "x"]], "test": []}, "expected a label .* got 1.5"),
        ({"train": [["a", True, "x"]], "test": []}, "expected a label .* got True"),
        ({"train": [["a", None, "x"]], "test": []}, "expected a label .* got None"),
        ({"train": [["a", -1, "x"]], "test": []}, "label -1 is out of range"),
        ({"train": [["a", 10**400, "x"]], "test": []}, "without a gap"),
        ({"train": [[3, 0, "x"]], "test": []}, "train 0: expected an image's path .* got 3"),
        ({"train": [["", 0, "x"]], "test": []}, "expected an image's path"),
        ({"train": [["a\0", 0, "x"]], "test": []}, "zero byte"),
        ({"train": [["\ud800", 0, "x"]], "test": []}, "is no text"),
        ({"train": [["a", 0, 7]], "test": []}, "expected a class name .* got 7"),
        ({"train": [["a", 0, "\ud800"]], "test": []}, "holds signs that are no text"),
        ({"train": ["abc"], "test": []}, "train 0: expected JSON with train"),
        ({"train": [["a", 0, "x"]], "val": 3, "test": []}, r"val: expected rows \(a list\); got 3"),
        ({"classes": "ab", "train": [["a", 0]], "test": []}, "expected 'classes' .* got 'ab'"),
        ({"classes": ["a", None], "train": [["a", 0]], "test": []}, "class 1: expected a class name"),
        ({"classes": ["a", "b"], "train": [["a", 2]], "test": []}, "label 2 is out of range; 2 classes"),
    ],
)
def test_split_files_that_do_not_fit(tmp_path, rows, message):
    with pytest.raises(DataError, match=message):
        read_split(write_split(tmp_path / "split.json", rows))
    (tmp_path / "broken.json").write_bytes(b"\x1f\x8bnothing")
    with pytest.raises(DataError, match=r"cannot read the split file .*Compressed file ended"):
        read_split(tmp_path / "broken.json")


def test_lists_of_any_name_are_read_by_path(coop, tmp_path):
    root = coop("dtd")
    expected = open_dataset("dtd", root=root)
    file = root / "dtd" / "split_zhou_DescribableTextures.json"
    for name in ("my_split.json", "benchmark.JSON"):
        file = file.rename(file.with_name(name))
        found = open_dataset(file)
        assert (found.classes, found.sha256, found.origin) == (expected.classes, expected.sha256, name)
        assert open_dataset(root / "dtd").sha256 == expected.sha256  # and is never ignored beside the images


@pytest.mark.parametrize("path", ["../../secret.png", "/etc/passwd", "Other/../../../secret.png"])
def test_paths_that_leave_the_folder_are_refused_unless_a_data_root_holds_them(coop, tmp_path, paint, path, monkeypatch):
    root = coop("dtd")
    paint(tmp_path / "secret.png")
    rows = {"train": [["Other/train.png", 0, "a"], [path, 1, "b"]], "test": []}
    file = write_split(root / "dtd" / "images" / "mine.json", rows)
    with pytest.raises(DataError, match=r"mine\.json, train: the path .* leads out of"):
        open_dataset(file)
    if "secret" in path:
        monkeypatch.setenv("IRONCLIP_DATA", str(tmp_path))
        assert len(open_dataset(file).splits["train"]) == 2


def test_a_list_that_unpacks_to_gigabytes_takes_bounded_memory(tmp_path, monkeypatch):
    monkeypatch.setattr("ironclip.data.lists.MAX_BYTES", 1000)
    (tmp_path / "split.json.gz").write_bytes(gzip.compress(b" " * 100_000))
    with pytest.raises(DataError, match=r"more than 0\.001 million"):
        read_split(tmp_path / "split.json.gz")


def test_the_official_lists_have_the_sizes_of_the_benchmark(shared):
    for file in sorted((shared / "data" / "splits").glob("*.json.gz")):
        entry = catalogue()[file.name.removesuffix(".json.gz")]
        classes, lists = read_split(file)
        assert (len(classes), tuple(len(lists[split]) for split in SPLITS)) == (entry.classes, entry.counts)


@pytest.mark.parametrize("folder", ["fgvc_aircraft", "fgvc-aircraft-2013b/data"])
def test_aircraft_comes_with_its_own_lists(tmp_path, paint, folder):
    base = tmp_path / folder
    for n in range(3):
        paint(base / "images" / f"000{n}.jpg", n)
    (base / "variants.txt").write_text("707-320\nA300B4\nDR-400\n")
    for n, split in enumerate(SPLITS):
        (base / f"images_variant_{split}.txt").write_text(f"000{n} {['DR-400', '707-320', 'A300B4'][n]}\n")
    found = open_dataset("fgvc_aircraft", root=tmp_path)
    assert found.classes == ("707-320", "A300B4", "DR-400")
    assert [(found.splits[s][0].source.name, found.splits[s][0].label) for s in SPLITS] == [
        ("images/0000.jpg", 2),
        ("images/0001.jpg", 0),
        ("images/0002.jpg", 1),
    ]
    assert found.templates == ("a photo of a {}, a type of aircraft.",)
    (base / "images_variant_val.txt").write_text("0001 Zeppelin\n")
    with pytest.raises(DataError, match=r"images_variant_val\.txt names 'Zeppelin', which variants\.txt does not"):
        open_dataset("fgvc_aircraft", root=tmp_path)
    (base / "images_variant_val.txt").unlink()
    with pytest.raises(DataError, match=r"cannot read the official list .*images_variant_val\.txt: No such file"):
        open_dataset("fgvc_aircraft", root=tmp_path)
