"""What cannot be meant with shards, workers and executors: one line, exit status 2, and nothing is written."""

import pytest

from ironclip.grid import cluster, execute, slurm
from ironclip.protocols import workers

EVALUATE = ["evaluate", "mini", "--data", "shapes", "--eps", "1/255", "--attack", "fgsm", "--limit", "6", "--batch-size", "2"]
GRID = ["grid", "run", "g.yaml", "--out", "out"]
RAY, SLURM = [*GRID, "--executor", "ray"], [*GRID, "--executor", "slurm"]
SHARES = ("inf", "nan", "0", "-1", "1.5", "0.00001", "1e9")
ADDRESSES = (
    "",
    "=",
    "head",
    "ray://",
    "ray://head",
    "head:x",
    "head:\N{ARABIC-INDIC DIGIT THREE}",
    "http://head:8265",
    "a b:1",
    "h:1\n",
)
BATCH = (
    *((text, "--slurm takes key=value, such as partition=gpu or time=600; got") for text in ("", "=", "partition", "=gpu")),
    ("partitoin=gpu", "unknown key of --slurm 'partitoin'; did you mean 'partition'?"),
    ("a b=c", "unknown key of --slurm 'a b'"),
    ("setup=rm", "unknown key of --slurm 'setup'"),
    ("command=rm", "unknown key of --slurm 'command'"),
    *((f"time={value}", "time is minutes, a whole number of at least 1; got") for value in
      ("", "0", "-5", "1.5", "x", "10:00:00", "\N{ARABIC-INDIC DIGIT THREE}", "9" * 30)),
    ("signal_delay_s=-1", "signal_delay_s is seconds, a whole number of at least 1; got '-1'"),
    ("array_parallelism=0", "array_parallelism is tasks at once, a whole number"),
    *((f"partition={value}", "partition is a text without line breaks and spaces around it; got") for value in
      ("", " gpu", "a\nrm", "a\x1b[0m", "\udcff")),
    ("time=5", "a task of 5 minutes that is told to leave 300 seconds before its end would do nothing"),
    ("time=60", "Slurm is not here: no srun, sbatch, sacct; give the command where jobs are submitted"),
)  # fmt: skip
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
    ([*GRID, "--hours", "nan"], "--hours is more than 0; got nan"),
    ([*GRID, "--slurm", "time=600"], "--slurm goes with --executor slurm alone"),
    ([*RAY, "--device", "gpu"], "--device is auto, cpu, cuda, one GPU such as cuda:1, or mps; got 'gpu'"),
    ([*SLURM, "--device", "cuda:\N{ARABIC-INDIC DIGIT THREE}"], "--device is auto, cpu, cuda"),
    *(([*RAY, "--gpus-per-cell", share], "--gpus-per-cell is at least 0.0001; above") for share in SHARES),
    ([*RAY, "--processes", "3", "--gpus-per-cell", "0.5"], "whole ones; got 0.5 by 3 processes"),
    *(
        ([*RAY, "--address", address], f"is auto, ray://host:port (port 10001) or host:port (port 6379); got {address!r}")
        for address in ADDRESSES
    ),
    *(([*SLURM, "--slurm", text], reason) for text, reason in BATCH),
    ([*SLURM, "--slurm", "time=60", "--slurm", "time=70"], "time stands twice, as '60' and as '70'"),
    ([*SLURM, "--slurm", "signal_delay_s=600", "--slurm", "time=10"], "a task of 10 minutes that is told to leave 600 seconds"),
]


@pytest.mark.parametrize(("words", "reason"), WRONG, ids=[ascii(" ".join(words[-2:])) for words, _ in WRONG])
def test_what_cannot_be_meant_is_one_line_and_writes_no_result(ironclip, tmp_path, monkeypatch, words, reason):
    monkeypatch.setattr("os.cpu_count", lambda: 2)
    monkeypatch.setattr(workers, "subprocess", None)  # whatever is taken for meant here starts nothing
    monkeypatch.setattr(execute, "subprocess", None)
    monkeypatch.setattr(cluster, "run_ray", None)
    monkeypatch.setattr(slurm, "submit", None)
    (tmp_path / "g.yaml").write_text("{name: g, runs: [{method: zero_shot, backbone: mini, dataset: shapes}]}")
    code, said, told = ironclip(*words)
    assert (code, said, told.count("\n")) == (2, "", 1), told
    assert reason in told
    assert not (tmp_path / "out").exists()
    assert not list(tmp_path.glob("runs/*/**/samples.jsonl"))
