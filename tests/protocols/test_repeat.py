"""The command of a record, handed to the real command line, asks for the same evaluation: the same folder, the same settings."""

import json
import shlex
import shutil
import sys
from functools import lru_cache
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import ironclip
from ironclip.grid.file import Measure
from ironclip.grid.work import _measure
from ironclip.protocols import measure, repeat
from ironclip.protocols.config import assigned, values_of
from ironclip.protocols.few_shot import open_run, train
from ironclip.protocols.frozen import Frozen, load_frozen
from ironclip.protocols.resolve import resolve
from ironclip.protocols.suites import SUITES
from ironclip.records.folder import EvaluationFolder
from ironclip.records.record import Sample
from ironclip.records.summary import summarise


@lru_cache
def once(frozen: Frozen, **options):
    """A backbone is frozen, so one serves all."""
    return load_frozen(frozen, **options)


@pytest.fixture(scope="module")
def made(tmp_path_factory) -> Path:
    """Runs of several kinds, hardly trained, and a folder of images whose name a shell would take apart."""
    root = tmp_path_factory.mktemp("made")
    quick = ["epochs=1", "shots=1", "attack.steps=1"]
    train(resolve("zero_shot", "shapes", given={"backbone": "mini"}), out=root / "runs" / "plain")
    train(resolve("zero_shot", "shapes", given={"backbone": "mini"}), out=root / "my runs [1] $x" / "it's")
    train(resolve("zero_shot+ttc", "shapes", given={"backbone": "mini"}, changes=["ttc.steps=1"]), out=root / "runs" / "ttc")
    train(resolve("apt", "shapes", given={"backbone": "mini", "subset": "base"}, changes=quick), out=root / "runs" / "base")
    for number, name in enumerate(("red circle", "blue square")):
        for split in ("train", "test"):
            folder = root / "my photos (2)" / split / name
            folder.mkdir(parents=True)
            Image.fromarray(np.full((64, 64, 3), 99 * number, np.uint8)).save(folder / "a.png")
    return root


NO_SUCCESS = {"success": {"value": 0.0, "low": 0.0, "high": 1.0}, "attacked": 1}


class Asked:
    """What evaluations were asked for, in place of doing them: (folder, settings, command) each."""

    def __init__(self) -> None:
        self.seen: list[tuple[str, dict, str]] = []

    def __call__(self, folder: EvaluationFolder, setup, classifier, named, batches, **options):
        # Whatever a repetition must agree on and the settings do not hold comes besides.
        beside = {"batch": len(next(iter(batches))), "method": setup.method, "options": setup.options}
        self.seen.append((str(folder.path), (folder.settings or {}) | beside, setup.command))
        sample = Sample(index=0, label=0, clean=0, clean_margin=-1.0, margin=-1.0)
        return summarise(setup, [sample], {}), []


@pytest.fixture
def asked(made, tmp_path, monkeypatch) -> Asked:
    shutil.copytree(made, tmp_path, dirs_exist_ok=True)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("IRONCLIP_CACHE", str(made / "cache"))
    monkeypatch.setitem(SUITES, "toy", ("shapes", "shapes:sketch"))
    monkeypatch.setattr(measure, "answer_cost", lambda *_: ({}, 0.0))
    monkeypatch.setattr(measure, "feature_distortion", lambda *_: {})
    monkeypatch.setattr(measure, "success", lambda *_, **__: NO_SUCCESS)
    monkeypatch.setattr("ironclip.protocols.experiment.load_frozen", once)
    monkeypatch.setattr(EvaluationFolder, "save_record", lambda *_: None)  # a record without its samples would be refused
    seen = Asked()
    monkeypatch.setattr(measure, "evaluate_into", seen)
    return seen


def cli(monkeypatch, *arguments: str) -> None:
    from ironclip.cli import main

    monkeypatch.setattr(sys, "argv", ["ironclip", *arguments])
    with pytest.raises(SystemExit) as end:
        main()
    assert not end.value.code, arguments


def repeated(asked: Asked, monkeypatch) -> None:
    """Each command asks for exactly the evaluation it came with, and has itself for its command."""
    first, asked.seen = asked.seen, []
    assert first
    for entry in first:
        program, *words = shlex.split(entry[2])
        assert program == "ironclip"
        cli(monkeypatch, *words)
        (again,) = asked.seen
        assert again == entry
        asked.seen.clear()


KINDS = {
    "plain": ["runs/plain"],
    "a backbone": ["mini", "--data", "shapes"],
    "several attacks": ["runs/plain", "--attack", "pgd, fgsm,square", "--set", "steps=3", "--set", "queries=7"],
    "autoattack": ["runs/plain", "--attack", "autoattack", "--set", "steps=3", "--set", "queries=7"],
    "a member": ["runs/plain", "--attack", "apgd-t", "--seed", "4"],
    "several radii": ["runs/plain", "--eps", "1/255,0.5/255,0.0156862745,0.0123456789,3e-3"],
    "values": ["runs/plain", "--attack", "pgd", "--set", "step_size=0.5/255", "--set", "loss=margin",
               "--set", "restarts=2", "--set", "keep=last"],
    "limit": ["runs/plain", "--limit", "7"],
    "seed": ["runs/plain", "--seed", "3"],
    "split": ["runs/plain", "--split", "val"],
    "batch": ["runs/plain", "--batch-size", "5", "--limit", "9"],
    "static": ["runs/plain", "--knowledge", "static"],
    "adaptive": ["runs/base", "--knowledge", "adaptive"],
    "l2": ["runs/plain", "--norm", "l2", "--eps", "0.5,0.0123456789,3"],
    "targeted": ["runs/plain", "--attack", "pgd,mim", "--targeted", "least-likely", "--norm", "l2", "--eps", "1"],
    "transfer": ["runs/base", "--knowledge", "transfer", "--source", "mini"],
    "transfer from a run": ["mini", "--data", "shapes", "--knowledge", "transfer", "--source", "runs/plain"],
    "scores alone": ["runs/plain", "--knowledge", "black-box", "--attack", "square"],
    "distortion": ["runs/base", "--distortion"],
    "trained on base": ["runs/base"],
    "new classes": ["runs/base", "--subset", "new", "--limit", "6"],
    "all classes": ["runs/base", "--subset", "all"],
    "its own data by name": ["runs/plain", "--data", "shapes"],
    "base classes of a backbone": ["mini", "--data", "shapes", "--subset", "base"],
    "other data": ["runs/base", "--data", "shapes:sketch"],
    "new classes of other data": ["runs/base", "--data", "shapes:sketch", "--subset", "new", "--split", "test"],
    "a folder of images": ["runs/plain", "--data", "my photos (2)"],
    "a suite": ["runs/base", "--suite", "toy"],
    "a suite on a backbone": ["mini", "--suite", "toy", "--limit", "8"],
    "new classes of a suite": ["runs/base", "--suite", "toy", "--subset", "new"],
    "one of a suite": ["runs/base", "--suite", "toy", "--data", "shapes:sketch"],
    "test-time in the run": ["runs/ttc", "--attack", "pgd", "--set", "steps=1"],
    "test-time in the run, one knowledge": ["runs/ttc", "--knowledge", "adaptive"],
    "test-time on top": ["runs/base", "--test-time", "ttc"],
    "test-time with options": ["runs/base", "--test-time", "ttc", "--attack", "pgd", "--set", "ttc.steps=1", "--set", "steps=2"],
    "test-time, white-box": ["runs/base", "--test-time", "ttc", "--knowledge", "white-box", "--data", "shapes:sketch"],
    "a path for the shell": ["my runs [1] $x/it's", "--data", "my photos (2)", "--attack", "pgd,cw"],
}  # fmt: skip


@pytest.mark.parametrize("arguments", KINDS.values(), ids=KINDS)
def test_the_command_of_a_record_asks_for_that_record(asked, monkeypatch, arguments):
    cli(monkeypatch, "evaluate", *arguments)
    repeated(asked, monkeypatch)


def test_an_absolute_path_and_the_last_run_are_named_by_their_folder(asked, monkeypatch, tmp_path):
    cli(monkeypatch, "evaluate", str(tmp_path / "runs" / "plain"))
    repeated(asked, monkeypatch)
    (tmp_path / "runs" / "last").write_text("base\n")
    cli(monkeypatch, "evaluate", "runs/last")
    assert "runs/base" in asked.seen[0][2]
    repeated(asked, monkeypatch)


def test_a_folder_that_looks_like_an_option_is_still_a_folder(asked, monkeypatch):
    shutil.move("runs/plain", "-plain")
    cli(monkeypatch, "evaluate", "./-plain")
    repeated(asked, monkeypatch)


def test_an_option_of_the_test_time_method_in_python_has_the_command_of_the_command_line(asked, monkeypatch):
    model = ironclip.load_classifier("runs/base")
    ironclip.evaluate(
        ironclip.test_time("ttc", model, steps=1, eps=1e-05), attack=["pgd"], steps=2, step_size=1e-05, limit=5, seed=2
    )
    here, asked.seen = asked.seen, []
    words = [
        "--attack",
        "pgd",
        "--test-time",
        "ttc",
        "--set",
        "ttc.steps=1",
        "--set",
        "ttc.eps=1.0e-05",
        "--set",
        "steps=2",
        "--set",
        "step_size=1.0e-05",
    ]
    cli(monkeypatch, "evaluate", "runs/base", *words, "--limit", "5", "--seed", "2")
    assert asked.seen == here
    repeated(asked, monkeypatch)


def test_a_saved_folder_that_was_loaded_has_a_run_to_repeat_it_on(asked, monkeypatch):
    ironclip.load_classifier("runs/plain").save_pretrained("saved")
    model = ironclip.load_classifier("saved")
    ironclip.evaluate(model, "shapes", attack="fgsm", limit=3, eps=0.012345)
    repeated(asked, monkeypatch)


@pytest.mark.parametrize(
    "values",
    [
        {"attacks": ["pgd", "square"], "set": {"steps": 2, "queries": 9, "step_size": 0.00001}, "eps": ["1/255", "4/255"]},
        {"subset": "new", "limit": 4, "seed": 3, "split": "val", "batch_size": 3},
        {"data": "shapes:sketch", "subset": "new", "knowledge": "static"},
        {"suite": "toy", "distortion": True},
        {"attacks": "pgd", "targeted": "random", "norm": "l2", "eps": [0.5, 2]},
        {"knowledge": "transfer", "source": "mini", "norm": "l2", "eps": 0.25},
        {"attacks": "pgd", "test_time": "ttc", "set": {"ttc.steps": 1, "steps": 2}, "knowledge": "adaptive"},
    ],
)
def test_a_cell_of_a_grid_has_the_command_of_the_command_line(asked, monkeypatch, values):
    run, experiment = open_run(Path("runs/base"))
    wanted = Measure(**values)
    for eps in wanted.eps:
        _measure(run, experiment, wanted, eps)
    repeated(asked, monkeypatch)


VALUES = [0, -3, 2.5, 1e-05, 1e22, 4 / 255, True, None, "", "margin", "4/255", "1e-3", "null", "a: b", "[x]", " x ", "ü",
          "x" * 200, [1, 2.5, "4/255"], (1, 2), {"a": [1]}, "it's \"so\"", "two\nlines"]  # fmt: skip


@pytest.mark.parametrize("value", VALUES, ids=repr)
def test_a_value_written_for_set_is_read_as_that_value(value):
    (text,) = assigned({"key": value})
    words = shlex.split(shlex.join([text]))
    assert values_of(words) == {"key": list(value) if isinstance(value, tuple) else value}


def test_numbers_of_a_grid_file_stay_numbers():
    wanted = Measure(set={"step_size": 0.00001, "relative": None, "eps_iter": "1/255", "loss": "margin", "steps": 3})
    assert values_of(wanted.changes) == {
        "step_size": 1e-05, "relative": None, "eps_iter": 1 / 255, "loss": "margin", "steps": 3,
    }  # fmt: skip


@pytest.mark.parametrize("eps", [0.0, 1 / 255, 0.25 / 255, 4 / 255, 0.0156862745, 0.0123456789, 0.5, 1.0, 1e-5, 1 / 3])
def test_a_radius_is_written_without_a_loss(eps):
    assert values_of([f"eps={repeat.exact(eps)}"])["eps"] == eps or float(repeat.exact(eps)) == eps


def test_a_subset_that_is_none_is_one_line(asked, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["ironclip", "evaluate", "runs/base", "--subset", "old"])
    from ironclip.cli import main

    with pytest.raises(SystemExit) as end:
        main()
    assert end.value.code == 2
    assert capsys.readouterr().err == "error: --subset is all, base or new; got 'old'\n"


FOREIGN = """
import torch


def build(classes):
    layer = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(3 * 16 * 16, len(classes)))
    torch.nn.init.constant_(layer[1].bias, 0.0)
    layer[1].weight.data = torch.linspace(-1, 1, layer[1].weight.numel()).reshape(layer[1].weight.shape)
    return layer
"""


@pytest.mark.parametrize(
    "arguments",
    [
        ["their net.py:build", "--data", "my photos (2)", "--resolution", "16", "--eps", "0.0123456,2/255"],
        ["runs/plain", "--transfer", "mini", "--eps", "4/255", "--seed", "2", "--split", "val", "--set", "steps=1"],
        ["mini", "--data", "shapes", "--eps", "1/255", "--batch-size", "7", "--attack", "pgd,fgsm"],
        ["mini", "--data", "shapes", "--norm", "l2", "--eps", "0.5,2", "--set", "steps=2"],
    ],
)
def test_the_command_of_an_audit_asks_for_that_audit(asked, monkeypatch, arguments):
    Path("their net.py").write_text(FOREIGN)
    words = ["--limit", "4", "--diagnostics", "0"]
    words += [] if "--attack" in arguments else ["--attack", "pgd"]
    monkeypatch.setattr("ironclip.audit.measure.evaluate_into", asked)
    cli(monkeypatch, "audit", *arguments, *words)
    first, asked.seen = asked.seen, []
    assert len({command for _, _, command in first}) == 1
    cli(monkeypatch, *shlex.split(first[0][2])[1:])
    assert asked.seen == first
    assert json.dumps(first[0][1])
