"""A disk that is truly full and one that is truly read-only: `unshare -rm python -m drills.mounts` (Linux, no root needed)."""

import subprocess
import sys
import tempfile
from pathlib import Path

from drills.faults import ended, said, start
from drills.jobs import JOBS
from drills.kills import Drill, misbehaved

PAGE = 4096


def mount(folder: Path, options: str) -> None:
    """A file system in memory on this folder, or another size or right for the one that is there (`remount,...`)."""
    folder.mkdir(parents=True, exist_ok=True)
    subprocess.run(["mount", "-t", "tmpfs", "-o", options, "tmpfs", folder], check=True)


def taken(folder: Path) -> int:
    """Pages that the files and folders in it take there."""
    return sum(1 + (path.stat().st_size + PAGE - 1) // PAGE for path in folder.rglob("*"))


def drill(name: str, root: Path, steps: int) -> list[str]:
    """What went wrong on disks of sizes from nearly nothing to nearly enough, and on one that cannot be written."""
    drill, wrong = Drill(name, root), list[str]()
    least, most = taken(drill.begin("none")) + 1, taken(root / drill.root.name / "calm")
    for step in range(steps + 1):
        size = least + (most - least) * step // steps
        folder = root / f"{drill.root.name}-small{step}"
        mount(folder, f"size={size * PAGE},mode=700")
        subprocess.run(["cp", "-r", f"{drill.root / 'none'}/.", folder], check=True)
        if step == 0:
            mount(folder, "remount,ro")
        status = ended(start(drill.job.work, folder))
        found = misbehaved(status, said(folder)[1], (0, 2))
        mount(folder, "remount,rw,size=256M")
        wrong += [f"{size} pages: {each}" for each in [*found, *drill.differs(folder)]]
        subprocess.run(["umount", folder], check=True)
    return wrong


if __name__ == "__main__":
    steps, fell = int(sys.argv[1]), 0
    with tempfile.TemporaryDirectory() as place:
        for name in sys.argv[2:] or JOBS:
            found = drill(name, Path(place), steps)
            print(
                f"{'FELL' if found else 'good'}  {name}: one disk read-only, {steps} too small",
                *found,
                sep="\n      ",
                flush=True,
            )
            fell += bool(found)
    sys.exit(bool(fell))
