"""Deliberate errors, one at a time in a copy of the tree: the named tests must fail. Prints the survivors; exit 1 if any.

    python -m tests.mutants [--workers 2] [--only ironclip/core/losses.py] [--keep .mutants.jsonl]

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
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass
from pathlib import Path
from queue import SimpleQueue
from typing import Any

import yaml

ROOT = Path(__file__).resolve().parents[2]
LIST = Path(__file__).with_name("list.yaml")
COPIED = ("ironclip", "tests", "docs", "benchmarks", "grids", "examples", "pyproject.toml", "README.md")
SECONDS = 900
ENDED = 64
"""What is added to pytest's exit status, so that a process that never reached pytest is not taken for a failed test."""
HEAVY = ["torch", "torchvision", "open_clip", "timm", "pytest", "pydantic", "yaml", "typer", "rich"]
KILLED, SURVIVED, BROKEN, PASSED = "killed", "survived", "broken", "passed"


@dataclass(frozen=True)
class Mutant:
    """An error: in `file` the text `old` becomes `new`, and one of `tests` (files, or file::function) must fail."""

    file: str
    old: str
    new: str
    tests: tuple[str, ...]

    def __str__(self) -> str:
        return f"{self.file}: {self.old.strip()!r} -> {self.new.strip()!r}  ({', '.join(self.tests)})"


def key(what: object, files: Iterable[str], root: Path = ROOT) -> str:
    """Hash of a mutant, or of a test, and of the files that its outcome is known to depend on."""
    digest = hashlib.sha256(repr(what).encode())
    for path in files:
        digest.update((root / path.partition("::")[0]).read_bytes())
    return digest.hexdigest()[:20]


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
    """The exit status of pytest on these tests of the tree, negative where pytest did not run; None: it did not end in time."""
    context: Any = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(HEAVY)
    process = context.Process(target=_pytest, args=(str(tree), list(tests)))
    process.start()
    process.join(seconds)
    if process.is_alive():
        process.kill()
        process.join()
        return None
    return int(process.exitcode) - ENDED


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

    os._exit(
        ENDED + int(pytest.main(["-x", "-q", "-p", "no:cacheprovider", "-m", "not slow", "-W", "ignore:Module already", *tests]))
    )


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
    return {0: SURVIVED, 1: KILLED, None: KILLED}.get(status, BROKEN)  # a run without end is noticed, too


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


def run(wanted: Sequence[Mutant], kept: Path, workers: int) -> Iterator[tuple[Mutant | str, str]]:
    """Outcomes as they come: first of every named test without an error, which must pass, then of the mutants.

    What passed or was killed before is not done again; a test counts as changed with any file in which errors are made.
    """
    before, sources = known(kept), sorted({mutant.file for mutant in wanted})
    tests = sorted({test for mutant in wanted for test in mutant.tests})
    keys: dict[Mutant | str, str] = {test: key(test, (test, *sources)) for test in tests}
    keys |= {mutant: key(mutant, (mutant.file, *mutant.tests)) for mutant in wanted}
    left = [each for each in keys if before.get(keys[each]) not in (PASSED, KILLED)]
    yield from ((each, before[keys[each]]) for each in keys if each not in left)
    if not left:
        return
    with tempfile.TemporaryDirectory(prefix="mutants-") as folder, ThreadPoolExecutor(workers) as pool:
        trees: SimpleQueue[Path] = SimpleQueue()
        for number in range(workers):
            trees.put(copied(Path(folder) / str(number)))

        def one(each: Mutant | str) -> tuple[Mutant | str, str, float]:
            tree, start = trees.get(), time.monotonic()
            try:
                if isinstance(each, Mutant):
                    return each, outcome(each, tree), time.monotonic() - start
                return each, PASSED if status_of(tree, [each]) == 0 else BROKEN, time.monotonic() - start
            finally:
                trees.put(tree)

        for done in as_completed([pool.submit(one, each) for each in left]):
            each, how, seconds = done.result()
            with kept.open("a", encoding="utf-8") as stream:
                line = {"key": keys[each], "outcome": how, "seconds": round(seconds, 1), "what": str(each)}
                stream.write(json.dumps(line) + "\n")
            yield each, how


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.mutants", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--only", default="", help="beginning of the file's path")
    parser.add_argument("--keep", type=Path, default=ROOT / ".mutants.jsonl", help="where finished ones are kept")
    given = parser.parse_args()
    wanted = [mutant for mutant in mutants() if mutant.file.startswith(given.only)]
    start, bad = time.monotonic(), []
    for each, how in run(wanted, given.keep, given.workers):
        if how not in (KILLED, PASSED):
            bad.append(f"{how}: {each}" if isinstance(each, Mutant) else f"fails without any error: {each}")
            print(bad[-1], flush=True)
    print(f"{len(wanted)} mutants, {len(bad)} not killed, {(time.monotonic() - start) / 60:.0f} minutes")
    return 1 if bad else 0
