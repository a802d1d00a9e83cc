"""What is said about data on the command line, by every verb that uses them."""

import json
import shutil
from pathlib import Path

import pytest


def test_data_check_exits_1_on_a_picture_in_two_splits_or_under_two_labels(ironclip, photos: Path) -> None:
    code, said, _ = ironclip("data", "check", str(photos))
    assert (code, "good; 2 classes" in said) == (0, True)
    shutil.copy(photos / "dark" / "0.png", photos / "bright" / "copy.png")
    code, said, _ = ironclip("data", "check", str(photos))
    assert code == 1
    assert "not good" in said
    assert "the same image more than once:" in said
    assert "bright/copy.png" in said


def test_data_check_takes_layout_classes_and_shots(ironclip, photos: Path, tmp_path: Path) -> None:
    for fold in ("one", "two"):
        shutil.copytree(photos, tmp_path / "folds" / fold)
    for n, file in enumerate(sorted((tmp_path / "folds" / "two").rglob("*.png"))):
        file.write_bytes(file.read_bytes()[:60] + bytes([n]))
    code, said, _ = ironclip("data", "check", "folds")
    assert (code, "nearly the same folders" in said) == (1, True)
    assert "--layout 'one=train,two=test'" in said
    code, said, _ = ironclip("data", "check", "folds", "--layout", "one=train,two=skip", "--shots", "9")
    assert code == 1
    assert "2 classes have fewer training images than 9 shots" in said
    assert ironclip("data", "check", "folds", "--layout", "nonsense")[0] == 2


def test_one_list_of_names_serves_every_verb(ironclip, photos: Path, tmp_path: Path) -> None:
    names = tmp_path / "names.txt"
    names.write_bytes("\ufeff# ours\r\ndark\tnight sky\r\nbright => noon\r\n".encode())
    code, said, _ = ironclip("classify", str(photos), "--classes", str(names), "--limit", "4", "--json")
    rows = json.loads(said)
    assert {found["class"] for found in rows[0]["predictions"]} == {"night sky", "noon"}
    assert sorted(Path(row["image"]).parent.name for row in rows) == ["bright", "bright", "dark", "dark"]  # in proportion
    assert ironclip("data", "check", str(photos), "--classes", str(names))[0] == 0
    data = ("--data", str(photos), "--classes", str(names))
    code, said, _ = ironclip("evaluate", "mini", *data, "--attack", "fgsm", "--limit", "2", "--json")
    (record,) = json.loads(said)
    assert (code, record["data"]["classes"]) == (0, ["noon", "night sky"])
    code, said, _ = ironclip("attack", "mini", *data, "--attack", "fgsm", "--limit", "2", "--save", "adv", "--json")
    assert (code, json.loads(said)["classes"]) == (0, ["noon", "night sky"])
    options = ("--attack", "fgsm", "--limit", "2", "--eps", "4/255", "--diagnostics", "0", "--json")
    code, said, _ = ironclip("audit", "mini", *data, *options)
    assert (code, json.loads(said)["record"]["data"]["classes"]) == (0, ["noon", "night sky"])
    names.write_text("dark\tnight\nbright\n")
    for verb in (("evaluate", "mini"), ("audit", "mini"), ("attack", "mini", "--save", "b"), ("train", "zero_shot")):
        code, _, complaint = ironclip(*verb, *data)
        assert (code, "line 2: 'bright' has no folder" in complaint) == (2, True)


def test_names_that_are_the_same_to_the_tower_are_noted_by_all_and_refused_by_evaluate(ironclip, photos: Path) -> None:
    (photos / "bright").rename(photos / "Dark")
    code, _, complaint = ironclip("train", "zero_shot", "--data", str(photos))
    assert code == 0
    assert "note: 1 class name stands for more than one class, e.g. 'Dark' and 'dark'" in " ".join(complaint.split())
    code, _, complaint = ironclip("evaluate", "mini", "--data", str(photos), "--attack", "fgsm", "--limit", "2")
    assert code == 2
    assert "the classes 'Dark' and 'dark' are the same to mini (identical text features)" in " ".join(complaint.split())
    (photos / "dark" / "a.mp4").write_text("")
    _, _, complaint = ironclip("classify", str(photos / "dark"), "--names", "Cat,cat", "--limit", "1")
    assert "note: left out: 1 video" in complaint
    assert "note: 1 class name stands for more than one class" in " ".join(complaint.split())


def test_a_layout_reaches_training_and_the_command_that_repeats_an_evaluation(ironclip, photos: Path, tmp_path: Path) -> None:
    shutil.copytree(photos, tmp_path / "folds" / "uno")
    shutil.copytree(photos, tmp_path / "folds" / "dos")
    code, said, _ = ironclip("train", "zero_shot", "--data", "folds", "--layout", "uno=train,dos=test", "--out", "run")
    assert code == 0
    code, said, _ = ironclip("evaluate", "run", "--attack", "fgsm", "--limit", "4", "--json")
    (record,) = json.loads(said)
    assert (code, record["data"]["available"]) == (0, 20)
    assert "--layout" not in record["command"]  # the run knows
    again = ("evaluate", "run", "--data", "folds", "--layout", "dos=train,uno=test", "--attack", "fgsm", "--limit", "4", "--json")
    (record,) = json.loads(ironclip(*again)[1])
    assert "--layout dos=train,uno=test" in record["command"]


@pytest.mark.parametrize("name", ["gone.txt", "."])
def test_a_classes_file_that_is_none_is_one_line(ironclip, photos: Path, name: str) -> None:
    code, _, complaint = ironclip("classify", str(photos), "--classes", name)
    assert code == 2
    assert "cannot read the classes file" in complaint


def test_classify_writes_a_table_that_says_what_cannot_be_read(ironclip, photos: Path, tmp_path: Path) -> None:
    (photos / "dark" / "broken.jpg").write_bytes(b"\xff\xd8\xff\xe0 nothing")
    code, said, _ = ironclip("classify", str(photos), "--names", "night,day", "--out", "found.csv", "--json")
    assert code == 2
    assert json.loads(said) == {"file": "found.csv", "images": 20, "unreadable": 1, "resumed": 0}
    assert (tmp_path / "found.csv").read_text().splitlines()[0] == "image,class,probability,class_2,probability_2,problem"
    code, _, complaint = ironclip("classify", str(photos), "--names", "night,day", "--out", "a.csv", "--report", "a.html")
    assert (code, "give one of the two" in complaint) == (2, True)
    code, _, complaint = ironclip("classify", str(photos), "--names", "night,day", "--out", "a.xlsx")
    assert (code, ".csv or .parquet" in complaint) == (2, True)
