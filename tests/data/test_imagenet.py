import pytest

from ironclip.core.errors import DataError, UsageError
from ironclip.data import open_dataset
from ironclip.data.catalogue import catalogue
from ironclip.data.names import imagenet_names
from ironclip.data.records import SPLITS

WNIDS = ("n01440764", "n01443537", "n01484850")


def test_imagenet_has_sorted_classes_and_tests_on_val(tmp_path, paint):
    for wnid in WNIDS:
        for n in range(2):
            paint(tmp_path / "imagenet" / "images" / "train" / wnid / f"{wnid}_{n}.JPEG", n)
        paint(tmp_path / "imagenet" / "images" / "val" / wnid / "v.JPEG")
    found = open_dataset("imagenet", root=tmp_path)
    assert len(found.classes) == 1000
    assert found.classes[:3] == ("tench", "goldfish", "great white shark")
    assert [len(found.splits[split]) for split in SPLITS] == [6, 0, 3]
    assert [item.label for item in found.splits["test"]] == [0, 1, 2]
    assert "official validation images are the test split" in found.notes[0]
    lines = [f"{wnid} other {k}" for k, wnid in enumerate(imagenet_names())]
    (tmp_path / "imagenet" / "classnames.txt").write_text("\n".join(lines))
    assert open_dataset("imagenet", root=tmp_path).classes[:2] == ("other 0", "other 1")


def test_v2_folders_are_numbers_not_strings(tmp_path, paint):
    base = tmp_path / catalogue()["imagenetv2"].images[0]
    for label in (0, 1, 10, 2):
        paint(base / str(label) / "a.jpeg", label)
    found = open_dataset("imagenetv2", root=tmp_path)
    assert [(item.source.name, item.label) for item in found.splits["test"]] == [
        (f"{label}/a.jpeg", label) for label in (0, 1, 2, 10)
    ]
    assert len(found.classes) == 1000
    paint(base / "1000" / "a.jpeg")
    with pytest.raises(DataError, match="expected folders named 0 to 999"):
        open_dataset("imagenetv2", root=tmp_path)


@pytest.mark.parametrize("name", ["imagenet_a", "imagenet_r"])
def test_a_and_r_have_their_own_classes_or_all(tmp_path, paint, name):
    base = tmp_path / catalogue()[name].images[0]
    for wnid in WNIDS[1:]:
        paint(base / wnid / "a.jpg")
    (base / "README.txt").write_text("")
    found = open_dataset(name, root=tmp_path)
    assert found.classes == ("goldfish", "great white shark")
    assert [item.label for item in found.splits["test"]] == [0, 1]
    everything = open_dataset(f"{name}:1000", root=tmp_path)
    assert len(everything.classes) == 1000
    assert [item.label for item in everything.splits["test"]] == [1, 2]
    with pytest.raises(UsageError, match="scored over 200 or 1000 classes; got 500"):
        open_dataset(f"{name}:500", root=tmp_path)


def test_sketch_keeps_all_classes(tmp_path, paint):
    paint(tmp_path / "imagenet-sketch" / "sketch" / WNIDS[2] / "a.JPEG")
    found = open_dataset("imagenet_sketch", root=tmp_path)
    assert len(found.classes) == 1000
    assert found.splits["test"][0].label == 2


def test_folders_that_are_no_class_are_named(tmp_path, paint):
    paint(tmp_path / "imagenet-a" / "goldfish" / "a.jpg")
    paint(tmp_path / "imagenet-a" / WNIDS[0] / "a.jpg")
    with pytest.raises(DataError, match=r"'goldfish' is no ImageNet class; expected .* n01440764"):
        open_dataset("imagenet_a", root=tmp_path)
    paint(tmp_path / "imagenet" / "train" / "goldfish" / "a.jpg")
    with pytest.raises(DataError, match="the folder 'goldfish' is no ImageNet class"):
        open_dataset("imagenet", root=tmp_path)


def test_an_absent_variant_says_how_to_get_it(tmp_path):
    with pytest.raises(
        DataError, match=r"imagenet_r is not here; looked for .*imagenet-rendition/imagenet-r.*hendrycks/imagenet-r"
    ):
        open_dataset("imagenet_r", root=tmp_path)


def test_tiny_imagenet_tests_on_its_validation_pictures(tmp_path, paint):
    base = tmp_path / "tiny-imagenet-200"
    for wnid in (*WNIDS[:2], "n99999999"):
        paint(base / "train" / wnid / "images" / f"{wnid}_0.JPEG")
    for n in (1, 0):
        paint(base / "val" / "images" / f"val_{n}.JPEG", n)
    (base / "wnids.txt").write_text("\n".join(("n99999999", *WNIDS[1::-1])))
    (base / "words.txt").write_text("n99999999\tstrange_thing, oddity\nn01440764\ttench, Tinca tinca\n")
    (base / "val" / "val_annotations.txt").write_text(f"val_1.JPEG\t{WNIDS[1]}\t0\t0\t1\t1\nval_0.JPEG\tn99999999\t0\t0\t1\t1\n")
    found = open_dataset("tiny_imagenet", root=tmp_path)
    assert found.classes == ("tench", "goldfish", "strange thing")
    assert [len(found.splits[split]) for split in SPLITS] == [3, 0, 2]
    assert [(item.source.name, item.label) for item in found.splits["test"]] == [
        ("val/images/val_0.JPEG", 2),
        ("val/images/val_1.JPEG", 1),
    ]
    (base / "wnids.txt").unlink()
    with pytest.raises(DataError, match=r"cannot read the list of tiny_imagenet .*wnids\.txt"):
        open_dataset("tiny_imagenet", root=tmp_path)
