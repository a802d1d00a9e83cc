"""Norm, radius and target are said by options of their own: no --set, grid, preset or keyword goes around the threat model."""

from pathlib import Path
from typing import Any

import pytest
import yaml

import ironclip as library
from ironclip.core.errors import UsageError
from ironclip.protocols.config import configure

RESERVED = {"norm": "l2", "eps": "8/255", "targeted": "true"}
VERBS = {
    "evaluate": ("evaluate", "mini", "--data", "shapes", "--device", "cpu"),
    "audit": ("audit", "mini", "--data", "shapes", "--device", "cpu", "--attack", "pgd"),
    "default audit": ("audit", "mini", "--data", "shapes", "--device", "cpu"),
    "attack": ("attack", "mini", "--data", "shapes", "--save", "pictures", "--device", "cpu"),
    "train": ("train", "apt", "--data", "shapes", "--device", "cpu"),
}


def refused(result: tuple[int, str, str], folder: Path, *words: str) -> None:
    code, _, complaint = result
    assert code == 2, complaint
    lines = [line for line in complaint.splitlines() if line.strip()]
    assert len(lines) == 1, complaint
    assert lines[0].startswith("error: "), complaint
    for word in words:
        assert word in lines[0]
    left = [path for place in ("runs", "audits", "pictures", "out") for path in (folder / place).rglob("*") if path.is_file()]
    assert not left, left


@pytest.mark.parametrize("option", RESERVED)
@pytest.mark.parametrize("verb", VERBS)
def test_no_set_goes_around_the_threat(ironclip, tmp_path, verb, option):
    refused(ironclip(*VERBS[verb], "--set", f"{option}={RESERVED[option]}"), tmp_path, f"--{option}", "threat model")


@pytest.mark.parametrize("option", RESERVED)
def test_no_set_changes_the_threat_of_the_training_attack(ironclip, tmp_path, option):
    refused(ironclip(*VERBS["train"], "--set", f"attack.{option}={RESERVED[option]}"), tmp_path, f"--{option}")
    with pytest.raises(UsageError, match=f"--{option}"):
        configure({"method": "apt", "dataset": "shapes", "attack": {"name": "pgd", option: RESERVED[option]}})


@pytest.mark.parametrize("option", RESERVED)
@pytest.mark.parametrize("place", ["measure", "runs", "defaults", "attack"])
def test_no_grid_goes_around_the_threat(ironclip, tmp_path, option, place):
    changes = {option: RESERVED[option]}
    grid: dict[str, Any] = {
        "name": "g",
        "defaults": {"set": changes} if place == "defaults" else {},
        "runs": [{"method": "apt", "dataset": "shapes", "set": {"epochs": 1} | (changes if place == "runs" else {})}],
        "evaluate": [{"attacks": ["pgd"], "set": changes if place == "measure" else {}, "limit": 4}],
    }
    if place == "attack":
        grid["runs"][0]["attack"] = {"name": "pgd", **changes}
    (tmp_path / "grid.yaml").write_text(yaml.safe_dump(grid))
    refused(ironclip("grid", "run", "grid.yaml", "--out", "out", "--device", "cpu"), tmp_path, f"--{option}")


@pytest.mark.parametrize(
    ("measure", "words"),
    [
        ({"targeted": "far"}, ("next", "far")),
        ({"targeted": "next", "attacks": "square"}, ("aim",)),
        ({"targeted": "next", "attacks": "pgd", "knowledge": "static"}, ("white-box or adaptive", "static")),
        ({"norm": "l2"}, ("l2", "radius of its own")),
        ({"norm": "l3", "eps": 0.5}, ("norm", "l3")),
        ({"source": "mini"}, ("transfer",)),
        ({"knowledge": "transfer"}, ("--source",)),
    ],
)
def test_measures_of_a_grid_that_cannot_be_meant(ironclip, tmp_path, measure, words):
    grid = {"name": "g", "runs": [{"method": "zero_shot", "dataset": "shapes"}], "evaluate": [{"limit": 4, **measure}]}
    (tmp_path / "grid.yaml").write_text(yaml.safe_dump(grid))
    refused(ironclip("grid", "run", "grid.yaml", "--out", "out", "--device", "cpu"), tmp_path, *words)


@pytest.mark.parametrize("option", ["norm", "eps", "targeted"])
def test_no_keyword_in_python_goes_around_the_threat(tmp_path, option):
    backbone, data = library.load("mini"), library.dataset("shapes", shots=1)
    if option == "targeted":
        model = library.zero_shot(backbone, data, root=tmp_path)
        with pytest.raises(UsageError, match="--targeted"):
            library.evaluate(model, root=tmp_path, limit=4, targeted=True)
    with pytest.raises(UsageError, match=f"--{option}"):
        library.fit("apt", backbone, data, root=tmp_path / "runs", **{f"attack.{option}": RESERVED[option]})
    assert not (tmp_path / "runs").exists()


@pytest.mark.parametrize("verb", VERBS)
@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("--norm", "l3", "--eps", "0.5"), ("linf", "l2", "l3")),
        (("--norm", "l2"), ("l2", "--eps 0.5")),
        (("--norm", "linf", "--eps", "1.5"), ("[0, 1]",)),
        (("--norm", "l2", "--eps", "-3"), ("0 or more",)),
    ],
)
def test_norms_and_radii_that_cannot_be_right(ironclip, tmp_path, verb, arguments, words):
    refused(ironclip(*VERBS[verb], *arguments), tmp_path, *words)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("--attack", "transfer", "--norm", "l2", "--eps", "0.5"), ("transfer", "linf")),
        (("--attack", "pgd", "--set", "steps=0"), ("steps=0", "move")),
        (("--attack", "autoattack", "--set", "steps=0"), ("steps=0", "move")),
        (("--eps", "0"), ("radius 0",)),
        (("--knowledge", "black-box"), ("black-box", "square")),
        (("--knowledge", "transfer"), ("--source",)),
        (("--source", "mini-robust"), ("--knowledge transfer",)),
        (("--knowledge", "grey"), ("white-box", "grey")),
        (("--targeted", "true"), ("--targeted", "next")),
        (("--targeted", "next", "--attack", "square"), ("aim",)),
        (("--targeted", "next", "--attack", "pgd", "--knowledge", "static"), ("white-box or adaptive", "static")),
    ],
)
def test_evaluations_that_cannot_be_meant(ironclip, tmp_path, arguments, words):
    refused(ironclip(*VERBS["evaluate"], *arguments), tmp_path, *words)
