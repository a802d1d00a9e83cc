"""`runs/last` names what the user trained last, or nothing."""

from pathlib import Path

import pytest

from ironclip.core.errors import RunError
from ironclip.records.folder import RunFolder
from ironclip.records.last import named, point, refuse

CONFIG = {"method": "nap", "dataset": "eurosat", "backbone": "mini", "shots": 16, "seed": 1}


def test_last_is_the_run_pointed_to_and_no_run_that_was_only_made(tmp_path: Path) -> None:
    first = RunFolder.create(CONFIG, root=tmp_path)
    point(first.path)
    RunFolder.create(CONFIG | {"seed": 2}, root=tmp_path)
    assert RunFolder.open(tmp_path / "last").path == first.path
    assert named(tmp_path / "last") == first.path


def test_a_refused_training_leaves_no_last_run_and_says_why(tmp_path: Path) -> None:
    point(RunFolder.create(CONFIG, root=tmp_path).path)
    refuse(tmp_path, "16 shots\nof nothing\x1b[2J")
    with pytest.raises(RunError, match=r"last names no run.*refused \(16 shots\\nof nothing\\x1b\[2J\); train again"):
        RunFolder.open(tmp_path / "last")


def test_nothing_is_written_where_there_was_no_last_run(tmp_path: Path) -> None:
    refuse(tmp_path / "runs", "no data")
    assert not (tmp_path / "runs").exists()
    assert named(tmp_path / "other") == tmp_path / "other"
