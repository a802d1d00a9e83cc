"""Deliberate errors, one at a time in a copy of the tree: the named tests must fail. Prints the survivors; exit 1 if any.

    python -m tests.mutants [--workers 2] [--only ironclip/losses.py] [--keep .mutants.jsonl]

What is finished is kept as JSON lines under a hash of the mutant, its file and its tests, so an interrupted run goes on, and a
change of a file asks for its own mutants again alone. Each mutant runs in a process forked from one that has imported torch.
"""

import argparse
import hashlib
import json
import multiprocessing
import os
import shutil
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass
from pathlib import Path
from queue import SimpleQueue
from typing import Any

import yaml

ROOT = Path(__file__).resolve().parents[2]
LIST = Path(__file__).with_name("list.yaml")
COPIED = ("ironclip", "tests", "docs", "benchmarks", "pyproject.toml", "README.md")
SECONDS = 900
HEAVY = ["torch", "torchvision", "open_clip", "timm", "scipy.stats", "pytest", "hypothesis", "pydantic", "yaml", "typer", "rich"]
KILLED, SURVIVED, BROKEN = "killed", "survived", "broken"


@dataclass(frozen=True)
class Mutant:
    """An error: in `file` the text `old` becomes `new`, and one of `tests` (files, or file::function) must fail."""

    file: str
    old: str
    new: str
    tests: tuple[str, ...]

    def key(self, root: Path = ROOT) -> str:
        """Hash of everything that the outcome is known to depend on."""
        digest = hashlib.sha256(repr(self).encode())
        for path in (self.file, *(test.partition("::")[0] for test in self.tests)):
            digest.update((root / path).read_bytes())
        return digest.hexdigest()[:20]

    def __str__(self) -> str:
        return f"{self.file}: {self.old.strip()!r} -> {self.new.strip()!r}  ({', '.join(self.tests)})"


def mutants(path: Path = LIST) -> list[Mutant]:
    """The list in the order of its file."""
    found = []
    for part in yaml.safe_load(path.read_text(encoding="utf-8")):
        for each in part["mutants"]:
            found.append(Mutant(part["file"], each["old"], each["new"], tuple(each.get("tests", part["tests"]))))
    return found


def copied(folder: Path) -> Path:
    """A copy of the tree in which errors can be made, compiled once."""
    import compileall

    folder.mkdir(parents=True)
    for name in COPIED:
        source = ROOT / name
        if source.is_dir():
            shutil.copytree(source, folder / name, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            shutil.copy2(source, folder / name)
    compileall.compile_dir(folder / "ironclip", quiet=1)
    return folder


def status_of(tree: Path, tests: Sequence[str], seconds: float = SECONDS) -> int | None:
    """The exit status of pytest on these tests of the tree; None: it did not end in time."""
    context: Any = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(HEAVY)
    process = context.Process(target=_pytest, args=(str(tree), list(tests)))
    process.start()
    process.join(seconds)
    if process.is_alive():
        process.kill()
        process.join()
        return None
    return int(process.exitcode)


def _pytest(tree: str, tests: list[str]) -> None:
    os.chdir(tree)
    os.environ["PYTHONPATH"] = tree
    os.environ["OMP_NUM_THREADS"] = "1"
    sys.path[:] = [tree, *(path for path in sys.path if Path(path or ".").resolve() != ROOT)]
    sys.dont_write_bytecode = True
    for name in [name for name in sys.modules if name.partition(".")[0] in ("tests", "ironclip")]:
        del sys.modules[name]
    silent = os.open(os.devnull, os.O_WRONLY)
    os.dup2(silent, 1)
    os.dup2(silent, 2)
    import pytest

    os._exit(int(pytest.main(["-x", "-q", "-p", "no:cacheprovider", "-m", "not slow", *tests])))


def outcome(mutant: Mutant, tree: Path) -> str:
    """What the tests say of the error, made in this tree and taken back."""
    file = tree / mutant.file
    text = file.read_text(encoding="utf-8")
    for compiled in (file.parent / "__pycache__").glob(f"{file.stem}.*"):
        compiled.unlink()
    file.write_text(text.replace(mutant.old, mutant.new), encoding="utf-8")
    try:
        compile(file.read_text(encoding="utf-8"), mutant.file, "exec")
        status = status_of(tree, mutant.tests)
    except SyntaxError:
        return BROKEN
    finally:
        file.write_text(text, encoding="utf-8")
    return {0: SURVIVED, 1: KILLED, None: KILLED}.get(status, BROKEN)


def known(path: Path) -> dict[str, str]:
    """Outcomes of earlier runs by the mutant's key; a torn last line is left out."""
    if not path.exists():
        return {}
    found = {}
    for line in path.read_text(encoding="utf-8").splitlines():
        try:
            entry = json.loads(line)
            found[entry["key"]] = entry["outcome"]
        except (ValueError, KeyError):
            continue
    return found


def run(wanted: Sequence[Mutant], kept: Path, workers: int) -> Iterator[tuple[Mutant, str]]:
    """Mutants with their outcomes, those of earlier runs first."""
    before = known(kept)
    left = []
    for mutant in wanted:
        if before.get(mutant.key()) == KILLED:
            yield mutant, KILLED
        else:
            left.append(mutant)
    if not left:
        return
    with tempfile.TemporaryDirectory(prefix="mutants-") as folder, ThreadPoolExecutor(workers) as pool:
        trees: SimpleQueue[Path] = SimpleQueue()
        for number in range(workers):
            trees.put(copied(Path(folder) / str(number)))

        keys = {mutant: mutant.key() for mutant in left}  # of the files as they were copied

        def one(mutant: Mutant) -> tuple[Mutant, str, float]:
            tree, start = trees.get(), time.monotonic()
            try:
                return mutant, outcome(mutant, tree), time.monotonic() - start
            finally:
                trees.put(tree)

        for done in as_completed([pool.submit(one, mutant) for mutant in left]):
            mutant, how, seconds = done.result()
            with kept.open("a", encoding="utf-8") as stream:
                line = {"key": keys[mutant], "outcome": how, "seconds": round(seconds, 1), "mutant": str(mutant)}
                stream.write(json.dumps(line) + "\n")
            yield mutant, how


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.mutants", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--only", default="", help="beginning of the file's path")
    parser.add_argument("--keep", type=Path, default=ROOT / ".mutants.jsonl", help="where finished ones are kept")
    parser.add_argument("--unchanged", action="store_true", help="first run all named tests without an error; they must pass")
    given = parser.parse_args()
    wanted = [mutant for mutant in mutants() if mutant.file.startswith(given.only)]
    start = time.monotonic()
    if given.unchanged and (status := status_of(ROOT, sorted({test for mutant in wanted for test in mutant.tests}), 36000)) != 0:
        print(f"the named tests fail without any error (pytest: {status}); mend them first")
        return 2
    bad = []
    for number, (mutant, how) in enumerate(run(wanted, given.keep, given.workers), 1):
        if how != KILLED:
            bad.append(f"{how}: {mutant}")
            print(f"{number}/{len(wanted)} {bad[-1]}", flush=True)
    print("\n".join([f"{len(wanted)} mutants, {len(bad)} not killed, {(time.monotonic() - start) / 60:.0f} minutes", *bad]))
    return 1 if bad else 0
