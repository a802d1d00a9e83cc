"""Files that are no usable backbone, on every verb that takes one: one line, exit status 2, and nothing is written."""

import os
import pickle
import zipfile
from pathlib import Path

import open_clip
import pytest
import torch
from safetensors.torch import save_file
from weight_files import TINY, tiny_files

NARROW = {**TINY, "text_cfg": {**TINY["text_cfg"], "width": 32}}


class Code:
    """Unpickled, it makes a folder."""

    def __reduce__(self):
        return os.mkdir, ("executed",)


@pytest.fixture(autouse=True)
def files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    for name, config in {"Tiny": TINY, "Narrow": NARROW}.items():
        monkeypatch.setitem(open_clip.factory._MODEL_CONFIGS, name, config)
    monkeypatch.delenv("IRONCLIP_WEIGHTS", raising=False)
    tiny_files(tmp_path, "whole")
    for file in ("whole.pt", "whole.safetensors"):
        content = (tmp_path / file).read_bytes()
        (tmp_path / file.replace("whole", "half")).write_bytes(content[: len(content) // 2])
    (tmp_path / "folder").mkdir()
    (tmp_path / "page.pt").write_text("<!DOCTYPE html><p>Sign in")
    (tmp_path / "page.safetensors").write_text("<html>not found")
    (tmp_path / "pointer.pt").write_text("version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 1\n")
    (tmp_path / "nothing.pt").write_bytes(b"")
    (tmp_path / "code.pt").write_bytes(pickle.dumps({"state_dict": Code()}))
    torch.save({"state_dict": Code()}, tmp_path / "new_code.pt")
    with zipfile.ZipFile(tmp_path / "zip.pt", "w") as archive:
        archive.writestr("readme.txt", "no weights")
    os.mkfifo(tmp_path / "pipe.pt")
    torch.save([1, 2, 3], tmp_path / "list.pt")
    torch.save({"fc.weight": torch.ones(3, 3)}, tmp_path / "other.pt")
    save_file({"x": torch.ones(2)}, tmp_path / "other.safetensors")
    return tmp_path


BAD = (
    "half.pt", "half.safetensors", "folder", "page.pt", "page.safetensors", "pointer.pt", "nothing.pt", "code.pt", "new_code.pt",
    "zip.pt", "pipe.pt", "list.pt", "other.pt", "other.safetensors", "gone.pt",
)  # fmt: skip
GIVEN = ("--activation", "gelu")


def verbs(photos: Path) -> dict[str, tuple[str, ...]]:
    """Each verb that takes a backbone, up to its name."""
    data = ("--data", str(photos))
    return {
        "backbones check": ("backbones", "check"),
        "train": ("train", "zero_shot", *data, "--backbone"),
        "evaluate": ("evaluate", *data, "--attack", "pgd", "--limit", "2", "--backbone"),
        "attack": ("attack", *data, "--attack", "pgd", "--limit", "2", "--save", "adv", "--backbone"),
        "audit": ("audit", *data, "--eps", "4/255", "--limit", "2", "--backbone"),
        "classify": ("classify", str(photos), "--names", "dark,bright", "--backbone"),
    }


def refused(ironclip, place: Path, *arguments: str) -> str:
    before = sorted(place.iterdir())
    code, _, complaint = ironclip(*arguments)
    lines = [line for line in complaint.splitlines() if line.startswith("error: ")]
    assert (code, len(lines)) == (2, 1), (arguments, complaint)
    assert "Traceback" not in complaint
    assert sorted(place.iterdir()) == before, "something was written or executed"
    return lines[0]


def test_bad_weights_are_refused_by_every_verb(ironclip, photos, files):
    for verb, words in verbs(photos).items():
        words = tuple(word for word in words if word != "--backbone" or verb in ("train", "classify"))
        for bad in BAD if verb == "backbones check" else BAD[::3]:
            said = refused(ironclip, files, *words, "Tiny", "--weights", bad, *GIVEN)
            assert Path(bad).name in said, said


@pytest.mark.parametrize("bad", BAD)
def test_a_bad_base_is_refused(ironclip, files, bad):
    for base in (f"Tiny@{bad}", bad):
        said = refused(ironclip, files, "backbones", "check", "Tiny", "--weights", "tower.pt", "--base", base)
        assert Path(bad).name in said, said


@pytest.mark.parametrize("bad", BAD)
def test_a_bad_file_in_place_of_a_name_is_refused(ironclip, files, bad):
    assert Path(bad).name in refused(ironclip, files, "backbones", "check", bad)


@pytest.mark.parametrize(
    "arguments",
    [
        ("Tiny", "--weights", "tower.pt", "--base", "Tiny@tower.pt"),
        ("Tiny", "--weights", "tower.pt", "--base", "whole.safetensors", "--activation", "quick_gelu"),
        ("Narrow", "--weights", "tower.pt", "--base", "whole.safetensors"),
        ("Tiny", "--weights", "whole.safetensors", "--activation", "GELU"),
        ("Tiny", "--weights", "whole.safetensors", "--activation", ""),
        ("Tiny", "--weights", ""),
        ("Tiny", "--base", "whole.safetensors"),
        ("Tinny", "--weights", "whole.safetensors"),
        ("mini", "--weights", "whole.safetensors"),
        ("mini", "--activation", "quick_gelu"),
        ("mini@whole.safetensors",),
        ("Tiny@",),
        ("@whole.safetensors",),
        ("Tiny@whole.safetensors", "--weights", "whole.pt"),
        ("",),
    ],
)
def test_what_does_not_belong_together_is_refused(ironclip, files, arguments):
    refused(ironclip, files, "backbones", "check", *arguments)
