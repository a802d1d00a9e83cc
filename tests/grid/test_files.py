"""The grid files of the papers: each can be planned, and the ends of each run in miniature."""

from pathlib import Path

import pytest

from ironclip.grid.plan import Plan, plan
from ironclip.grid.state import Place
from ironclip.grid.work import work

FILES = sorted((Path(__file__).resolve().parents[2] / "grids").glob("*.yaml"))


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_a_grid_can_be_planned_and_its_first_cell_runs_in_miniature(path, tmp_path):
    whole, small = plan(path), plan(path, small=True)
    assert whole.grid.name == path.stem
    assert whole.grid.source
    assert len(small.cells) <= len(whole.cells)
    assert {cell.config.method for cell in small.cells} == {cell.config.method for cell in whole.cells}
    first = Plan(small.grid, small.cells[:1])
    work(first, tmp_path)
    place = Place(tmp_path, first.cells[0])
    assert place.state == "done", place.read()["reason"]


@pytest.mark.slow
@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_every_cell_of_a_grid_runs_in_miniature(path, tmp_path):
    small = plan(path, small=True)
    work(small, tmp_path)
    failed = {cell.name: Place(tmp_path, cell).read()["reason"] for cell in small.cells if Place(tmp_path, cell).state != "done"}
    assert not failed
