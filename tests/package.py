"""The built package as a new user has it: the wheel of `dist/` is installed where this runs; nothing of the checkout is in reach.

`python tests/package.py DIST [quick]`: the verbs, the demo, an example, and the fast tests of a few rooms out of the source
archive. `quick`: the verbs, the quick demo and a few tests, under three minutes of two cores.
"""

import os
import shutil
import subprocess
import sys
import sysconfig
import tarfile
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

SCRIPT = Path(sysconfig.get_path("scripts")) / "ironclip"
ROOMS = ("tests/core", "tests/data/test_shapes.py", "tests/grid/test_located.py", "tests/report/test_tables.py")
QUICK_ROOMS = ("tests/core/test_shown.py", "tests/core/test_threat.py", "tests/grid/test_located.py")
QUICK = (
    [str(SCRIPT), "--version"],
    [sys.executable, "-m", "ironclip", "list", "grids"],
    [str(SCRIPT), "grid", "plan", "few-shot-11", "--limit-cells", "3"],
    [str(SCRIPT), "demo", "--quick", "--device", "cpu"],
)
WHOLE = (
    *QUICK,
    [str(SCRIPT), "grid", "run", "prompts", "--miniature", "--limit-cells", "1", "--device", "cpu"],
    [sys.executable, "-m", "ironclip.examples.redteamer", "runs"],
)


def run(command: list[str], place: Path) -> None:
    """SystemExit where a command fails; its times otherwise."""
    start, before = time.monotonic(), os.times()
    bare = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
    done = subprocess.run(command, cwd=place, env=bare | {"IRONCLIP_CACHE": str(place / "cache")}, check=False)
    if done.returncode:
        sys.exit(f"exit status {done.returncode} of {' '.join(command)}")
    after = os.times()
    cores = after.children_user + after.children_system - before.children_user - before.children_system
    print(f"{time.monotonic() - start:.0f} s, {cores:.0f} s of cores: {' '.join(command[1:])}", flush=True)


def main(dist: Path, commands: Sequence[list[str]], rooms: Sequence[str]) -> None:
    import ironclip

    installed = Path(sysconfig.get_path("purelib")).resolve()
    assert installed in Path(ironclip.__file__).resolve().parents, f"{ironclip.__file__} is not the installed package"
    (archive,) = dist.glob("ironclip-*.tar.gz")
    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder)
        for command in commands:
            run(command, place)
        assert (place / "demo.html").is_file()
        with tarfile.open(archive) as held:
            held.extractall(place, filter="data")
        (source,) = place.glob("ironclip-*/")
        shutil.rmtree(source / "ironclip")  # the tests run on what is installed
        run([sys.executable, "-m", "pytest", "-q", "-m", "not slow", "-p", "no:cacheprovider", *rooms], source)


if __name__ == "__main__":
    os.chdir(tempfile.gettempdir())  # not beside the checkout's own package
    main(Path(sys.argv[1]), *((QUICK, QUICK_ROOMS) if sys.argv[2:] == ["quick"] else (WHOLE, ROOMS)))
