"""Every verb that reads a record refuses one that its samples contradict: one line, exit status 2, nothing written."""

import json
import shutil
from pathlib import Path

import pytest

READERS = {
    "show": ["show", "run"],
    "show all": ["show", "."],
    "report": ["report", "run"],
    "report in files": ["report", "run", "--html", "r.html", "--latex", "r.tex", "--markdown", "r.md", "--csv", "r.csv"],
    "matrix": ["report", "run", "--matrix", "--csv", "r.csv"],
    "compare": ["compare", "run", "run"],
    "published": ["compare", "run", "--published"],
    "leaderboard": ["leaderboard", "run", "--html", "site"],
    "leaderboard of audits": ["leaderboard", "run", "--audits", "run", "--html", "site"],
    "card": ["save", "run", "saved"],
    "resume": ["evaluate", "run", "--attack", "pgd", "--limit", "12", "--set", "steps=1"],
    "verify": ["verify", "run"],
}  # fmt: skip


@pytest.fixture(scope="module")
def made(tmp_path_factory) -> Path:
    """A run, zero-shot, measured."""
    from ironclip.protocols.few_shot import open_run, train
    from ironclip.protocols.measure import evaluate_run
    from ironclip.protocols.resolve import named_attacks, resolve

    root = tmp_path_factory.mktemp("made")
    run = train(resolve("zero_shot", "shapes", given={"backbone": "mini"}), out=root / "run")
    evaluate_run(*open_run(run.path), named_attacks(["pgd"], 4 / 255, 0, ["steps=1"]), eps=4 / 255, limit=12)
    return run.path


def unchanged(run: Path) -> None:
    pass


def better(run: Path) -> None:
    path = run / "record.json"
    value = json.loads(path.read_text())
    value["robust"] = {"count": 12, "of": 12, "value": 1.0, "low": 0.75, "high": 1.0}
    path.write_text(json.dumps(value))


def edited(run: Path) -> None:
    path = run / "samples.jsonl"
    path.write_text(path.read_text().replace('"broken_by":"pgd"', '"broken_by":null'))


def gone(run: Path) -> None:
    (run / "samples.jsonl").unlink()


@pytest.mark.parametrize("arguments", READERS.values(), ids=READERS)
@pytest.mark.parametrize("change", [unchanged, better, edited, gone])
def test_no_reader_believes_an_edited_evaluation(ironclip, made, tmp_path, arguments, change):
    shutil.copytree(made, tmp_path / "run")
    change(tmp_path / "run")
    before = files(tmp_path)
    code, _, said = ironclip(*arguments)
    if change is unchanged:
        assert code == 0
        return
    assert code == 2
    assert "record.json" in said
    assert "measure again" in said
    assert arguments[0] == "verify" or said.count("\n") == 1
    assert files(tmp_path) == before


def files(root: Path) -> dict[Path, bytes]:
    """Every file by its content, but for the lock and what was decoded."""
    found = [path for path in root.rglob("*") if path.is_file() and path.name != ".lock" and path.parent.name != "cache"]
    return {path: path.read_bytes() for path in found}


def test_verify_prints_what_it_counted(ironclip, made, tmp_path):
    shutil.copytree(made, tmp_path / "runs" / "a")
    shutil.copytree(made, tmp_path / "runs" / "b")
    code, said, _ = ironclip("verify", "runs")
    assert code == 0
    assert said.count("ok  ") == 4
    assert said.endswith("all 4 good\n")
    edited(tmp_path / "runs" / "b")
    code, said, wrong = ironclip("verify", "runs")
    assert (code, said.count("ok  "), wrong.count("WRONG")) == (2, 3, 1)
    assert wrong.endswith("error: 1 of 4 things looked at is not to be believed; see above\n")
    assert json.loads(ironclip("verify", "runs/a", "--json")[1])[0]["ok"] is True
