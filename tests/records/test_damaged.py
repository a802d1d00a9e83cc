"""A run folder damaged anywhere is one line to every reader: no traceback, no wait, and nothing outside the folder is touched."""

import random
import shutil
import traceback
from collections import Counter
from pathlib import Path

import torch
from damaged import damage
from measured import ATTACKS, CONFIG, SAMPLES, SETUP

from ironclip.core.errors import IronclipError
from ironclip.loops.evaluation import settings
from ironclip.protocols.config import configure
from ironclip.records.folder import RunFolder
from ironclip.records.last import point
from ironclip.records.learned import Learned, fingerprint
from ironclip.records.summary import summarise
from ironclip.records.verify import verify
from ironclip.report import views
from ironclip.report.cells import as_csv
from ironclip.report.formats.latex import latex
from ironclip.report.formats.markdown import markdown
from ironclip.report.tables import rows

TENSORS = {"context": torch.ones(2, 3), "gate": torch.zeros(1)}


def made(root: Path) -> RunFolder:
    """A run with everything that a run can hold, and one that stopped while it was trained."""
    run = RunFolder.create(CONFIG | {"options": {}}, out=root / "run")
    run.save_environment("cpu")
    run.log({"event": "epoch", "epoch": 1, "terms": {"loss": 1.0}, "seconds": 2.0, "flags": []})
    stopped = RunFolder.create(CONFIG | {"options": {}, "seed": 2}, out=root / "stopped")
    for each in (run, stopped):
        each.save_state({"epoch": 1, "tensors": TENSORS, "flags": []})
    run.save_learned(Learned(TENSORS, "f00", "nap", {}, SETUP.data.classes))
    facts = {"config_hash": run.config_hash, "learned_sha256": fingerprint(TENSORS)}
    setup = SETUP.model_copy(update={**facts, "cost": SETUP.cost.model_copy(update={"learned_bytes": 28})})
    for samples in (SAMPLES, SAMPLES[1:]):
        place = run.evaluation(settings(setup, {}, images=len(samples)), "part")
        place.append(samples)
        place.save_record(summarise(setup, samples, ATTACKS))
    point(run.path)
    return run


def readers(root: Path):
    """Everything that is read of runs without a backbone, as callables by name."""
    run, stopped = RunFolder(root / "run"), RunFolder(root / "stopped")

    def config() -> None:
        assert RunFolder.open(run.path).config_hash
        configure(run.config)

    def tables() -> None:
        shown = rows([record for place in RunFolder.open(run.path).evaluations() if (record := place.record()) is not None])
        for form in (markdown, latex, as_csv):
            assert form(shown)

    return {
        "config": config, "tables": tables, "verify": lambda: verify(run.path), "log": run.entries,
        "views": lambda: views.read(RunFolder.open(run.path)), "environment": lambda: run.environment,
        "learned": run.load_learned, "state": stopped.load_state, "last": lambda: RunFolder.open(root / "last"),
    }  # fmt: skip


def drill(root: Path, count: int, seed: int = 0) -> Counter[str]:
    """Tracebacks by where they came from, of `count` damaged folders."""
    made(root / "sound")
    draw, found, place = random.Random(seed), Counter[str](), root / "damaged"
    for _ in range(count):
        shutil.rmtree(place, ignore_errors=True)
        shutil.copytree(root / "sound", place)
        damage(place, draw)
        for name, read in readers(place).items():
            try:
                read()
            except IronclipError as error:
                if len(str(error).splitlines()) != 1:
                    found[f"{name}: more than one line: {error}"] += 1
            except Exception as error:
                last = traceback.extract_tb(error.__traceback__)
                ours = [frame for frame in last if "ironclip" in frame.filename][-1]
                found[f"{name}: {type(error).__name__} {error!s:.60} at {Path(ours.filename).name}:{ours.lineno}"] += 1
    return found


def test_damage_anywhere_is_one_line(tmp_path: Path) -> None:
    assert drill(tmp_path, 150) == {}


if __name__ == "__main__":
    import sys
    import tempfile

    with tempfile.TemporaryDirectory() as place:
        total = int(sys.argv[1])
        for what, times in (found := drill(Path(place), total, seed=total)).most_common():
            print(times, what)
        print(f"{sum(found.values())} tracebacks of {total} damaged run folders")
