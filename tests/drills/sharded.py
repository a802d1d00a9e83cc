"""Two commands that share the eight shards of one evaluation, killed or told to leave at random: the record of the whole."""

import os
import random
import signal
import time
from functools import partial
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

from drills.faults import ended, said, start
from drills.jobs import command, outcome

EVALUATE = ["evaluate", "mini", "--data", "shapes", "--eps", "1/255", "--attack", "pgd", "--set", "steps=4", "--limit", "32"]
EVALUATE += ["--batch-size", "2", "--device", "cpu"]
SHARED = [*EVALUATE, "--shard", "any/8"]
ENDS = {-signal.SIGKILL, 0, 75}


def work(line: list[str], locks: str) -> None:
    os.environ["IRONCLIP_LOCKS"] = locks
    command(line)


def drill(root: Path, kills: int, locks: str = "", seed: int = 0) -> tuple[int, list[str]]:
    """(how often a command was killed or told to leave, what went wrong).

    Args:
        locks: "soft": without flock, as on a file system that has none.
    """
    whole, draw, met, wrong, turn = root / "whole", random.Random(seed), 0, list[str](), 0
    assert ended(start(partial(work, EVALUATE, locks), whole)) == 0, said(whole)
    began = time.monotonic()
    assert ended(start(partial(work, SHARED, locks), root / "warm")) == 0, said(root / "warm")
    seconds, calm = time.monotonic() - began, results(whole)
    if results(root / "warm") != calm:
        wrong.append("in shards, and undisturbed, it is another record")
    while met < kills and turn < 5 * kills:
        turn += 1
        folder = root / f"wild{turn}"
        both = [start(partial(work, SHARED, locks), folder, "kill") for _ in range(2)]
        while any(each.exitcode is None for each in both) and met < kills:
            time.sleep(draw.uniform(0, seconds / 3))
            number = draw.randrange(2)
            if both[number].exitcode is None:
                met += _stopped(both[number], draw.choice((signal.SIGKILL, signal.SIGKILL, signal.SIGUSR1)), wrong)
                both[number] = start(partial(work, SHARED, locks), folder, "kill")
        wrong += [f"a command ended with {status}" for each in both if (status := ended(each)) != 0]
        if results(folder) != calm:
            wrong.append(f"turn {turn}: the merged record is not that of the whole")
    return met, wrong


def _stopped(process: BaseProcess, number: int, wrong: list[str]) -> bool:
    """Whether the process was still at work when it got the signal."""
    os.kill(process.pid or 0, number)
    status = ended(process)
    # Before its first line the program handles no signal, so that it ends as the signal says.
    if status not in (ENDS | {-number}):
        wrong.append(f"signal {number} ended a command with {status}")
    return status != 0


def results(folder: Path) -> dict[str, Any]:
    """Record, samples and settings of the one run in a folder, without times."""
    names = ("record.json", "samples.jsonl", "settings.json")
    return {
        Path(name).name: content for name, content in outcome(folder).items() if "shards" not in name and name.endswith(names)
    }
