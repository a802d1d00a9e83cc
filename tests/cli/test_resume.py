"""kill -9 at random moments, then the same command again: the run ends with identical tensors and an identical record."""

import json
import os
import random
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import torch

from ironclip.runs.learned import load_learned

TRAIN = ["train", "nap", "--data", "shapes", "--shots", "1", "--seed", "3", "--device", "cpu", "--set", "epochs=4"]
TRAIN += ["--set", "attack.steps=1", "--set", "batch_size=8"]
EVALUATE = [
    "evaluate",
    "run",
    "--attack",
    "fgsm,pgd",
    "--set",
    "steps=3",
    "--limit",
    "40",
    "--batch-size",
    "4",
    "--device",
    "cpu",
]


def start(folder: Path, arguments: list[str]) -> subprocess.Popen[bytes]:
    code = "from ironclip.cli import main; main()"
    environment = {**os.environ, "IRONCLIP_CACHE": str(folder.parent / "cache"), "OMP_NUM_THREADS": "1"}
    quiet = subprocess.DEVNULL
    return subprocess.Popen([sys.executable, "-c", code, *arguments], cwd=folder, env=environment, stdout=quiet, stderr=quiet)


def finish(folder: Path, arguments: list[str]) -> None:
    assert start(folder, arguments).wait(timeout=600) == 0


def kill_after(folder: Path, arguments: list[str], grown: Path, lines: int) -> None:
    """Kill the process a random moment after the file has so many lines."""
    process = start(folder, arguments)
    while process.poll() is None:
        if grown.exists() and len(grown.read_bytes().splitlines()) >= lines:
            time.sleep(random.uniform(0, 0.3))
            process.send_signal(signal.SIGKILL)
            break
        time.sleep(0.02)
    process.wait(timeout=60)


def test_killed_runs_end_with_the_identical_record(tmp_path: Path) -> None:
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    for folder in (whole, killed):
        folder.mkdir()
    finish(whole, [*TRAIN, "--out", "run"])
    finish(whole, EVALUATE)

    for lines in (1, 3):
        kill_after(killed, [*TRAIN, "--out", "run"], killed / "run" / "log.jsonl", lines)
    finish(killed, [*TRAIN, "--out", "run"])
    for lines in (4, 20):
        kill_after(killed, EVALUATE, killed / "run" / "samples.jsonl", lines)
    finish(killed, EVALUATE)

    learned = [load_learned(folder / "run" / "learned.safetensors") for folder in (whole, killed)]
    for name, tensor in learned[0].tensors.items():
        assert torch.equal(tensor, learned[1].tensors[name]), name
    assert replace(learned[0], tensors={}) == replace(learned[1], tensors={})
    records = [json.loads((folder / "run" / "record.json").read_text()) for folder in (whole, killed)]
    for record in records:
        record.pop("timing")
    assert records[0] == records[1]
