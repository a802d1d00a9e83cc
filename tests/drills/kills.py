"""kill -9 at every write and at random moments, full and read-only disks, two processes: the same outcome, nothing left."""

import random
import time
from pathlib import Path
from typing import Any

from drills import jobs
from drills.faults import Fault, ended, killed_after, said, start
from drills.jobs import JOBS, Job


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
            met += 1
            found = []
            if fault in ("full", "read-only", "no rename"):
                lines = [line for line in said(folder)[1].splitlines() if line.startswith(("error", "Traceback"))]
                if status not in (0, 2) or (status == 2 and (len(lines) != 1 or "error: " not in lines[0])):
                    found.append(f"exit status {status}: {said(folder)[1].strip()[-300:]}")
            elif status != -9:
                met -= 1
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

    def at_random(self, kills: int, seed: int = 0) -> tuple[int, list[str]]:
        """As `at_each_write`: killed after a random while again and again, and begun anew where it came to its end."""
        draw, met, wrong, tries = random.Random(seed), 0, list[str](), 0
        folder = self.begin("random")
        while met < kills and tries < 3 * kills:
            tries += 1
            if killed_after(start(self.job.work, folder, "kill"), draw.uniform(0, self.seconds)):
                met += 1
                continue
            wrong += [f"{self.name}, after random kills: {each}" for each in self.differs(folder)]
            folder = self.begin("random")
        return met, [*wrong, *(f"{self.name}, after random kills: {each}" for each in self.differs(folder))]

    def two_at_once(self) -> list[str]:
        """Two processes in one folder: each ends well or is told in one line that the other is at work."""
        folder = self.begin("two")
        both = [start(self.job.work, folder), start(self.job.work, folder)]
        statuses = [ended(each) for each in both]
        wrong = [] if 0 in statuses and set(statuses) <= {0, 2} else [f"exit statuses {statuses}: {said(folder)[1][-300:]}"]
        return [f"{self.name}, two at once: {each}" for each in [*wrong, *self.differs(folder)]]


def _nothing() -> None:
    pass


def differences(expected: dict[str, Any], found: dict[str, Any]) -> list[str]:
    """What two outcomes do not share, by file."""
    lines = [f"{name} is left over" for name in sorted(found.keys() - expected.keys())]
    lines += [f"{name} is missing" for name in sorted(expected.keys() - found.keys())]
    return lines + [f"{name} differs" for name in sorted(expected.keys() & found.keys()) if expected[name] != found[name]]


__all__ = ["JOBS", "Drill", "Job"]
