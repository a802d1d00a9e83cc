"""A command that is told to leave before a time limit finishes what it is at, says so by its status, and can go on."""

import json
import signal
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import pytest
from held import held

from ironclip.core import signals
from ironclip.core.signals import LEAVE, SOON, heard_from_here
from ironclip.records import folder, lock
from ironclip.records.folder import EvaluationFolder, RunFolder

EVALUATE = ["evaluate", "mini", "--data", "shapes", "--eps", "1/255", "--attack", "fgsm", "--limit", "6", "--batch-size", "2"]
TRAIN = ["train", "apt", "--data", "shapes", "--shots", "1", "--set", "epochs=3", "--set", "attack.steps=1", "--out", "run"]


def after(function):
    """The function, and then the signal."""

    def call(*given, **options):
        found = function(*given, **options)
        signal.raise_signal(SOON[0])
        return found

    return call


def test_an_evaluation_leaves_after_its_batch_and_goes_on(ironclip, monkeypatch, tmp_path):
    with monkeypatch.context() as patch:
        patch.setattr(EvaluationFolder, "append", after(EvaluationFolder.append))
        code, _, said = ironclip(*EVALUATE)
    assert (code, said.splitlines()[-1]) == (
        75, "left after what it was at, as asked by SIGUSR1; the same command goes on where it stopped",
    )  # fmt: skip
    (samples,) = tmp_path.glob("runs/*/samples.jsonl")
    assert len(samples.read_text().splitlines()) == 2
    code, said, _ = ironclip(*EVALUATE, "--json")
    assert (code, json.loads(said)[0]["images"]) == (0, 6)


def test_a_training_leaves_after_its_step_and_goes_on_after_its_epoch(ironclip, monkeypatch, tmp_path):
    with monkeypatch.context() as patch:
        patch.setattr(RunFolder, "save_state", after(RunFolder.save_state))
        assert ironclip(*TRAIN)[0] == 75
    run = RunFolder.open(tmp_path / "run")
    assert (run.status, run.load_state()["epoch"]) == ("training", 1)
    assert ironclip(*TRAIN)[0] == 0
    assert [entry["epoch"] for entry in run.entries() if entry["event"] == "epoch"] == [1, 2, 3]


def test_a_grid_leaves_with_its_cell_open_and_a_shard_is_finished(ironclip, monkeypatch, tmp_path):
    (tmp_path / "g.yaml").write_text(
        "{name: g, defaults: {backbone: mini, dataset: shapes}, runs: [{method: zero_shot}], "
        "evaluate: [{attacks: fgsm, eps: 1/255, limit: 4, batch_size: 2}]}"
    )
    with monkeypatch.context() as patch:
        patch.setattr(EvaluationFolder, "append", after(EvaluationFolder.append))
        assert ironclip("grid", "run", "g.yaml", "--out", "out", "--device", "cpu")[0] == 75
    _, said, _ = ironclip("grid", "status", "g.yaml", "--out", "out", "--json")
    assert json.loads(said)["states"] == {"open": 1}
    assert ironclip("grid", "run", "g.yaml", "--out", "out", "--device", "cpu")[0] == 0


TARGET = """
import torch
from torch import nn

class Bright(nn.Module):
    resolution = 8
    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.tensor(-40.0))
    def forward(self, images):
        above = self.weight * (images.mean((1, 2, 3)) - 0.5)
        return torch.stack([-above, above], 1)

def made(classes):
    return Bright()
"""
GRID = (
    "{name: g, defaults: {backbone: mini, dataset: shapes, augment: none, set: {epochs: 2, attack.steps: 1}}, "
    "runs: [{method: [zero_shot, apt], shots: 1}], evaluate: [{attacks: fgsm, eps: 1/255, limit: 4, batch_size: 2}]}"
)
COMMANDS = {
    "evaluate": EVALUATE,
    "shards": [*EVALUATE, "--shard", "any/3"],
    "audit": [
        "audit", "theirs.py:made", "--data", "photos", "--eps", "0.02,0.1", "--attack", "fgsm", "--diagnostics", "4",
        "--steps", "2", "--batch-size", "2", "--limit", "6",
    ],
    "train": TRAIN,
    "grid": ["grid", "run", "g.yaml", "--out", "out"],
}  # fmt: skip


@pytest.fixture
def process(ironclip, monkeypatch, photos, tmp_path):
    """A command as a process of its own does it, with what runs at the so-manieth call of a function of ironclip; gives back
    its exit status and the number of calls."""
    ours = str(Path(signals.__file__).parents[1])

    def run(words, at=0, happens=lambda: None):
        folder = Path.cwd()
        (folder / "theirs.py").write_text(TARGET)
        (folder / "g.yaml").write_text(GRID)
        if not (folder / "photos").exists():
            (folder / "photos").symlink_to(photos)
        calls = 0

        def count(frame, event, _):
            nonlocal calls
            if event == "call" and frame.f_code.co_filename.startswith(ours):
                calls += 1
                if calls == at:
                    happens()

        monkeypatch.setattr(signals, "_noted", [])
        try:
            with heard_from_here():
                sys.setprofile(count)
                code = ironclip(*words, "--device", "cpu")[0]
        finally:
            sys.setprofile(None)
            signal.signal(SOON[0], signal.SIG_DFL)
        return code, calls

    return run


@pytest.mark.parametrize(
    ("name", "moments"), [("audit", 3), *(pytest.param(name, 30, marks=pytest.mark.slow) for name in COMMANDS)]
)
def test_told_at_any_moment_it_leaves_and_goes_on_or_is_finished(process, monkeypatch, tmp_path, name, moments):
    words = COMMANDS[name]

    def inside(folder, at=0):
        (tmp_path / folder).mkdir(exist_ok=True)
        monkeypatch.chdir(tmp_path / folder)
        return process(words, at, lambda: signal.raise_signal(SOON[0]))

    code, calls = inside("calm")
    assert code == 0
    left = 0
    for moment in range(moments):
        at = 1 + moment * calls // moments
        code, _ = inside(f"told{moment}", at)
        assert code in (0, 75), f"told at call {at} of {calls}: {code}"
        left += code == 75
        if code == 75:
            assert inside(f"told{moment}")[0] == 0
        assert results(tmp_path / f"told{moment}") == results(tmp_path / "calm")
    assert left >= moments / 2


def results(folder):
    """All records in a folder, without times."""
    found = {}
    for path in sorted(folder.rglob("record.json")):
        record = json.loads(path.read_text())
        for key in ("timing", "sha256", "environment"):
            record.pop(key)
        found[path.relative_to(folder)] = record
    return found


@pytest.mark.parametrize("locks", ["", "soft"])
def test_who_waits_for_a_folder_leaves(ironclip, monkeypatch, tmp_path, locks):
    """Somebody else holds the run, on a busy machine for longer than anybody waits."""
    assert ironclip(*EVALUATE)[0] == 0
    (run,) = tmp_path.glob("runs/*/")
    (run / "record.json").unlink()
    monkeypatch.setenv("IRONCLIP_LOCKS", locks)
    monkeypatch.setattr(folder, "WAIT", 1.0)
    with held(run):
        monkeypatch.setattr(lock, "time", SimpleNamespace(monotonic=time.monotonic, sleep=lambda _: signal.raise_signal(SOON[0])))
        assert ironclip(*EVALUATE)[0] == 75
        assert ironclip(*EVALUATE, "--shard", "any/3")[0] == 75


@pytest.mark.parametrize("number", LEAVE)
def test_an_audit_of_foreign_code_that_is_ended_says_that_it_was(process, number):
    before = signal.signal(number, signal.SIG_DFL)  # also where these tests run under nohup
    try:
        for at in (200, 3000):
            code, calls = process(COMMANDS["audit"], at, lambda: signal.raise_signal(number))
            assert (code, calls >= at) == (130, True)
    finally:
        signal.signal(number, before)
