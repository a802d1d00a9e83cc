"""A device that holds nine images: verbs go on in parts with the same outcomes; what cannot be divided is refused in one line."""

import json
import re
from pathlib import Path

import pytest
import torch

from ironclip.audit import diagnose
from ironclip.backbones.adapter import ClipBackbone

HOLDS = 9
MANY = ("--data", "shapes", "--eps", "4/255", "--limit", "12", "--attack", "pgd", "--set", "steps=1", "--device", "cpu")
NAMES = ("classify", "photos", "--names", "night,day")
VERBS = {
    "evaluate": ("evaluate", "mini", *MANY, "--distortion"),
    "targeted": ("evaluate", "mini", *MANY, "--targeted", "random"),
    "test time": ("evaluate", "mini", *MANY, "--test-time", "ttc", "--knowledge", "adaptive"),
    "retrieval": ("evaluate", "mini", *MANY[:6], "--task", "retrieval"),
    "attack": ("attack", "mini", *MANY, "--save", "made"),
    "audit": ("audit", "mini", *MANY, "--limit", "20", "--diagnostics", "20", "--steps", "2"),
    "classify": NAMES,
    "classify into a table": (*NAMES, "--out", "found.csv"),
    "views": (*NAMES, "--limit", "2", "--test-time", "rtpt", "--set", "views=12", "--set", "steps=1"),
}
CHECKED = ("D1", "D3", "D13", "D11")
FRACTION = re.compile(r"-?\d+\.\d+(e-?\d+)?")
SHA256 = re.compile("[0-9a-f]{64}")


@pytest.fixture
def small(monkeypatch):
    """From now on the image tower takes HOLDS images at once."""
    whole = ClipBackbone.encode_image

    def encode_image(self, images, *others, **named):
        if len(images) > HOLDS:
            raise torch.OutOfMemoryError(f"CUDA out of memory. Tried to allocate {len(images)} GiB")
        return whole(self, images, *others, **named)

    return lambda: monkeypatch.setattr(ClipBackbone, "encode_image", encode_image)


def written(folder: Path) -> dict[str, str]:
    """Outcomes of all verbs: tables, manifests, samples and verdicts; fractions without their last bits."""
    names = ("samples.jsonl", "manifest.json", "found.csv")
    found = {
        str(path.relative_to(folder)): FRACTION.sub(lambda hit: f"{float(hit[0]):.2f}", SHA256.sub("", path.read_text("utf-8")))
        for path in folder.rglob("*")
        if path.name in names
    }
    for path in folder.rglob("audit.json"):
        found[path.name] = str([(v["id"], v["level"]) for v in json.loads(path.read_text(encoding="utf-8"))["verdicts"]])
    return found


@pytest.mark.parametrize("line", VERBS.values(), ids=VERBS)
def test_a_verb_goes_on_in_parts_with_the_same_outcomes(line, ironclip, photos, small, tmp_path, monkeypatch):
    monkeypatch.setattr(diagnose, "CHECKS", {name: diagnose.CHECKS[name] for name in CHECKED})
    places = tmp_path / "whole", tmp_path / "parts"
    said = []
    for place in places:
        place.mkdir()
        (place / "photos").symlink_to(photos)
        monkeypatch.chdir(place)
        code, out, err = ironclip(*line)
        assert code == 0, err
        said.append(re.sub(r"\d+:\d\d left|\S*\d s\b", "", out))
        small()
    whole, parts = map(written, places)
    assert whole == parts
    assert whole or said[0] == said[1]


@pytest.mark.parametrize("line", [VERBS["evaluate"], VERBS["attack"], VERBS["audit"]])
def test_a_number_at_once_is_taken_or_refused(line, ironclip, small):
    small()
    code, _, err = ironclip(*line, "--batch-size", "10")
    assert code == 2
    assert re.search(r"^error: 10 images at once do not fit .*--batch-size auto or a smaller number$", err, re.MULTILINE)


def test_a_training_batch_that_does_not_fit_is_one_line(ironclip, small):
    small()
    code, _, err = ironclip("train", "apt", "--data", "shapes", "--backbone", "mini", "--shots", "1", "--set", "batch_size=12")
    assert code == 2
    assert "error: the memory is full (CUDA out of memory. Tried to allocate 12 GiB); take fewer images at once" in err
