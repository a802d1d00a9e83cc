"""Bad input gives one clear line and exit status 2, and leaves nothing half-written."""

import errno
import os
from pathlib import Path

import pytest

QUICK = ("--set", "epochs=1", "--set", "attack.steps=1", "--device", "cpu")


def refused(result: tuple[int, str, str], *words: str) -> None:
    code, _, complaint = result
    lines = [line for line in complaint.splitlines() if line.startswith("error: ")]
    assert code == 2, complaint
    assert len(lines) == 1, complaint
    assert "Traceback" not in complaint
    for word in words:
        assert word in lines[0]


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("train", "nop", "--data", "shapes"), ("method 'nop'", "'nap'")),
        (("train", "nap", "--data", "shape"), ("data set", "shapes")),
        (("train", "nap", "--data", "shapes", "--backbone", "minni"), ("minni", "mini")),
        (("train", "nap", "--data", "shapes", "--eps", "-1/255"), ("eps", "0 or more")),
        (("train", "nap", "--data", "shapes", "--eps", "4"), ("4/255",)),
        (("train", "nap", "--data", "shapes", "--eps", "four"), ("4/255", "four")),
        (("train", "nap", "--data", "shapes", "--shots", "-2"), ("shots",)),
        (("train", "nap", "--data", "shapes", "--set", "lenght=2"), ("lenght", "length")),
        (("train", "nap", "--data", "shapes", "--set", "epochs"), ("key=value",)),
        (("train", "nap", "--data", "shapes", "--set", "epochs=0"), ("epochs",)),
        (("train", "nap", "--data", "shapes", "--set", "depth=40"), ("depth", "6")),
        (("train", "apt", "--data", "shapes", "--set", "length=60"), ("tokens",)),
        (("train", "nap+apt", "--data", "shapes"), ("context",)),
        (("train", "nap", "--data", "shapes", "--preset", "nap/quik"), ("nap/quick",)),
        (("train", "nap", "--data", "shapes", "--preset", "apt/quick"), ("preset",)),
        (("train", "nap", "--data", "shapes", "--device", "tpu"), ("tpu",)),
        (("evaluate", "runs/none"), ("run",)),
        (("evaluate", "mini", "--data", "shapes", "--attack", "pdg"), ("pdg", "pgd")),
        (("evaluate", "mini", "--data", "shapes", "--eps", "4"), ("4/255",)),
        (("evaluate", "mini", "--data", "shapes", "--attack", "pgd", "--set", "stepz=3"), ("stepz", "steps")),
        (("evaluate", "mini", "--data", "shapes", "--set", "steps=3"), ("standard-fast", "can be set", "steps", "pgd")),
        (("evaluate", "mini", "--data", "shapes", "--attack", "standard-fast,pgd", "--set", "targets=3"), ("targets",)),
        (("evaluate", "mini", "--data", "shapes", "--limit", "0"), ("limit",)),
        (("classify", "nowhere.jpg", "--names", "a,b"), ("nowhere.jpg",)),
        (("classify", "nowhere.jpg"), ("--model",)),
        (("show", "nowhere"), ("nowhere",)),
        (("list", "method"), ("methods",)),
        (("pretrain", "--out", "p", "--data", "nowhere"), ("nowhere",)),
    ],
)
def test_wrong_names_and_numbers(ironclip, tmp_path: Path, arguments: tuple[str, ...], words: tuple[str, ...]) -> None:
    refused(ironclip(*arguments), *words)
    assert not list(tmp_path.glob("runs/*/learned.safetensors"))


def test_empty_folder(ironclip, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    refused(ironclip("train", "apt", "--data", "empty", *QUICK), "empty")


def test_one_class(ironclip, photos: Path) -> None:
    for picture in (photos / "bright").iterdir():
        picture.unlink()
    (photos / "bright").rmdir()
    refused(ironclip("train", "apt", "--data", str(photos), *QUICK), "two")


def test_fewer_images_than_shots(ironclip, photos: Path) -> None:
    refused(ironclip("train", "apt", "--data", str(photos), "--shots", "16", *QUICK), "16 shots", "bright")


def test_label_out_of_range(ironclip, tmp_path: Path, photos: Path) -> None:
    (tmp_path / "set").mkdir()
    (tmp_path / "set" / "index.json").write_text(
        '{"dataset": "set", "classes": [{"id": 0, "name": "a"}, {"id": 1, "name": "b"}],'
        ' "items": [{"file": "x.png", "label": 7, "split": "train"}]}'
    )
    import zipfile

    with zipfile.ZipFile(tmp_path / "set" / "images.zip", "w") as archive:
        archive.write(photos / "dark" / "0.png", "x.png")
    refused(ironclip("train", "apt", "--data", "set", *QUICK), "label")


def test_wrong_checkpoint(ironclip, tmp_path: Path) -> None:
    (tmp_path / "clip.pt").write_bytes(b"\xff\xd8\xff\xe0 an image")
    refused(ironclip("train", "apt", "--data", "shapes", "--backbone", "ViT-B-32@clip.pt", *QUICK), "clip.pt")


def test_no_write_permission(ironclip, tmp_path: Path, photos: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    out = str(tmp_path / "file" / "run")
    refused(ironclip("train", "apt", "--data", str(photos), "--shots", "1", "--out", out, *QUICK), "file")


def test_full_disk_leaves_no_half_file(ironclip, tmp_path: Path, photos: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(handle: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    arguments = ("train", "apt", "--data", str(photos), "--shots", "1", "--out", "run", *QUICK)
    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", full)
        refused(ironclip(*arguments), "No space left")
    assert not [path for path in tmp_path.rglob("*") if path.suffix == ".tmp"]
    assert not (tmp_path / "run" / "learned.safetensors").exists()
    assert ironclip(*arguments)[0] == 0


def test_another_run_is_not_overwritten(ironclip, photos: Path) -> None:
    common = ("train", "apt", "--data", str(photos), "--shots", "1", "--out", "run", *QUICK)
    assert ironclip(*common)[0] == 0
    refused(ironclip(*common, "--seed", "2"), "another run")
