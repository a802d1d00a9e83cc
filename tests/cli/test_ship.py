"""export, save and classify as a user types them; what was shipped works where the run is gone."""

import json
import shutil
from pathlib import Path

import pytest

TRAIN = ("--shots", "1", "--set", "epochs=1", "--set", "attack.steps=1", "--set", "length=2", "--device", "cpu")


def test_what_was_shipped_answers_as_the_run_does(ironclip, photos: Path, tmp_path: Path) -> None:
    run = json.loads(ironclip("train", "apt", "--data", str(photos), *TRAIN, "--json")[1])["run"]
    expected = json.loads(ironclip("classify", str(photos), "--model", run, "--limit", "3", "--json")[1])

    code, said, _ = ironclip("export", run, "model.pt2", "--json")
    assert code == 0
    made = json.loads(said)
    assert made["deviation"]["relative"] <= 1e-5
    assert made["facts"]["classes"] == ["bright", "dark"]
    code, said, _ = ironclip("export", run, "model.onnx")
    assert code == 0
    assert "logits differ by at most" in said
    assert ironclip("save", run, "saved")[0] == 0

    shutil.rmtree("runs")
    for model in ("model.pt2", "model.onnx", "saved"):
        code, said, _ = ironclip("classify", str(photos), "--model", model, "--trust", "--limit", "3", "--json")
        assert code == 0
        for row, other in zip(json.loads(said), expected, strict=True):
            assert row["image"] == other["image"]
            for ours, theirs in zip(row["predictions"], other["predictions"], strict=True):
                assert ours["class"] == theirs["class"]
                assert ours["probability"] == pytest.approx(theirs["probability"], abs=1e-5)


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        (("export", "runs/none", "m.onnx"), "is no run"),
        (("export", "runs/none", "m.tflite"), "an exported model is a .pt2"),
        (("classify", "photos", "--model", "none.onnx"), "no such file"),
        (("classify", "photos", "--model", "photos"), "is no run"),
        (("classify", "photos", "--model", "none.pt2", "--test-time", "ttc"), "a fixed graph"),
    ],
)
def test_wrong_use_gives_one_line(ironclip, photos: Path, arguments: tuple[str, ...], reason: str) -> None:
    code, _, complaint = ironclip(*arguments)
    assert code == 2
    assert reason in complaint
    assert "Traceback" not in complaint
    assert len(complaint.strip().splitlines()) == 1
