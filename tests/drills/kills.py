"""kill -9 at every write and at random moments, full and read-only disks, a clock set back, a terminal that was closed, two
processes: the same outcome, nothing left."""

import random
import signal
import time
from pathlib import Path
from typing import Any

from drills import jobs
from drills.faults import Fault, ended, said, start, told_after
from drills.jobs import JOBS, Job

ENDS: dict[Fault, tuple[int, ...]] = {
    "full": (0, 2), "read-only": (0, 2), "no rename": (0, 2), "clock back": (0,), "hangup": (0, 130), "kill": (0, -9),
    "torn": (0, -9),
}  # fmt: skip
"""Exit statuses of a process that met a fault; with 0 it had nothing to do with it."""


class Drill:
    """One job done once without disturbance; what it takes and what comes out of it."""

    def __init__(self, name: str, root: Path) -> None:
        self.name, self.job, self.root = name, JOBS[name], root / name.replace(", ", "-").replace(" ", "-")
        if self.job.before is not None:
            assert ended(start(self.job.before, self.root / "before")) == 0, said(self.root / "before")
        assert ended(start(_nothing, self.root / "warm")) == 0  # the imports are not in the time
        self.begin("calm")
        began = time.monotonic()
        assert ended(start(self.job.work, self.root / "calm")) == 0, said(self.root / "calm")
        self.seconds, self.calm = time.monotonic() - began, jobs.outcome(self.root / "calm")
        self.writes, _ = said(self.root / "calm")

    def begin(self, name: str) -> Path:
        jobs.prepare(self.job, self.root / name, self.root / "before")
        return self.root / name

    def differs(self, folder: Path) -> list[str]:
        """The job again in this folder, undisturbed: what does not come out as it should."""
        status = ended(start(self.job.work, folder))
        if status:
            return [f"exit status {status}: {said(folder)[1].strip()[-200:]}"]
        return differences(self.calm, jobs.outcome(folder))

    def at_each_write(self, fault: Fault, every: int = 1) -> tuple[int, list[str]]:
        """(how often the fault was met, what went wrong)."""
        wrong, met = [], 0
        for at in range(1, self.writes + 1, every):
            folder = self.begin(fault.replace(" ", "-"))
            status = ended(start(self.job.work, folder, fault, at))
            met += status != 0 or fault == "clock back"
            found = misbehaved(status, said(folder)[1] if status >= 0 else "", ENDS[fault])
            if status == 0:  # before anything is done again
                found += differences(self.calm, jobs.outcome(folder))
            wrong += [f"{self.name}, {fault} at write {at}: {each}" for each in [*found, *self.differs(folder)]]
        return met, wrong

    def chain(self, fault: Fault, kills: int, seed: int = 0) -> tuple[int, list[str]]:
        """As `at_each_write`, but each process goes on in the folder that the one before left, and dies a few writes later."""
        draw, met, wrong, tries = random.Random(seed), 0, list[str](), 0
        folder = self.begin("chain")
        while met < kills and tries < 3 * kills:
            tries += 1
            status = ended(start(self.job.work, folder, fault, draw.randint(1, 9)))
            met += status == -9
            if status != -9:
                wrong += differences(self.calm, jobs.outcome(folder)) if status == 0 else [f"exit status {status}"]
                folder = self.begin("chain")
        wrong += self.differs(folder)
        return met, [f"{self.name}, {fault} every few writes: {each}" for each in wrong]

    def at_random(self, kills: int, number: int = signal.SIGKILL, seed: int = 0) -> tuple[int, list[str]]:
        """As `at_each_write`: a signal after a random while again and again, and begun anew where it came to its end."""
        draw, met, wrong, tries = random.Random(seed), 0, list[str](), 0
        folder = self.begin("random")
        while met < kills and tries < 3 * kills:
            tries += 1
            status = told_after(start(self.job.work, folder, "kill"), draw.uniform(0, self.seconds), number)
            if status in (-number, 130):  # before its first line a process handles no signal
                met += 1
                continue
            wrong += [f"exit status {status}"] if status else []
            wrong += self.differs(folder)
            folder = self.begin("random")
        wrong += self.differs(folder)
        return met, [f"{self.name}, after signal {int(number)} at random moments: {each}" for each in wrong]

    def two_at_once(self) -> list[str]:
        """Two processes in one folder: each ends well or is told in one line that the other is at work."""
        folder = self.begin("two")
        both = [start(self.job.work, folder), start(self.job.work, folder)]
        statuses = [ended(each) for each in both]
        wrong = [] if 0 in statuses and set(statuses) <= {0, 2} else [f"exit statuses {statuses}: {said(folder)[1][-300:]}"]
        return [f"{self.name}, two at once: {each}" for each in [*wrong, *self.differs(folder)]]


def _nothing() -> None:
    pass


def misbehaved(status: int, words: str, ends: tuple[int, ...]) -> list[str]:
    """What is wrong with how a process ended: another status than one of `ends`, or with status 2 not one line of error."""
    lines = [line for line in words.splitlines() if line.startswith(("error", "Traceback"))]
    good = status in ends and len(lines) == (status == 2) and all(line.startswith("error: ") for line in lines)
    return [] if good else [f"exit status {status}: {words.strip()[-300:]}"]


def differences(expected: dict[str, Any], found: dict[str, Any]) -> list[str]:
    """What two outcomes do not share, by file."""
    lines = [f"{name} is left over" for name in sorted(found.keys() - expected.keys())]
    lines += [f"{name} is missing" for name in sorted(expected.keys() - found.keys())]
    return lines + [f"{name} differs" for name in sorted(expected.keys() & found.keys()) if expected[name] != found[name]]


__all__ = ["JOBS", "Drill", "Job"]
