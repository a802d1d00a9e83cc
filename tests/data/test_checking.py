import zipfile

import pytest

from ironclip.core.errors import DataError, UsageError
from ironclip.data import available, check, open_dataset, prepare
from ironclip.data.catalogue import catalogue


def test_available_names_every_set_and_what_is_missing(tmp_path, paint):
    base = tmp_path / "data" / "eurosat" / "2750"
    paint(base / "Forest" / "a.jpg")
    found = {entry.name: entry for entry in available(tmp_path / "data")}
    assert set(found) == set(catalogue())
    assert found["shapes"].ready
    assert not found["dtd"].ready
    assert str(tmp_path / "data" / "dtd" / "images") in found["dtd"].looked
    assert "split_zhou_DescribableTextures.json" in found["dtd"].how
    assert (found["eurosat"].found, found["eurosat"].missing) == (str(base), "the split file split_zhou_EuroSAT.json")
    assert not found["eurosat"].ready
    (base.parent / "split_zhou_EuroSAT.json").write_text("{}")
    assert next(entry for entry in available(tmp_path / "data") if entry.name == "eurosat").ready


def test_available_finds_sets_of_ones_own(shared):
    found = {entry.name: entry for entry in available(shared / "data")}
    assert {"caltech101", "eurosat", "flowers5", "clothing10"} <= {name for name, entry in found.items() if entry.ready}
    assert found["flowers5"].classes == 5
    assert "coco-captions-mini" not in found


def test_a_check_names_every_bad_picture_with_its_reason(photos, paint):
    (photos / "owl" / "00.png").write_bytes(b"hello")
    truncated = photos / "badger" / "03.png"
    truncated.write_bytes(truncated.read_bytes()[:300])
    report = check(photos)
    bad = {bad.name: bad.reason for found in report.bad.values() for bad in found}
    assert set(bad) == {"owl/00.png", "badger/03.png"}
    assert bad["owl/00.png"] == "not an image but text that starts 'hello'; fetch it again"
    assert not report.ok
    assert report.counts == {"train": 13, "val": 2, "test": 7}
    assert report.smallest_class == {"train": 3, "val": 0, "test": 2}
    assert report.sha256 == open_dataset(photos).sha256


def test_a_sound_set_is_ok_and_pictures_too_large_are_not(photos):
    seen = []
    assert check(photos, progress=lambda done, total: seen.append((done, total))).ok
    assert seen[-1] == (22, 22)
    report = check(photos, max_pixels=100)
    assert sum(len(found) for found in report.bad.values()) == 22
    assert "20 x 16 pixels are more than the limit" in report.bad["test"][0].reason
    assert check(photos, max_pixels=100, decode=False).ok


def test_a_picture_twice_in_one_split_and_class_is_noted(photos):
    rows = [f"{name}/{n:02d}.png,{name},{'test' if n else 'train'}" for name in ("owl", "badger") for n in range(4)]
    (photos / "list.csv").write_text("\n".join(["path,label,split", *rows, rows[1]]))
    report = check(photos / "list.csv")
    assert report.ok
    assert report.notes == ("1 image is more than once in one split and class, e.g. owl/01.png, owl/01.png",)


def test_a_set_that_cannot_be_measured_is_not_good(tmp_path, paint):
    for name in ("fox", "owl"):
        paint(tmp_path / "set" / name / "0.png", len(name))
    report = check(tmp_path / "set")
    assert (report.ok, report.problems) == (False, ("there is no test image: nothing can be measured on it",))
    assert "no test image" not in str(report.notes)
    for shots in (0, -1):
        with pytest.raises(UsageError, match="at least 1; got"):
            check(tmp_path / "set", shots=shots)


def test_identical_pictures_in_two_splits_or_classes_are_reported(tmp_path, paint):
    for split in ("train", "test"):
        for label, name in enumerate(("fox", "owl")):
            for n in range(2):
                paint(tmp_path / "set" / split / name / f"{n}.png", 10 * len(split) + 2 * label + n)
    paint(tmp_path / "set" / "test" / "fox" / "copy.png", 50)
    paint(tmp_path / "set" / "train" / "owl" / "again.png", 53)  # twice in one class and split: harmless
    report = check(tmp_path / "set")
    assert report.repeated == (("train: train/fox/0.png", "test: test/fox/copy.png"),)
    assert not report.ok


def test_what_cannot_be_opened_is_a_problem_and_an_unknown_name_an_error(tmp_path):
    report = check("dtd", root=tmp_path)
    assert not report.ok
    assert report.problems[0].startswith("dtd is not here; looked for")
    assert report.counts == {}
    with pytest.raises(UsageError, match="did you mean 'dtd'"):
        check("dtdd", root=tmp_path)


def test_a_part_of_a_benchmark_is_noted(shared):
    report = check("eurosat", root=shared / "data", decode=False)
    assert report.notes == ("2000 / 400 / 2000 images (train / val / test); the benchmark has 13500 / 5400 / 8100",)
    assert check("caltech101", root=shared / "data", decode=False).notes == ()


def test_prepare_fills_the_cache(photos, tmp_path):
    ready = prepare(photos, resolution=8)
    assert ready.decoded == {"train": 13, "val": 2, "test": 7}
    assert ready.cache == tmp_path / "cache"
    assert len(list(ready.cache.glob("*.rgb"))) == 3
    assert prepare(photos, resolution=8, splits=("test",)).decoded == {"test": 7}
    with pytest.raises(UsageError, match="got 0"):
        prepare(photos, resolution=0)
    with pytest.raises(UsageError, match="unknown split 'tests'"):
        prepare(photos, resolution=8, splits=("tests",))


def test_prepare_says_how_to_get_what_it_cannot_fetch(tmp_path):
    with pytest.raises(DataError, match=r"ucf101 is not here; .* get it from its source"):
        prepare("ucf101", root=tmp_path)


def test_a_damaged_archive_is_a_problem(tmp_path):
    folder = tmp_path / "birds"
    folder.mkdir()
    (folder / "index.json").write_text("{}")
    with zipfile.ZipFile(folder / "images.zip", "w"):
        pass
    assert "expected JSON with 'classes'" in check(folder).problems[0]
