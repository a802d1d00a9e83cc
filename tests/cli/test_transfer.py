"""A trained run on other data: its classes and prompts, nothing trained again, and a refusal where the classes were learned."""

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from ironclip.protocols.experiment import transferred
from ironclip.protocols.few_shot import open_run
from ironclip.records.folder import RunFolder

TRAIN = ("--shots", "1", "--set", "epochs=1", "--set", "attack.steps=1", "--set", "length=2", "--device", "cpu", "--json")
EVALUATE = ("--attack", "fgsm", "--device", "cpu", "--json")


@pytest.fixture
def walls(tmp_path: Path) -> Path:
    """Three classes of five images each: red, green, blue."""
    for channel, name in enumerate(("red", "green", "blue")):
        folder = tmp_path / "walls" / name
        folder.mkdir(parents=True)
        for number in range(5):
            pixels = np.full((20, 20, 3), 10 * number, dtype=np.uint8)
            pixels[..., channel] = 200
            Image.fromarray(pixels).save(folder / f"{number}.png")
    return tmp_path / "walls"


def test_a_run_is_scored_on_other_classes_beside_its_own(ironclip, photos: Path, walls: Path) -> None:
    run = json.loads(ironclip("train", "apt", "--data", str(photos), *TRAIN)[1])["run"]
    code, said, _ = ironclip("evaluate", run, "--data", str(walls), *EVALUATE)
    assert code == 0
    (record,) = json.loads(said)
    assert record["trained_on"] == "photos"
    assert (record["data"]["name"], record["data"]["classes"]) == ("walls", ["blue", "green", "red"])
    assert (record["method"], record["shots"]) == ("apt", 1)
    assert RunFolder.open(Path(run)).status == "trained"  # the run's own record is the one on its own data

    (own,) = json.loads(ironclip("evaluate", run, *EVALUATE)[1])
    assert own["trained_on"] == ""
    assert len(json.loads(ironclip("show", run, "--json")[1])["records"]) == 2
    assert "walls (trained on photos)" in ironclip("show", run)[1] + ironclip("report", run)[1]

    _, experiment = open_run(Path(run))
    moved = transferred(experiment, str(walls))
    for name, tensor in experiment.defense.state_dict().items():
        assert tensor.equal(moved.defense.state_dict()[name])
    assert moved.classifier.classes == ("blue", "green", "red")


def test_what_was_learned_for_its_own_classes_is_refused_in_one_line(ironclip, photos: Path, walls: Path) -> None:
    run = json.loads(ironclip("train", "apt", "--data", str(photos), *TRAIN, "--set", "class_specific=true")[1])["run"]
    code, _, complaint = ironclip("evaluate", run, "--data", str(walls), *EVALUATE)
    assert code == 2
    assert "fits the classes it was learned for alone" in complaint
    assert len(complaint.strip().splitlines()) == 1


def test_adaptive_attacks_are_asked_for_by_name(ironclip, photos: Path) -> None:
    run = json.loads(ironclip("train", "apt", "--data", str(photos), *TRAIN)[1])["run"]
    (record,) = json.loads(ironclip("evaluate", run, "--knowledge", "adaptive", *EVALUATE)[1])
    assert record["threat"]["knowledge"] == "adaptive"
    code, _, complaint = ironclip("evaluate", run, "--knowledge", "psychic", *EVALUATE)
    assert code == 2
    assert "white-box, static, transfer, black-box or adaptive; got 'psychic'" in complaint
