"""A command, as a process of its own, that a scheduler tells to leave at a random moment from its start on, on a busy machine.

It ends with 75 and goes on with the same command, or with 0 because it was finished. Only before Python has read the first line
of the program does the signal end it.
"""

import os
import random
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path
from typing import Any

from drills.jobs import outcome

ROOT = Path(__file__).parents[2]
EVALUATE = ["evaluate", "mini", "--data", "shapes", "--eps", "1/255", "--attack", "pgd", "--set", "steps=4", "--limit", "16"]
EVALUATE += ["--batch-size", "2", "--device", "cpu"]
COMMANDS = {"one": EVALUATE, "shards": [*EVALUATE, "--shard", "any/4"], "workers": [*EVALUATE, "--workers", "2"]}


def drill(root: Path, times: int, load: int = 2, seed: int = 0) -> tuple[Counter[int], list[str]]:
    """(how often which exit status was met, what went wrong).

    Args:
        load: processes that do nothing but keep the machine busy.
    """
    draw, met, wrong = random.Random(seed), Counter[int](), list[str]()
    busy = [subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in range(load)]
    try:
        calm, seconds = {}, {}
        for name, words in COMMANDS.items():
            began = time.monotonic()
            assert _started(words, root / "calm" / name).wait() == 0
            seconds[name], calm[name] = time.monotonic() - began, _results(root / "calm" / name)
            if calm[name] != calm["one"]:
                wrong.append(f"{name}, undisturbed: another record")
        for number in range(times):
            name = draw.choice(list(COMMANDS))
            folder, status, moment = root / f"told{number}", -1, draw.uniform(0, seconds[name])
            process = _started(COMMANDS[name], folder)
            time.sleep(moment)
            process.send_signal(signal.SIGUSR1)
            met[status := process.wait()] += 1
            early = status == -signal.SIGUSR1 and not (folder / "runs").exists()
            if status not in (0, 75) and not early:
                said = (folder / "said").read_text().strip().splitlines()
                wrong.append(f"{name}, told after {moment:.2f} of {seconds[name]:.2f} s: status {status}, {said[-1:]}")
            if status and (again := _started(COMMANDS[name], folder).wait()):
                wrong.append(f"{name}, told after {moment:.2f} s: the same command again ends with {again}")
            elif _results(folder) != calm["one"]:
                wrong.append(f"{name}, told after {moment:.2f} s: another record")
    finally:
        for process in busy:
            process.kill()
            process.wait()
    return met, wrong


def _started(words: list[str], folder: Path) -> "subprocess.Popen[bytes]":
    folder.mkdir(parents=True, exist_ok=True)
    own = {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "IRONCLIP_CACHE": str(folder.parent / "cache")}
    with (folder / "said").open("ab") as said:
        command = [sys.executable, "-m", "ironclip", *words]
        return subprocess.Popen(command, cwd=folder, env=os.environ | own, stdout=said, stderr=said)


def _results(folder: Path) -> dict[str, Any]:
    """Record, samples and settings of the one run in a folder, without times."""
    names = ("record.json", "samples.jsonl", "settings.json")
    found = outcome(folder / "runs").items()
    return {Path(name).name: content for name, content in found if "shards" not in name and name.endswith(names)}
