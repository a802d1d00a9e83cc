"""Local weights on the command line: asked once, on every verb that takes a backbone; bad files give one line."""

import json
from pathlib import Path

import open_clip
import pytest
import torch
from weight_files import TINY, tiny_files

LARGE = {**TINY, "vision_cfg": {**TINY["vision_cfg"], "image_size": 32}}
OWN = ("--weights", "clip.pt", "--activation", "gelu")


@pytest.fixture(autouse=True)
def files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    for name, config in {"Tiny": TINY, "Large": LARGE, "Other": {**TINY, "embed_dim": 8}}.items():
        monkeypatch.setitem(open_clip.factory._MODEL_CONFIGS, name, config)
    monkeypatch.delenv("IRONCLIP_WEIGHTS", raising=False)
    tiny_files(tmp_path, "clip")
    return tmp_path


def test_every_verb_that_takes_a_backbone_takes_local_weights(ironclip, photos):
    zero = ("--data", str(photos), *OWN)
    code, said, _ = ironclip("train", "zero_shot", "--backbone", "Tiny", *zero, "--json")
    assert code == 0
    run, config = json.loads(said)["run"], json.loads(said)["config"]
    assert (Path(config["weights"]).name, config["activation"]) == ("clip.pt", "gelu")
    common = ("--attack", "pgd", "--set", "steps=1", "--limit", "2")
    assert ironclip("evaluate", run, *common)[0] == 0, "the run asks for nothing again"
    assert ironclip("evaluate", "Tiny", *zero, *common)[0] == 0
    assert ironclip("attack", "Tiny", *zero, *common, "--save", "adv")[0] == 0
    assert ironclip("audit", "Tiny", *zero, *common, "--eps", "4/255", "--diagnostics", "0")[0] == 0
    assert ironclip("classify", str(photos), "--backbone", "Tiny", *OWN, "--names", "dark,bright", "--limit", "2")[0] == 0
    tower = ("--weights", "tower.pt", "--base", "clip.safetensors")
    assert ironclip("evaluate", "Tiny", "--data", str(photos), *tower, *common)[0] == 0
    grid = "name: g\ndefaults: {backbone: Tiny, weights: clip.pt, activation: gelu}\n"
    Path("g.yaml").write_text(grid + f"runs: [{{method: zero_shot, dataset: {photos}}}]\n")
    assert ironclip("grid", "run", "g.yaml", "--out", "grid", "--device", "cpu")[0] == 0


def test_check_says_what_weights_are_without_training_anything(ironclip, files):
    code, said, _ = ironclip("backbones", "check", "Tiny", *OWN, "--json")
    facts = json.loads(said)
    assert (code, facts["form"]) == (0, "torch file, open_clip's names under 'model'")
    assert (facts["activation"], facts["resolution"], facts["context"]) == ("gelu", 16, 24)
    again = json.loads(ironclip("backbones", "check", "clip.safetensors", "--json")[1])
    assert (facts["sha256"], facts["probe logits"]) == (again["sha256"], again["probe logits"])
    assert not Path("runs").exists()
    code, _, complaint = ironclip("backbones", "check", "clip.pt")
    assert code == 2
    assert "its sizes are those of Tiny; name it, as in Tiny@clip.pt" in complaint
    assert ironclip("backbones", "fetch", "mini")[0] == 0


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("Tiny", "--weights", "clip.pt"), "does not say whether it was trained with QuickGELU or GELU"),
        (("Tiny", "--weights", "clip.pt", "--activation", "relu"), "'relu'"),
        (("clip.safetensors", "--activation", "quick_gelu"), "was trained with gelu"),
        (("Other", *OWN), "does not fit Other"),
        (("Large", *OWN), "visual.positional_embedding is [5, 64], expected [17, 64]"),
        (("Tiny", "--weights", "half.safetensors", "--activation", "gelu"), "damaged or truncated safetensors file"),
        (("Tiny", "--weights", "empty", "--activation", "gelu"), "is a folder without weights of a known name"),
        (("Tiny", "--weights", "page.pt", "--activation", "gelu"), "it is an HTML or XML page"),
        (("Tiny", "--weights", "code.pt", "--activation", "gelu"), "holds Python objects beside tensors"),
        (("Tiny", "--weights", "gone.pt", "--activation", "gelu"), "no weights file at gone.pt"),
        (("Tiny", "--weights", "tower.pt"), "needs the text tower of Tiny/openai"),
    ],
)
def test_weights_that_cannot_be_used_are_refused_in_one_line(ironclip, photos, files, arguments, words):
    content = (files / "clip.safetensors").read_bytes()
    (files / "half.safetensors").write_bytes(content[: len(content) // 2])
    (files / "empty").mkdir()
    (files / "page.pt").write_text("<!DOCTYPE html>")
    torch.save({"model": Path("x")}, files / "code.pt")
    code, _, complaint = ironclip("evaluate", *arguments, "--data", str(photos))
    lines = [line for line in complaint.splitlines() if line.startswith("error: ")]
    assert (code, len(lines)) == (2, 1), complaint
    assert words in lines[0]
    assert not Path("runs").exists()
