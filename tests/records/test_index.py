"""The index says what the folders say, however it came about."""

import subprocess
import sys

import pytest

from ironclip.core.errors import RunError, UsageError
from ironclip.core.threat import Threat
from ironclip.records.folder import RunFolder
from ironclip.records.index import Index
from ironclip.records.record import BackboneFacts, DataFacts, Sample, Setup
from ironclip.records.summary import summarise

CONFIG = {"method": "apt", "dataset": "toy", "backbone": "mini", "shots": 16, "seed": 1}


def measured(eps: float, broken: int):
    data = DataFacts(name="toy", classes=("a", "b"))
    setup = Setup(method="apt", backbone=BackboneFacts(name="mini"), data=data, threat=Threat(eps=eps))
    samples = [
        Sample(index=i, label=0, clean=0, adversarial={"pgd": int(i < broken)}, clean_margin=-1, margin=0, distance=eps,
               broken_by="pgd" if i < broken else None)
        for i in range(10)
    ]  # fmt: skip
    return samples, summarise(setup, samples, {"pgd": {"attack": "pgd", "eps": eps}})


@pytest.fixture
def runs(tmp_path):
    """One run without, one with one, one with two evaluations, the last in a subfolder."""
    RunFolder.create(CONFIG, root=tmp_path)
    one = RunFolder.create(CONFIG | {"seed": 2}, root=tmp_path)
    two = RunFolder.create(CONFIG | {"seed": 3}, root=tmp_path / "grid" / "cell")
    for run, eps, broken in ((one, 1 / 255, 2), (two, 1 / 255, 3), (two, 4 / 255, 9)):
        place = run.evaluation({"eps": eps})
        samples, record = measured(eps, broken)
        place.append(samples)
        place.save_record(record)
    return tmp_path


def test_an_updated_index_is_a_rebuilt_one(runs):
    updated = Index(runs)
    for folder in runs.rglob("config.yaml"):
        updated.update(RunFolder.open(folder.parent))
        updated.update(RunFolder.open(folder.parent))
    rows = updated.find()
    updated.path.unlink()
    rebuilt = Index(runs)
    assert rebuilt.rebuild() == []
    assert rebuilt.find() == rows
    assert len(rows) == 4


def test_rows_can_be_asked_for(runs):
    index = Index(runs)
    index.rebuild()
    (row,) = index.find(seed=3, eps=4 / 255)
    assert (row["clean"], row["robust"], row["attacks"], row["images"]) == (1.0, 0.1, "pgd", 10)
    assert row["run"].startswith("grid/cell/apt-toy-mini-16shot-seed3-")
    assert row["evaluation"].startswith("evaluations/")
    assert [row["status"] for row in index.find(robust=None)] == ["new"]
    with pytest.raises(UsageError, match="unknown column of the index 'robst'; did you mean 'robust'"):
        index.find(robst=1)


def test_an_evaluation_that_is_gone_leaves_the_index(runs):
    index = Index(runs)
    index.rebuild()
    (row,) = index.find(seed=2)
    run = RunFolder.open(runs / row["run"])
    (run.path / "record.json").unlink()
    index.update(run)
    assert index.find(seed=2)[0]["robust"] is None


def test_broken_folders_are_reported_and_the_others_read(runs):
    (runs / "no-config").mkdir()
    (runs / "no-config" / "samples.jsonl").touch()
    (runs / "bad-config").mkdir()
    (runs / "bad-config" / "config.yaml").write_text("a: [")
    (runs / "bad-record").mkdir()
    (runs / "bad-record" / "config.yaml").write_text("a: 1")
    (runs / "bad-record" / "record.json").write_text("{}")
    (runs / "bad-record" / "settings.json").write_text("{}")
    (runs / "unrelated").mkdir()
    index = Index(runs)
    broken = index.rebuild()
    assert [name for line in broken for name in ("no-config", "bad-config", "bad-record") if name in line] == [
        "bad-config",
        "bad-record",
        "no-config",
    ]
    assert len(index.find()) == 4


def test_a_damaged_index_is_one_line(runs):
    (runs / "index.sqlite").write_bytes(b"not a database" * 100)
    with pytest.raises(RunError, match="cannot be used: file is not a database; remove it"):
        Index(runs)


def test_a_run_elsewhere_is_refused(runs, tmp_path_factory):
    run = RunFolder.create(CONFIG, root=tmp_path_factory.mktemp("elsewhere"))
    with pytest.raises(RunError, match="does not lie in"):
        Index(runs).update(run)


def test_several_processes_write_one_index(runs):
    script = f"""
from pathlib import Path
from ironclip.records.folder import RunFolder
from ironclip.records.index import Index
root = Path({str(runs)!r})
for _ in range(3):
    index = Index(root)
    for config in root.rglob("config.yaml"):
        index.update(RunFolder.open(config.parent))
"""
    processes = [subprocess.Popen([sys.executable, "-c", script]) for _ in range(2)]
    assert [process.wait() for process in processes] == [0] * 2
    assert len(Index(runs).find()) == 4
