"""Worker processes of a grid that were told to leave: the command says so, whoever was told."""

import subprocess
import sys
from types import SimpleNamespace

import pytest

from ironclip.core.errors import RunError
from ironclip.core.signals import LATER, Leaving
from ironclip.grid import execute, worker
from ironclip.grid.job import GridJob
from ironclip.grid.plan import plan


def test_a_grid_whose_workers_were_told_to_leave_is_not_finished(tmp_path, monkeypatch):
    (tmp_path / "g.yaml").write_text("{name: g, runs: [{method: zero_shot, backbone: mini, dataset: shapes}]}")
    leaves = [sys.executable, "-c", f"raise SystemExit({LATER})"]
    monkeypatch.setattr(execute, "_worker", lambda *_: subprocess.Popen(leaves))
    with pytest.raises(Leaving):
        execute.run_local(GridJob(tmp_path / "g.yaml", plan(tmp_path / "g.yaml"), tmp_path / "out", workers=2))


@pytest.mark.parametrize(
    ("work", "message"),
    [
        ("raise SystemExit('error: the disk is full')", "^a worker gave up: the disk is full$"),
        ("raise ValueError('odd')", "^a worker gave up: ValueError: odd$"),
        ("import os; os.kill(os.getpid(), 9)", "^workers died 11 times"),
    ],
)
def test_workers_that_begin_no_cell_end_the_command_in_one_line(tmp_path, monkeypatch, work, message):
    (tmp_path / "g.yaml").write_text("{name: g, runs: [{method: zero_shot, backbone: mini, dataset: shapes}]}")
    line = [sys.executable, "-c", work]
    monkeypatch.setattr(execute, "_worker", lambda _, __, said: subprocess.Popen(line, stderr=said))
    monkeypatch.setattr(execute.time, "sleep", lambda _: None)
    job = GridJob(tmp_path / "g.yaml", plan(tmp_path / "g.yaml"), tmp_path / "out", workers=2)
    with pytest.raises(RunError, match=message):
        execute.run_local(job)


def test_workers_that_die_in_cells_are_replaced_as_long_as_the_cells_allow(tmp_path, monkeypatch):
    (tmp_path / "g.yaml").write_text("{name: g, runs: [{method: zero_shot, backbone: mini, dataset: shapes}]}")
    started = []
    dead = SimpleNamespace(poll=lambda: -9, terminate=lambda: None, wait=lambda: None)
    monkeypatch.setattr(execute, "_worker", lambda *_: started.append(1) or dead)
    monkeypatch.setattr(execute, "_states", lambda _: len(started))  # each death is noted in its cell
    monkeypatch.setattr(execute.time, "sleep", lambda _: None)
    monkeypatch.setattr(GridJob, "settled", property(lambda _: len(started) > 20))
    execute.run_local(GridJob(tmp_path / "g.yaml", plan(tmp_path / "g.yaml"), tmp_path / "out", workers=2))
    assert len(started) == 22, "every look finds both dead"


def test_a_worker_without_its_grid_file_says_so_in_one_line(tmp_path, capfd):
    with pytest.raises(SystemExit) as end:
        worker.main(str(tmp_path / "g.yaml"), str(tmp_path / "out"), "cpu")
    assert end.value.code == 2
    assert capfd.readouterr().err.startswith(f"error: there is no grid file {tmp_path / 'g.yaml'};")
