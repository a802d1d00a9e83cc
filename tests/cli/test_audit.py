"""`ironclip audit` on somebody else's classifier: numbers, page, exit status, faults in one line."""

import json
from pathlib import Path

import pytest

from ironclip.audit.diagnose import CHECKS

MODULE = '''
import torch
from torch import nn

class Brightness(nn.Module):
    """Dark against bright, by the mean of the pixels."""
    resolution = 8
    def __init__(self, scale=40.0, order=1):
        super().__init__()
        self.weight = nn.Parameter(torch.tensor(scale * order))
    def forward(self, images):
        above = self.weight * (images.mean((1, 2, 3)) - 0.5)
        return torch.stack([-above, above], 1)

def good(classes):
    return Brightness(order=1 if classes == ("dark", "bright") else -1)

class Rounded(Brightness):
    def forward(self, images):
        return super().forward((images * 4).round() / 4 + 0 * images)

def masked(classes):
    return Rounded(order=1 if classes == ("dark", "bright") else -1)

def surrogate(classes):
    model = masked(classes)
    model.surrogates = (good(classes),)
    return model

def nan(classes):
    model = good(classes)
    return lambda images: model(images) / 0 * 0

def shy(classes):
    model = good(classes)
    return lambda images: model(images).detach()

def none(classes):
    model = good(classes)
    return lambda images: model(images.detach())

class Drifting(Brightness):
    def forward(self, images):
        with torch.no_grad():
            self.weight.add_(1e-3)
        return super().forward(images)

def drifting(classes):
    return Drifting()

def elsewhere(classes):
    model = good(classes)
    return lambda images: model(images).to("meta")

def one(classes):
    return lambda images: images.mean((1, 2, 3))[:, None]

def three(classes):
    return lambda images: images.flatten(1)[:, :3]

def number():
    return 3

def crash(classes):
    raise KeyError("weights")

value = 3
'''
SMALL = (
    "--eps",
    "1/255,32/255",
    "--set",
    "steps=3",
    "--set",
    "queries=20",
    "--steps",
    "10",
    "--diagnostics",
    "6",
    "--device",
    "cpu",
)


@pytest.fixture
def audit(ironclip, photos: Path, tmp_path: Path):
    (tmp_path / "theirs.py").write_text(MODULE)

    def run(name: str, *more: str):
        return ironclip("audit", f"theirs.py:{name}", "--data", str(photos), "--split", "train", *SMALL, *more)

    return run


def test_numbers_verdicts_page_and_export(audit, tmp_path: Path) -> None:
    code, said, _ = audit("good", "--json", "--html", "page.html", "--robustbench", "info.json", "--out", "kept")
    assert code == 0
    report = json.loads(said)
    assert report["clean"]["value"] == 1
    assert [radius["eps"] for radius in report["radii"]] == [1 / 255, 32 / 255]
    assert [attack["name"] for attack in report["radii"][0]["attacks"]] == ["pgd", "apgd-ce", "apgd-t", "fab-t", "square"]
    assert [verdict["id"] for verdict in report["verdicts"]] == [f"D{number}" for number in range(1, len(CHECKS) + 1)]
    assert json.loads((tmp_path / "kept" / "audit.json").read_text()) == report
    assert "<h1><bdi>Audit of theirs.py:good</bdi></h1>" in (tmp_path / "page.html").read_text()
    assert json.loads((tmp_path / "info.json").read_text())["eps"] == "32/255"
    again = json.loads(audit("good", "--json", "--out", "kept")[1])
    assert again["radii"] == report["radii"]


def test_requirements_decide_the_exit_status(audit) -> None:
    code, said, _ = audit("good", "--require", "robust>=0.9@1/255", "--require", "clean>=1")
    assert code == 0
    assert "requirement robust>=0.9@1/255: met, measured 1.0000" in said
    code, said, _ = audit("masked", "--require", "robust>=1@1/255", "--require", "robust>=1@32/255", "--diagnostics", "0")
    assert code in (0, 1)
    code, said, _ = audit("surrogate", "--require", "robust>=0.99@32/255", "--diagnostics", "0", "--eps", "32/255,100/255")
    assert "1 surrogate of the target attacked too" in said
    code, said, _ = audit("good", "--eps", "150/255", "--require", "robust>=0.99@150/255", "--diagnostics", "0")
    assert code == 1
    assert "robust>=0.99@150/255: NOT MET" in said


def test_a_masked_classifier_is_flagged(audit) -> None:
    _, said, _ = audit("masked", "--json")
    level = {verdict["id"]: verdict["level"] for verdict in json.loads(said)["verdicts"]}
    assert level["D1"] == "fail"
    assert level["D13"] == "fail"
    _, said, _ = audit("good", "--json")
    alarms = {verdict["id"] for verdict in json.loads(said)["verdicts"] if verdict["level"] in ("warn", "fail")}
    assert alarms <= {"D6"}  # dark and bright noise are 64/255 apart, so withstanding 32/255 is no mask here


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("nan", "NaN or infinity for 8 of 8 images"),
        ("drifting", "changes its own weights in a call"),
        ("elsewhere", "logits on meta for images on cpu"),
        ("one", "one logit per image (K = 1)"),
        ("three", "expected logits [8, 2]"),
        ("number", "returns int; expected a callable"),
        ("crash", "fails: KeyError: 'weights'"),
        ("value", "is no function"),
        ("nothing", "has no 'nothing'"),
    ],
)
def test_faults_of_the_target(audit, name: str, words: str) -> None:
    code, _, complaint = audit(name)
    assert code == 2
    assert words in complaint
    assert "Traceback" not in complaint
    assert len([line for line in complaint.splitlines() if line.startswith("error: ")]) == 1


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("theirs.py:good",), "--data"),
        (("nowhere.py:good", "--data", "shapes"), "no such file"),
        (("no.such.module:good", "--data", "shapes"), "cannot import 'no.such.module'"),
        (("minni", "--data", "shapes"), "minni"),
        (("mini",), "--data"),
        (("mini", "--data", "shapes", "--eps", "4"), "4/255"),
        (("mini", "--data", "shapes", "--require", "robust>=0.4"), "a requirement is"),
        (("mini", "--data", "shapes", "--require", "robust>=0.4@16/255"), "not audited"),
        (("mini", "--data", "shapes", "--attack", "pgdd"), "pgd"),
        (("mini", "--data", "shapes", "--steps", "0"), "--steps"),
        (("mini", "--data", "shapes", "--limit", "0"), "--limit"),
    ],
)
def test_wrong_usage(ironclip, tmp_path: Path, arguments: tuple[str, ...], words: str) -> None:
    (tmp_path / "theirs.py").write_text(MODULE)
    code, _, complaint = ironclip("audit", *arguments, "--device", "cpu")
    assert code == 2
    assert words in complaint
    assert len([line for line in complaint.splitlines() if line.startswith("error: ")]) == 1
