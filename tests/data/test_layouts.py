"""A zoo of folders: each is read as its author meant it, or refused with the way to say what is meant."""

import os
import unicodedata

import pytest
from folders_by_code import build, picture
from PIL import Image

from ironclip.core.errors import DataError, UsageError
from ironclip.data import check, open_dataset
from ironclip.data.kinds import has_heif
from ironclip.data.layouts import arrange
from ironclip.data.lists import text_of
from ironclip.data.records import SPLITS
from ironclip.data.roles import parse_layout, roles
from ironclip.data.walk import Contents

PAIR = "{fox,owl}"
TEN = "{a1,b2,c3,d4,e5,f6,g7,h8,i9,j10}"

READ = {
    # name: (paths, classes, images of train / val / test)
    "a folder for each class": ([f"{PAIR}/"], ("fox", "owl"), (4, 0, 2)),
    "train and test": ([f"train/{PAIR}/", f"test/{PAIR}/"], ("fox", "owl"), (6, 0, 6)),
    "capitals": ([f"TRAIN/{PAIR}/", f"Test/{PAIR}/"], ("fox", "owl"), (6, 0, 6)),
    "words behind": ([f"training_set/{PAIR}/", f"test_set/{PAIR}/"], ("fox", "owl"), (6, 0, 6)),
    "words before": ([f"seg_train/{PAIR}/", f"seg_test/{PAIR}/"], ("fox", "owl"), (6, 0, 6)),
    "words twice": ([f"seg_train/seg_train/{PAIR}/", f"seg_test/seg_test/{PAIR}/"], ("fox", "owl"), (6, 0, 6)),
    "train and dev": ([f"train/{PAIR}/", f"dev/{PAIR}/"], ("fox", "owl"), (6, 0, 6)),
    "Train and Eval": ([f"Train/{PAIR}/", f"Eval/{PAIR}/"], ("fox", "owl"), (6, 0, 6)),
    "train and holdout": ([f"train/{PAIR}/", f"hold-out/{PAIR}/"], ("fox", "owl"), (6, 0, 6)),
    "train, val, test": ([f"{{train,val,test}}/{PAIR}/"], ("fox", "owl"), (6, 6, 6)),
    "train, valid, test": ([f"{{train,valid,test}}/{PAIR}/"], ("fox", "owl"), (6, 6, 6)),
    "train, validation, test": ([f"{{train,validation,test}}/{PAIR}/"], ("fox", "owl"), (6, 6, 6)),
    "train, eval, test": ([f"{{train,eval,test}}/{PAIR}/"], ("fox", "owl"), (6, 6, 6)),
    "train, val, eval": ([f"{{train,val,eval}}/{PAIR}/"], ("fox", "owl"), (6, 6, 6)),
    "years": ([f"{{train2017,val2017}}/{PAIR}/"], ("fox", "owl"), (6, 0, 6)),
    "camels": ([f"{{TrainData,TestData}}/{PAIR}/"], ("fox", "owl"), (6, 0, 6)),
    "glued": ([f"{{trainset,testset}}/{PAIR}/"], ("fox", "owl"), (6, 0, 6)),
    "two parts of train": ([f"{{train_1,train_2,test}}/{PAIR}/"], ("fox", "owl"), (12, 0, 6)),
    "wrapped": ([f"archive/images/{{train,test}}/{PAIR}/", "archive/labels/train/x.txt"], ("fox", "owl"), (6, 0, 6)),
    "wrapped classes": ([f"images/{PAIR}/", "annotations/x.xml"], ("fox", "owl"), (4, 0, 2)),
    "images inside": ([f"{{train,test}}/images/{PAIR}/"], ("fox", "owl"), (6, 0, 6)),
    "splits inside classes": ([f"{PAIR}/{{train,test}}/"], ("fox", "owl"), (6, 0, 6)),
    "splits inside wrapped classes": ([f"dataset/{PAIR}/{{Train,Valid,Test}}/"], ("fox", "owl"), (6, 6, 6)),
    "Spanish": ([f"{{entrenamiento,prueba}}/{PAIR}/"], ("fox", "owl"), (6, 0, 6)),
    "Portuguese": ([f"{{treino,validação,teste}}/{PAIR}/"], ("fox", "owl"), (6, 6, 6)),
    "French": ([f"{{entraînement,validation,test}}/{PAIR}/"], ("fox", "owl"), (6, 6, 6)),
    "German": ([f"{{Trainingsdaten,Testdaten}}/{PAIR}/"], ("fox", "owl"), (6, 0, 6)),
    "Russian": ([f"{{обучение,тест}}/{PAIR}/"], ("fox", "owl"), (6, 0, 6)),
    "Chinese": ([f"{{训练集,验证集,测试集}}/{PAIR}/"], ("fox", "owl"), (6, 6, 6)),
    "Japanese": ([f"{{学習データ,テストデータ}}/{PAIR}/"], ("fox", "owl"), (6, 0, 6)),
    "empty folders of labels beside the images": (
        [f"{{train,test}}/images/{PAIR}/", "{train,test}/labels/fox/a.txt"],
        ("fox", "owl"),
        (6, 0, 6),
    ),
    "an image beside the wrapping folder": ([f"set/{{train,test}}/{PAIR}/", "logo.png"], ("fox", "owl"), (6, 0, 6)),
    "an image beside the wrapped classes": (["set/{fox,owl,newt}/", "logo.png"], ("fox", "newt", "owl"), (6, 0, 3)),
    "only train": ([f"train/{PAIR}/"], ("fox", "owl"), (4, 0, 2)),
    "only test": ([f"test/{PAIR}/"], ("fox", "owl"), (0, 0, 6)),
    "a class called train": (["{train,bus,car}/"], ("bus", "car", "train"), (6, 0, 3)),
    "a class called test": (["{test,bus}/"], ("bus", "test"), (4, 0, 2)),
    "classes with split words": (["{train_station,crash_test}/"], ("crash test", "train station"), (4, 0, 2)),
    "deep classes": (["fox/{red,grey}/", "owl/{barn,snow}/"], ("fox", "owl"), (6, 2, 4)),
    "images in each class": ([f"{PAIR}/images/"], ("fox", "owl"), (4, 0, 2)),
    "test lacks a class": ([f"train/{TEN}/", "test/{a1,b2,c3,d4,e5,f6,g7,h8,i9}/"], None, (30, 0, 27)),
    "lists beside splits": ([f"{{train,test}}/{PAIR}/", "train.txt", "test.txt"], ("fox", "owl"), (6, 0, 6)),
    "unlabelled images beside": ([f"{{seg_train,seg_test}}/{PAIR}/", "seg_pred/"], ("fox", "owl"), (6, 0, 6)),
    "case differs between splits": (["train/{Fox,owl}/", "test/{fox,owl}/"], ("Fox", "owl"), (6, 0, 6)),
    "synsets beside lists": (
        [f"{{train,val}}/{PAIR}/", "ILSVRC/ImageSets/train.txt", "ILSVRC/ImageSets/val.txt"],
        ("fox", "owl"),
        (6, 0, 6),
    ),
    "a class called data beside the same in the other split": (["{train,test}/{data,owl}/"], ("data", "owl"), (6, 0, 6)),
    "digits in splits": (["cifar/{train,test}/{0,1}/"], ("0", "1"), (6, 0, 6)),
    "letters": (["{a,b}/"], ("a", "b"), (4, 0, 2)),
    "annotations of each class beside": ([f"101_Categories/{PAIR}/", f"Annotations/{PAIR}/a.mat"], ("fox", "owl"), (4, 0, 2)),
    "what desktops leave": (
        [f"{PAIR}/", "@eaDir/x.png", "$RECYCLE.BIN/x.png", ".Spotlight-V100/x.png", "__MACOSX/x.png", "owl/Thumbs.db"],
        ("fox", "owl"),
        (4, 0, 2),
    ),
}


@pytest.mark.parametrize("name", READ)
def test_a_folder_is_read_as_it_was_meant(tmp_path, name):
    paths, classes, counts = READ[name]
    found = open_dataset(build(tmp_path / "set", paths))
    assert classes is None or found.classes == classes
    assert tuple(len(found.splits[split]) for split in SPLITS) == counts
    assert ("logo.png" in str(found.notes)) == ("logo.png" in paths)
    for split in SPLITS:
        for item in found.splits[split]:
            folders = {part.casefold() for part in item.source.name.split("/")[:-1]}
            assert found.classes[item.label].casefold() in {folder.replace("_", " ") for folder in folders}


REFUSED = {
    "another language": ([f"{{namajune,ŝtalo}}/{PAIR}/"], "hold nearly the same folders"),
    "a small split of unknown name": ([f"alpha/{TEN}/", "beta/{a1,b2,c3}/"], "nearly the same.*alpha=train,beta=test"),
    "the larger part is proposed for training": ([f"alpha/{PAIR}/0.png", f"beta/{PAIR}/"], "alpha=test,beta=train"),
    "digits in two folders": (["{upper,lower}/{0,1,2}/"], "hold nearly the same folders"),
    "years": (["2023/{a,b}/", "2024/a/"], "hold nearly the same folders"),
    "folds": ([f"{{fold1,fold2,fold3,fold4,fold5}}/{PAIR}/"], "'fold1', 'fold2' hold nearly the same folders"),
    "numbers": ([f"{{1,2}}/{TEN}/"], "hold nearly the same folders"),
    "a split of unknown name lacks classes": ([f"unua/{TEN}/", "dua/{a1,b2,c3,d4,e5,f6,g7}/"], "nearly the same"),
    "a third split of unknown name": ([f"{{train,test,extra}}/{PAIR}/"], "'extra' lies beside them"),
    "a split folder beside classes": ([f"train/{PAIR}/", f"{PAIR}/"], "'train' looks like a split folder beside others"),
    "splits beside classes": ([f"{{train,test}}/{PAIR}/", "fox/"], "'fox' lies beside them"),
    "three of which two are held out": ([f"{{train,eval,holdout}}/{PAIR}/"], "looks like a split folder beside others"),
    "flat splits": (["{train,test}/"], "lies in no class folder; expected test/<class>/<image>"),
    "flat splits and a class": (["{train,test,car}/"], "look like splits, but hold no class folders"),
    "a flat test folder": ([f"train/{PAIR}/", "test/"], "test/0.png lies in no class folder.*test=skip,train=train"),
    "sites with splits and classes": ([f"{{berlin,paris}}/{{train,test}}/{PAIR}/"], "hold nearly the same folders"),
    "an empty class": ([f"{PAIR}/", "newt//"], "the class folder 'newt' holds no image; add some"),
    "a class of other files": ([f"{PAIR}/", "newt/a.mp4"], r"'newt' holds no image \(only 1 video\)"),
    "one class": (["fox/"], "at least two classes are needed"),
    "no class": (["0.png", "1.png"], "found 2 images directly in it"),
    "nothing": ([], "found an empty folder"),
    "only other files": (["a.zip", "b.pdf"], r"found no image \(1 archive, 1 drawing\)"),
    "flat val in a folder (Tiny ImageNet)": (
        [f"tiny/train/{PAIR}/images/", "tiny/{val,test}/images/", "tiny/val/val_annotations.txt"],
        "test/images/0.png lies in no class folder.*'test=skip,train=train,val=skip'",
    ),
    "flat test, twice the same folder (Kaggle)": (
        ["train/train/", "test/test/", "train.csv"],
        "test/test/0.png lies in no class",
    ),
    "flat test beside classes (GTSRB)": (
        ["Final_Training/Images/{00000,00001}/", "Final_Test/Images/"],
        "Final_Test/Images/0.png lies in no class folder",
    ),
    "boxes (YOLO)": (["{train,valid,test}/images/", "{train,valid,test}/labels//", "data.yaml"], "lies in no class folder"),
    "splits of one class beside test (plants)": (
        [f"Augmented/{{train,valid}}/{PAIR}/", "test/test/"],
        "'test' looks like a split folder beside others",
    ),
    "flat names (pets)": (
        ["images/", "annotations/trimaps/0.png", "annotations/trainval.txt", "annotations/test.txt"],
        "'images' says that images are inside, and names no class",
    ),
    "domains (Office-31)": (["{amazon,dslr,webcam}/images/{bike,mug}/"], "hold nearly the same folders"),
    "letters that hold classes (SUN397)": (["a/{abbey,airport}/", "b/{bakery,bar}/"], "a letter names no class"),
    "lists deeper (DTD)": (
        ["dtd/images/{banded,dotted}/", "dtd/labels/{train1,val1,test1,train2}.txt"],
        "dtd/labels/test1.txt, .* give a split",
    ),
    "lists deeper (Food-101)": (
        ["food/images/{cake,soup}/", "food/meta/{train,test}.{json,txt}", "food/meta/classes.txt"],
        "food/meta/t.* give a split",
    ),
    "one list of both (CUB)": (
        ["CUB/images/{001.Gull,002.Wren}/", "CUB/{classes,train_test_split}.txt"],
        "CUB/train_test_split.txt gives a split",
    ),
    "flat images and boxes (VOC)": (
        ["VOC/{JPEGImages,Masks}/", "VOC/Annotations/a.xml", "VOC/ImageSets/Main/train.txt"],
        "the class folder 'Annotations' holds no",
    ),
    "flat images and boxes (COCO)": (["{train2017,val2017}/", "annotations/i.json"], "train2017/0.png lies in no class folder"),
    "nested kingdoms (iNaturalist)": (["train_val/{Aves,Plantae}/{1,2}/", "train.json"], "hold nearly the same folders"),
    "a list of another form": ([f"{PAIR}/", "train.txt", "test.txt"], "test.txt, train.txt give a split"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_a_folder_that_may_be_meant_in_two_ways_is_refused(tmp_path, name):
    paths, message = REFUSED[name]
    with pytest.raises(DataError, match=message) as problem:
        open_dataset(build(tmp_path / "set", paths))
    assert "\n" not in str(problem.value)


SAID = {
    "classes": ([f"{{1,2}}/{PAIR}/"], "classes", ("1", "2"), (6, 2, 4)),
    "splits are classes": (["{train,test}/"], "classes", ("test", "train"), (4, 0, 2)),
    "another language": ([f"{{namajune,ŝtalo}}/{PAIR}/"], "namajune=train,ŝtalo=test", ("fox", "owl"), (6, 0, 6)),
    "folds": ([f"{{f1,f2,f3}}/{PAIR}/"], "f1=train,f2=train,f3=test", ("fox", "owl"), (12, 0, 6)),
    "left out": ([f"train/{PAIR}/", "test/"], "train=train,test=skip", ("fox", "owl"), (4, 0, 2)),
    "inside classes": ([f"{PAIR}/{{lernen,pruefen}}/"], "lernen=train,pruefen=test", ("fox", "owl"), (6, 0, 6)),
    "class/split": ([f"{PAIR}/{{train,test}}/"], "class/split", ("fox", "owl"), (6, 0, 6)),
    "splits": ([f"{{train,test,extra}}/{PAIR}/"], "splits", ("fox", "owl"), (6, 0, 6)),
    "the list beside is not meant": ([f"{PAIR}/", "train.txt", "test.txt"], "classes", ("fox", "owl"), (4, 0, 2)),
}


@pytest.mark.parametrize("name", SAID)
def test_a_layout_says_what_is_meant(tmp_path, name):
    paths, layout, classes, counts = SAID[name]
    found = open_dataset(build(tmp_path / "set", paths), layout=layout)
    assert (found.classes, tuple(len(found.splits[split]) for split in SPLITS)) == (classes, counts)


def test_lists_that_are_not_meant_are_left_by_naming_the_folder_of_the_classes(tmp_path):
    root = build(tmp_path / "set", [f"images/{PAIR}/", "meta/train.txt", "meta/test.txt"])
    with pytest.raises(DataError, match=f"or name {root / 'images'} to have each class divided anew"):
        open_dataset(root)
    assert open_dataset(root / "images").classes == ("fox", "owl")
    both = build(tmp_path / "both", [f"{PAIR}/", "train_test_split.txt"])
    with pytest.raises(DataError, match="or say --layout classes to have each class divided anew"):
        open_dataset(both)
    assert open_dataset(both, layout="classes").classes == ("fox", "owl")


@pytest.mark.parametrize(
    ("layout", "error", "message"),
    [
        ("clases", UsageError, "unknown layout 'clases'; did you mean 'classes'"),
        ("a=trian", UsageError, "train, val, test or skip; got 'a=trian'"),
        ("=train", UsageError, "got '=train'"),
        ("gone=train", DataError, "the layout names 'gone'; folders with images are 'fox', 'owl'"),
        ("fox=train", DataError, "says nothing of 'owl'"),
        ("splits", DataError, "no folder is named like a split"),
    ],
)
def test_a_layout_that_does_not_fit_is_refused(tmp_path, layout, error, message):
    with pytest.raises(error, match=message):
        open_dataset(build(tmp_path / "set", [f"{PAIR}/"]), layout=layout)
    with pytest.raises(UsageError, match="a layout says what folders mean; 'shapes' has its own"):
        open_dataset("shapes", layout="classes")


def test_accents_written_in_two_ways_are_one_class_of_two_splits_and_two_of_one(tmp_path):
    one, other = (unicodedata.normalize(form, "café") for form in ("NFC", "NFD"))
    found = open_dataset(build(tmp_path / "set", [f"train/{{{one},owl}}/", f"test/{{{other},owl}}/"]))
    assert len(found.classes) == 2
    assert "read as one class" in found.notes[0]
    both = open_dataset(build(tmp_path / "both", [f"{{{one},{other},owl}}/"]))
    assert len(both.classes) == 3
    assert "1 class name stands for more than one class" in both.notes[0]


def test_everything_that_is_no_picture_is_counted_by_kind(tmp_path):
    root = build(tmp_path / "set", [f"{PAIR}/", "loose.png", "notes.md", "owl/a.jxl", "owl/b.zip", "owl/c.mov", "owl/._0.png"])
    build(root, ["@eaDir/x.png", "owl/d.cr2", "fox/e.unknown"])
    (root / "owl" / "f.heic").write_bytes(b"\0\0\0\x18ftypheic")
    (root / "owl" / "gone.png").symlink_to("nowhere.png")
    (root / "owl" / "myself").symlink_to("myself")
    os.mkfifo(root / "owl" / "pipe.png")
    left = next(note for note in open_dataset(root).notes if note.startswith("left out"))
    expected = ["1 JPEG XL image", "1 archive", "1 video", "1 raw photo", "1 hidden or system file", "1 system folder"]
    expected += ["2 other files", "2 broken links", "1 pipe or device"]
    if not has_heif():
        expected.append('1 HEIC image (to read them: pip install "ironclip[heif]")')
    for part in expected:
        assert part in left
    assert any("in no class folder: 1 image left out, e.g. loose.png" in note for note in open_dataset(root).notes)


def test_pictures_without_an_ending_and_behind_links_are_read(tmp_path):
    root = build(tmp_path / "set", [f"{PAIR}/"])
    picture(root / "fox" / "x.png").rename(root / "fox" / "photo")
    picture(root / "fox" / "y.png").rename(root / "fox" / "photo.jpg_large")
    elsewhere = build(tmp_path / "elsewhere", ["more/"])
    (root / "owl" / "more").symlink_to(elsewhere / "more")
    (root / "newt").symlink_to(build(tmp_path / "newts", ["pond/"]))
    (root / "newt" / "round").symlink_to(root)  # a circle ends
    found = open_dataset(root)
    assert found.classes == ("fox", "newt", "owl")
    assert [sum(found.counts(split)[label] for split in SPLITS) for label in range(3)] == [5, 3, 6]
    assert "1 link to a folder that is read already" in found.notes[-1]


def test_a_picture_that_is_a_pipe_is_named_and_never_waited_for(tmp_path, paint):
    root = build(tmp_path / "set", [f"{PAIR}/"])
    lines = [f"{name}/{n}.png,{name}" for name in ("fox", "owl") for n in range(3)]
    (root / "list.csv").write_text("\n".join(["path,label", *lines, "owl/pipe.png,owl"]))
    os.mkfifo(root / "owl" / "pipe.png")
    report = check(root / "list.csv")
    (bad,) = [bad for found in report.bad.values() for bad in found]
    assert (bad.name, "no regular file" in bad.reason) == ("owl/pipe.png", True)


def test_what_the_splits_cannot_measure_is_said_before_training(tmp_path):
    found = open_dataset(build(tmp_path / "set", [f"train/{PAIR}/", "test/fox/", "test/owl//"]))
    assert "1 class has no test image, e.g. 'owl': their accuracy cannot be measured" in found.notes
    single = open_dataset(build(tmp_path / "single", ["fox/0.png", "owl/0.png"]))
    assert "there is no test image: nothing can be measured on it" in single.notes
    report = check(build(tmp_path / "few", ["fox/", "owl/0.png", "owl/1.png"]), shots=2)
    assert report.problems == (
        "1 class has fewer training images than 2 shots, e.g. 'owl' has 1; ask for at most 1 shot, or add images",
    )
    assert not report.ok


@pytest.mark.parametrize(
    ("names", "expected"),
    [
        (["train", "dev", "test"], ["train", "val", "test"]),
        (["train_station", "crash_test"], None),
        (["Training Data", "Testing Data"], ["train", "test"]),
        (["flowers-train", "flowers-test"], ["train", "test"]),
        (["train", "eval"], ["train", "test"]),
        (["cat", "dog"], []),
    ],
)
def test_roles_are_read_from_words(names, expected):
    found = roles(names)
    assert len(found) < 2 if expected is None else list(found.values()) == expected
    assert parse_layout("a b=train,c=skip").parts == {"a b": "train", "c": "skip"}


def test_what_jpeg_calls_itself_is_not_asked(tmp_path):
    root = build(tmp_path / "set", [f"{PAIR}/"])
    Image.new("RGB", (2, 2)).save(root / "owl" / "really_a_gif.jpg", "GIF")
    assert check(root).ok


def test_class_names_that_no_record_can_hold_are_refused_before_anything_runs(tmp_path):
    root = build(tmp_path / "set", [f"{PAIR}/"])
    raw = b"caf\xe9".decode("utf-8", "surrogateescape")
    (root / "owl").rename(root / raw)
    with pytest.raises(DataError, match=r"class 0: a class name .* holds signs that are no text; rename it"):
        open_dataset(root)


def test_a_name_in_utf8_under_another_locale_is_no_fault_of_the_file():
    read_as_ascii = "café".encode().decode("ascii", "surrogateescape")
    for name, remedy in ((read_as_ascii, "set PYTHONUTF8=1"), ("a\ud800", "rename it"), ("a\0b", "rename it")):
        with pytest.raises(DataError, match=f"{remedy}$"):
            text_of(name, "the data set", "its name")


def test_a_path_is_read_once_a_level_however_many_classes_there_are():
    """With one look at all paths for each class, 200,000 images in 1,000 folders took minutes."""

    class Counted(tuple):
        looks = 0

        def __iter__(self):
            Counted.looks += 1
            return super().__iter__()

    names = [f"class {k:03d}" for k in range(200)]
    found = Contents(Counted(f"photos/{name}/{n}.png" for name in names for n in range(2)), Counted(["photos", *names]))
    arranged = arrange(found, "photos")
    assert (len(arranged.classes), len(arranged.rows)) == (200, 400)
    assert Counted.looks < 10
