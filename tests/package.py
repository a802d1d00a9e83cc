"""The built package as a new user has it: the wheel of `dist/` is installed where this runs; nothing of the checkout is in reach.

`python tests/package.py DIST`: the verbs, the demo, an example, and the fast tests of a few rooms out of the source archive.
"""

import os
import shutil
import subprocess
import sys
import sysconfig
import tarfile
import tempfile
import time
from pathlib import Path

SCRIPT = Path(sysconfig.get_path("scripts")) / "ironclip"
ROOMS = ("tests/core", "tests/data/test_shapes.py", "tests/grid/test_located.py", "tests/report/test_tables.py")
COMMANDS = (
    [str(SCRIPT), "--version"],
    [sys.executable, "-m", "ironclip", "list", "grids"],
    [str(SCRIPT), "grid", "plan", "few-shot-11", "--limit-cells", "3"],
    [str(SCRIPT), "grid", "run", "prompts", "--miniature", "--limit-cells", "1", "--device", "cpu"],
    [str(SCRIPT), "demo", "--quick", "--device", "cpu"],
    [sys.executable, "-m", "ironclip.examples.redteamer", "runs"],
)


def run(command: list[str], place: Path) -> None:
    """SystemExit where a command fails; its time otherwise."""
    start = time.monotonic()
    bare = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
    done = subprocess.run(command, cwd=place, env=bare | {"IRONCLIP_CACHE": str(place / "cache")}, check=False)
    if done.returncode:
        sys.exit(f"exit status {done.returncode} of {' '.join(command)}")
    print(f"{time.monotonic() - start:.0f} s: {' '.join(command[1:])}", flush=True)


def main(dist: Path) -> None:
    import ironclip

    installed = Path(sysconfig.get_path("purelib")).resolve()
    assert installed in Path(ironclip.__file__).resolve().parents, f"{ironclip.__file__} is not the installed package"
    (archive,) = dist.glob("ironclip-*.tar.gz")
    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder)
        for command in COMMANDS:
            run(command, place)
        assert (place / "demo.html").is_file()
        with tarfile.open(archive) as held:
            held.extractall(place, filter="data")
        (source,) = place.glob("ironclip-*/")
        shutil.rmtree(source / "ironclip")  # the tests run on what is installed
        run([sys.executable, "-m", "pytest", "-q", "-m", "not slow", "-p", "no:cacheprovider", *ROOMS], source)


if __name__ == "__main__":
    os.chdir(tempfile.gettempdir())  # not beside the checkout's own package
    main(Path(sys.argv[1]))
