"""A zoo of tables: the split is read under any name of its column, or the table is refused with the remedy."""

import pytest
from folders_by_code import build

from ironclip.core.errors import DataError
from ironclip.data import open_dataset
from ironclip.data.records import SPLITS

ROWS = [f"{name}/{n}.png,{name}" for name in ("fox", "owl") for n in range(3)]


def table(tmp_path, header, splits, encoding="utf-8"):
    """A table of two classes with three images each and these further fields on its lines."""
    root = build(tmp_path / "set", ["{fox,owl}/"])
    lines = [header, *(f"{row},{split}" if split is not None else row for row, split in zip(ROWS, splits))]
    (root / "list.csv").write_bytes("\r\n".join(lines).encode(encoding))
    return root / "list.csv"


def counts(found):
    return tuple(len(found.splits[split]) for split in SPLITS)


READ = {
    "split": ("path,label,split", ["train", "train", "test"] * 2, (4, 0, 2)),
    "capital": ("Path,Label,Split", ["Train", "TRAIN", "Test"] * 2, (4, 0, 2)),
    "blanks": (" path , label , split ", ["train ", " train", "test"] * 2, (4, 0, 2)),
    "subset": ("path,label,subset", ["training", "validation", "testing"] * 2, (2, 2, 2)),
    "set": ("path,label,set", ["train", "dev", "test"] * 2, (2, 2, 2)),
    "data set": ("path,label,data set", ["train", "valid", "test"] * 2, (2, 2, 2)),
    "fold with words": ("path,label,fold", ["train", "train", "holdout"] * 2, (4, 0, 2)),
    "partition": ("path,label,Partition", ["train", "eval", "test"] * 2, (2, 2, 2)),
    "any name": ("path,label,what_for", ["train", "train", "test"] * 2, (4, 0, 2)),
    "is_test": ("path,label,is_test", ["0", "0", "1"] * 2, (4, 0, 2)),
    "is_train": ("path,label,Is Train", ["True", "true", "False"] * 2, (4, 0, 2)),
    "test, with words": ("path,label,test", ["train", "train", "test"] * 2, (4, 0, 2)),
    "isTest": ("path,label,isTest", ["no", "no", "yes"] * 2, (4, 0, 2)),
    "TrainTest": ("path,label,TrainTest", ["train", "train", "test"] * 2, (4, 0, 2)),
    "is_valid alone": ("path,label,is_valid", ["False", "False", "True"] * 2, (4, 0, 2)),
    "train and val": ("path,label,split", ["train", "train", "val"] * 2, (4, 0, 2)),
    "Spanish": ("path,label,conjunto", ["entrenamiento", "validación", "prueba"] * 2, (2, 2, 2)),
    "two flags": ("path,label,is_val,is_test", ["0,0", "1,0", "0,1"] * 2, (2, 2, 2)),
    "one flag for each": ("path,label,train,val,test", ["1,0,0", "0,1,0", "0,0,1"] * 2, (2, 2, 2)),
    "other columns": ("path,label,width,photographer", ["3,ann", "3,bob", "3,ann"] * 2, (4, 0, 2)),
    "no split": ("path,label", [None] * 6, (4, 0, 2)),
}


@pytest.mark.parametrize("name", READ)
def test_a_split_is_read_whatever_its_column_is_called(tmp_path, name):
    header, splits, expected = READ[name]
    found = open_dataset(table(tmp_path, header, splits))
    assert (found.classes, counts(found)) == (("fox", "owl"), expected)
    assert found.origin.startswith("own split" if name in ("other columns", "no split") else "column ")


REFUSED = {
    "folds": ("path,label,fold", ["1", "2", "3"] * 2, r"line 2: split '1'; expected .* --layout 1=train,.*column 'fold'"),
    "letters": ("path,label,Set", ["a", "b", "b"] * 2, "split 'a'; expected .*rename the column 'set'"),
    "cross-validation": ("path,label,CV", ["1", "2", "3"] * 2, r"line 2: split '1'; .*column 'cv'"),
    "half": ("path,label,split", ["train", "test", ""] * 2, "line 4: split ''"),
    "fer2013": ("path,label,Usage", ["Training", "PublicTest", "PrivateTest"] * 2, "--layout P"),
    "two": ("path,label,split,subset", ["train,test", "train,test", "test,train"] * 2, "2 columns give a split: split, subset"),
    "flags that contradict": ("path,label,is_train,is_test", ["1,1", "1,0", "0,1"] * 2, "line 2: is_train '1', is_test '1'"),
    "one name twice": ("path,label,Split,split ", ["train,train", "test,test", "test,test"] * 2, "two columns are named 'split'"),
    "too many fields": ("path,label", ["x", None, None] * 2, "line 2: 3 fields for 2 columns"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_a_split_that_cannot_be_read_stops_with_its_name(tmp_path, name):
    header, splits, message = REFUSED[name]
    with pytest.raises(DataError, match=message):
        open_dataset(table(tmp_path, header, splits))


def test_a_layout_names_the_folds(tmp_path):
    path = table(tmp_path, "path,label,fold", ["1", "2", "3"] * 2)
    assert counts(open_dataset(path, layout="1=train,2=skip,3=test")) == (2, 0, 2)
    with pytest.raises(DataError, match="no column holds only the names that the layout gives: 1, 2"):
        open_dataset(path, layout="1=train,2=test")
    assert counts(open_dataset(path, layout="classes")) == (4, 0, 2)


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16"])
def test_encodings_with_a_mark_are_read(tmp_path, encoding):
    assert len(open_dataset(table(tmp_path, "path,label", [None] * 6, encoding)).classes) == 2


@pytest.mark.parametrize("encoding", ["cp1252", "utf-16-le"])
def test_others_are_refused_with_the_remedy(tmp_path, encoding):
    with pytest.raises(DataError, match=r"save the file as UTF-8|save it as UTF-8"):
        open_dataset(table(tmp_path, "path,label,who", ["é"] * 6, encoding))


def test_backslashes_of_windows_are_slashes(tmp_path):
    path = table(tmp_path, "path,label", [None] * 6)
    path.write_text(path.read_text().replace("/", "\\"))
    assert open_dataset(path).splits["train"][0].source.name.startswith("fox/")


@pytest.mark.parametrize("hostile", ["../x.png", "/etc/passwd", "fox/../../x.png", "..\\x.png"])
def test_paths_that_leave_the_folder_are_refused(tmp_path, hostile):
    path = table(tmp_path, "path,label", [None] * 6)
    path.write_text(path.read_text() + f"\n{hostile},owl")
    with pytest.raises(DataError, match=r"leads out of .* IRONCLIP_DATA"):
        open_dataset(path)


def test_a_table_beside_pictures_in_no_class_folder_is_named(tmp_path):
    root = build(tmp_path / "set", ["images/", "labels.csv"])
    (root / "labels.csv").write_text("Path,Label\nimages/0.png,fox\nimages/1.png,owl\n")
    with pytest.raises(DataError, match=r"labels\.csv lists images with labels: give .*labels\.csv as the data set"):
        open_dataset(root)
    assert open_dataset(root / "labels.csv").classes == ("fox", "owl")


def test_a_table_beside_the_classes_that_gives_a_split_is_named_and_never_ignored(tmp_path):
    path = table(tmp_path, "path,label,subset", ["train", "val", "test"] * 2)
    with pytest.raises(DataError, match=r"list\.csv gives a split; name the table .* or say --layout classes"):
        open_dataset(path.parent)
    assert len(open_dataset(path.parent, layout="classes").classes) == 2
    path.write_text("path,label\n" + "\n".join(ROWS))
    assert open_dataset(path.parent).origin.startswith("own split")
