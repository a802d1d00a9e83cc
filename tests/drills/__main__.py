"""Bad days and hostile input in numbers: `python -m drills [kills|disks|days|runs|requests ..] [--scale 0.1]`.

Exit status 1 if anything fell.

kills: kill -9 at each write of each job, with the write whole and torn, every few writes, and at 40 random moments; two at once.
shards: two commands that share the shards of one evaluation, 40 times killed or told to leave, with and without flock.
told: commands that are told to leave at 60 random moments from their start on, on a busy machine.
disks: a full disk, a read-only one, one that renames onto nothing, at writes spread over each job.
mounts: the same on small and read-only file systems in memory; where `unshare` (Linux) allows it.
days: the clock a year back from a write on, and the terminal closed at a write and at random moments, 40 of each job.
runs: 20,000 damaged run folders to ten readers each. requests: 5,000 odd requests to one service.
"""

import argparse
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

from records.test_damaged import drill as damaged_runs

from drills import requests, sharded, told
from drills.faults import Fault
from drills.jobs import JOBS
from drills.kills import Drill

KILLS: dict[Fault, int] = {"kill": 30, "torn": 15}
"""How often a job that goes on is killed."""


def kills(scale: float, names: list[str], root: Path, seed: int) -> Iterator[tuple[str, list[str]]]:
    for name in names:
        drill = Drill(name, root)
        for fault, share in KILLS.items():
            met, wrong = drill.at_each_write(fault, every=max(1, round(1 / scale)))
            yield f"{name}: {met} times {fault} at each of {drill.writes} writes", wrong
            met, wrong = drill.chain(fault, max(1, round(share * scale)), seed)
            yield f"{name}: {met} times {fault} every few writes", wrong
        met, wrong = drill.at_random(max(1, round(40 * scale)), seed=seed)
        yield f"{name}: {met} times killed at random", wrong
        yield f"{name}: two at once", drill.two_at_once()


def disks(scale: float, names: list[str], root: Path, _: int) -> Iterator[tuple[str, list[str]]]:
    for name in names:
        drill = Drill(name, root)
        for fault in ("full", "read-only", "no rename"):
            met, wrong = drill.at_each_write(fault, every=max(1, round(drill.writes / (10 * scale))))
            yield f"{name}: {met} times {fault}", wrong


def mounts(scale: float, names: list[str], _: Path, __: int) -> Iterator[tuple[str, list[str]]]:
    own = ["unshare", "--map-root-user", "--mount"]
    if shutil.which("unshare") is None or subprocess.run([*own, "true"], check=False, capture_output=True).returncode:
        yield "mounts: not possible here", []
        return
    for name in names:
        line = [*own, sys.executable, "-m", "drills.mounts", str(max(1, round(10 * scale))), name]
        done = subprocess.run(line, check=False, capture_output=True, text=True)
        yield f"mounts: {done.stdout.strip()}", [done.stderr[-500:] or "see above"] if done.returncode else []


def days(scale: float, names: list[str], root: Path, seed: int) -> Iterator[tuple[str, list[str]]]:
    for name in names:
        drill = Drill(name, root)
        met, wrong = drill.at_each_write("clock back", every=max(1, round(drill.writes / (10 * scale))))
        yield f"{name}: {met} times the clock set back", wrong
        met, wrong = drill.at_each_write("hangup", every=max(1, round(drill.writes / (20 * scale))))
        yield f"{name}: {met} times hung up at a write", wrong
        met, wrong = drill.at_random(max(1, round(20 * scale)), signal.SIGHUP, seed)
        yield f"{name}: {met} times hung up at random", wrong


def runs(scale: float, _: list[str], root: Path, seed: int) -> Iterator[tuple[str, list[str]]]:
    left, done = round(20_000 * scale), 0
    while left > 0:
        some = min(1000, left)
        found = damaged_runs(root / str(done), some, seed=seed + done)
        left, done = left - some, done + some
        yield f"{done} damaged run folders", [f"{times} times {what}" for what, times in found.most_common()]


def odd_requests(scale: float, _: list[str], root: Path, seed: int) -> Iterator[tuple[str, list[str]]]:
    count = round(5000 * scale)
    root.mkdir(parents=True)
    seen, grown, wrong = requests.drill(count, root / "log", seed)
    wrong += [f"the service grew by {grown:.0f} MiB"] if grown > 25 else []
    yield f"{count} odd requests: {dict(seen.most_common())}, memory {grown:+.0f} MiB", wrong


def shards(scale: float, _: list[str], root: Path, seed: int) -> Iterator[tuple[str, list[str]]]:
    for locks in ("", "soft"):
        met, wrong = sharded.drill(root / (locks or "flock"), round(40 * scale), locks, seed)
        yield f"eight shards, two commands, {locks or 'flock'}: {met} times killed or told to leave", wrong


def signalled(scale: float, _: list[str], root: Path, seed: int) -> Iterator[tuple[str, list[str]]]:
    met, wrong = told.drill(root, round(60 * scale), seed=seed)
    yield f"told to leave at {met.total()} moments, exit status and how often: {dict(met.most_common())}", wrong


PARTS = {
    "shards": shards, "told": signalled, "kills": kills, "disks": disks, "mounts": mounts, "days": days, "runs": runs,
    "requests": odd_requests,
}  # fmt: skip

if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("parts", nargs="*", default=list(PARTS), choices=PARTS)
    parser.add_argument("--scale", type=float, default=1.0, help="share of the whole counts")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--job", action="append", choices=JOBS, help="of kills and disks; default: all")
    chosen = parser.parse_args()
    fell = 0
    with tempfile.TemporaryDirectory() as place:
        for part in chosen.parts:
            began = time.monotonic()
            for said, wrong in PARTS[part](chosen.scale, chosen.job or list(JOBS), Path(place) / part, chosen.seed):
                print(f"{'FELL' if wrong else 'good'}  {said}", *wrong[:20], sep="\n      ", flush=True)
                fell += bool(wrong)
            print(f"== {part}: {time.monotonic() - began:.0f} s", flush=True)
    sys.exit(bool(fell))
