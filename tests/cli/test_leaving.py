"""A command that is told to leave before a time limit finishes what it is at, says so by its status, and can go on."""

import json
import signal

from ironclip.core.signals import SOON
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
