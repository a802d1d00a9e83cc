"""kill -9 at random moments, then the same command again: the run ends with identical tensors and an identical record."""

import json
import multiprocessing
import os
import random
import signal
import sys
import time
from dataclasses import replace
from multiprocessing.process import BaseProcess
from pathlib import Path

import pytest
import torch

from ironclip.records.learned import load_learned

TRAIN = ["train", "nap", "--data", "shapes", "--shots", "1", "--seed", "3", "--device", "cpu", "--out", "run"]
TRAIN += ["--set", "attack.steps=1", "--set", "batch_size=8"]
EVALUATE = ["evaluate", "run", "--attack", "fgsm,pgd", "--set", "steps=3", "--batch-size", "4", "--device", "cpu"]
IMPORTS = ["torch", "ironclip.cli.evaluate", "ironclip.protocols.few_shot", "ironclip.protocols.measure"]


def carry_out(folder: Path, commands: tuple[list[str], ...]) -> None:
    """The command lines one after the other, in this process; ends it with the first status other than 0."""
    from ironclip.cli import main

    os.chdir(folder)
    os.environ |= {"IRONCLIP_CACHE": str(folder.parent / "cache")}
    torch.set_num_threads(1)
    with open(os.devnull, "w") as sys.stdout, open(os.devnull, "w") as sys.stderr:
        for arguments in commands:
            sys.argv[1:] = arguments
            try:
                main()
            except SystemExit as end:
                if end.code:
                    os._exit(1)


def start(folder: Path, *commands: list[str]) -> BaseProcess:
    """A process of its own, forked from one that has done the imports, which take longer than the runs."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(IMPORTS)
    process = context.Process(target=carry_out, args=(folder, commands))
    process.start()
    return process


def finish(folder: Path, *commands: list[str]) -> None:
    process = start(folder, *commands)
    process.join(600)
    assert process.exitcode == 0


def kill_after(folder: Path, grown: str, lines: int, *commands: list[str]) -> bool:
    """Kill the process a random moment after the file of the run has so many lines; whether it was still at work."""
    process, file = start(folder, *commands), folder / "run" / grown
    while process.is_alive():
        if file.exists() and len(file.read_bytes().splitlines()) >= lines:
            time.sleep(random.uniform(0, 0.3))
            process.kill()
            break
        time.sleep(0.02)
    process.join(60)
    return process.exitcode == -signal.SIGKILL


@pytest.mark.parametrize(
    ("epochs", "limit", "epoch_kills", "image_kills"),
    [(2, 16, (1,), (4,)), pytest.param(4, 40, (1, 3), (4, 20), marks=pytest.mark.slow)],
)
def test_killed_runs_end_with_the_identical_record(
    tmp_path: Path, epochs: int, limit: int, epoch_kills: tuple[int, ...], image_kills: tuple[int, ...]
) -> None:
    train, evaluate = [*TRAIN, "--set", f"epochs={epochs}"], [*EVALUATE, "--limit", str(limit)]
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    for folder in (whole, killed):
        folder.mkdir()
    finish(whole, train, evaluate)

    hits = [kill_after(killed, "log.jsonl", lines, train) for lines in epoch_kills]
    hits += [kill_after(killed, "samples.jsonl", lines, train, evaluate) for lines in image_kills]
    assert any(hits)
    finish(killed, train, evaluate)

    learned = [load_learned(folder / "run" / "learned.safetensors") for folder in (whole, killed)]
    for name, tensor in learned[0].tensors.items():
        assert torch.equal(tensor, learned[1].tensors[name]), name
    assert replace(learned[0], tensors={}) == replace(learned[1], tensors={})
    records = [json.loads((folder / "run" / "record.json").read_text()) for folder in (whole, killed)]
    for record in records:
        record.pop("timing")
        record.pop("sha256")  # of the times, too
        record.pop("environment")  # it names the commit, and somebody may commit while the test runs
    assert records[0] == records[1]
