"""Worker processes of a grid that were told to leave: the command says so, whoever was told."""

import subprocess
import sys

import pytest

from ironclip.core.signals import LATER, Leaving
from ironclip.grid import execute
from ironclip.grid.job import GridJob
from ironclip.grid.plan import plan


def test_a_grid_whose_workers_were_told_to_leave_is_not_finished(tmp_path, monkeypatch):
    (tmp_path / "g.yaml").write_text("{name: g, runs: [{method: zero_shot, backbone: mini, dataset: shapes}]}")
    leaves = [sys.executable, "-c", f"raise SystemExit({LATER})"]
    monkeypatch.setattr(execute, "_worker", lambda *_: subprocess.Popen(leaves))
    with pytest.raises(Leaving):
        execute.run_local(GridJob(tmp_path / "g.yaml", plan(tmp_path / "g.yaml"), tmp_path / "out", workers=2))
