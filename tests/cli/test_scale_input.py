"""What cannot be meant with shards, workers and executors: one line, exit status 2, and nothing is written."""

import pytest

from ironclip.grid import execute
from ironclip.protocols import workers

EVALUATE = ["evaluate", "mini", "--data", "shapes", "--eps", "1/255", "--attack", "fgsm", "--limit", "6", "--batch-size", "2"]
GRID = ["grid", "run", "g.yaml", "--out", "out"]
WRONG = [
    ([*EVALUATE, "--shard", "3/0"], "--shard is k/n with k from 1 to n"),
    ([*EVALUATE, "--shard", "1/1000000"], "n at most 999,999; got '1/1000000'"),
    ([*EVALUATE, "--shard", "4/4"], "there are 3 batches of images; take at most 3"),
    ([*EVALUATE, "--workers", "1000"], "--workers is a number from 1 to 16 on this machine; got 1000"),
    ([*EVALUATE, "--workers", "-1"], "--workers is a number from 1 to"),
    ([*EVALUATE, "--until", "50"], "at least 0 (all images) and below 50; got 50"),
    ([*EVALUATE, "--until", "nan"], "below 50; got nan"),
    ([*EVALUATE, "--until", "-1"], "below 50; got -1"),
    ([*GRID, "--workers", "1000"], "--workers is a number from 1 to 16 on this machine; got 1000"),
    ([*GRID, "--workers", "0", "--executor", "ray"], "--workers is a number from 1 to 100,000; got 0"),
    ([*GRID, "--processes", "2000"], "--processes is a number from 1 to 1024; got 2000"),
    ([*GRID, "--processes", "-2"], "--processes is a number from 1 to 1024; got -2"),
    ([*GRID, "--executor", "Ray"], "--executor is local, ray or slurm; got 'Ray'"),
    ([*GRID, "--address", "ray://head:10001"], "--address goes with --executor ray alone"),
    ([*GRID, "--executor", "slurm", "--gpus-per-cell", "0.5"], "--gpus-per-cell goes with --executor ray alone"),
    ([*GRID, "--address", "x", "--gpus-per-cell", "2"], "--address and --gpus-per-cell go with --executor ray alone"),
    ([*GRID, "--executor", "ray", "--gpus-per-cell", "inf"], "is more than 0 and at most 1024; got inf"),
    ([*GRID, "--executor", "ray", "--gpus-per-cell", "nan"], "is more than 0 and at most 1024; got nan"),
    ([*GRID, "--hours", "nan"], "--hours is more than 0; got nan"),
]


@pytest.mark.parametrize(("words", "reason"), WRONG, ids=[" ".join(words[-2:]) for words, _ in WRONG])
def test_what_cannot_be_meant_is_one_line_and_writes_no_result(ironclip, tmp_path, monkeypatch, words, reason):
    monkeypatch.setattr("os.cpu_count", lambda: 2)
    monkeypatch.setattr(workers, "subprocess", None)  # whatever is taken for meant here starts nothing
    monkeypatch.setattr(execute, "subprocess", None)
    (tmp_path / "g.yaml").write_text("{name: g, runs: [{method: zero_shot, backbone: mini, dataset: shapes}]}")
    code, said, told = ironclip(*words)
    assert (code, said, told.count("\n")) == (2, "", 1), told
    assert reason in told
    assert not (tmp_path / "out").exists()
    assert not list(tmp_path.glob("runs/*/**/samples.jsonl"))
