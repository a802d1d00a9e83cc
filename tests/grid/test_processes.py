"""Cells whose runs several processes train together: which ones, what is asked for, and that they learn the same."""

import pytest
from torch.testing import assert_close

from ironclip.grid import work as doing
from ironclip.grid.plan import plan
from ironclip.grid.work import work
from ironclip.protocols.few_shot import train
from ironclip.records.folder import RunFolder

GRID = """
name: together
processes: 3
defaults: {backbone: mini, dataset: shapes, shots: 1, eps: 4/255, augment: none, set: {epochs: 1, attack.steps: 1}}
runs: [{method: [zero_shot, apt, advmask]}]
evaluate: [{attacks: [fgsm], limit: 2}]
"""


@pytest.fixture
def grid(tmp_path):
    path = tmp_path / "grid.yaml"
    path.write_text(GRID)
    return path


def test_what_can_be_divided_is_trained_by_so_many_processes_and_once(monkeypatch, grid, tmp_path):
    asked = []

    def together(config, *, processes, device, root):
        asked.append((config.method, processes, device))
        return train(config, root=root, device=device)

    monkeypatch.setattr(doing, "train_together", together)
    made = plan(grid, only=["method=zero_shot,apt"])
    work(made, tmp_path / "out")
    assert asked == [("apt", 3, "cpu")], "nothing is learned by zero_shot"
    for cell in made.cells:
        doing.run_cell(cell, tmp_path / "out", processes=3)
    assert len(asked) == 1, "it is trained already"
    (advmask,) = plan(grid, only=["method=advmask"]).cells
    assert not doing.divided(doing.open_experiment(advmask.config))


def test_the_command_line_says_another_number_than_the_file(grid):
    assert plan(grid).grid.processes == 3
    assert plan(grid, processes=2).grid.processes == 2
    assert plan(grid, processes=2).cells == plan(grid).cells, "the cells are the same, so a grid goes on with another number"


@pytest.mark.slow
def test_two_processes_learn_what_one_learns(grid, tmp_path):
    pytest.importorskip("lightning_fabric", reason="needs the extra dist")
    made = plan(grid, only=["method=apt"], processes=2)
    work(made, tmp_path / "two")
    work(plan(grid, only=["method=apt"], processes=1), tmp_path / "one")
    one, two = (RunFolder.open(tmp_path / name / made.cells[0].name).load_learned().tensors for name in ("one", "two"))
    for name, tensor in one.items():
        assert_close(two[name], tensor, rtol=1e-4, atol=1e-6)
