"""What a grid costs beside its cells: planning 1,000 cells, and running small cells."""

import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from ironclip.grid.cost import estimate
from ironclip.grid.plan import plan

PLAN = """
name: thousand
defaults: {backbone: mini, eps: 1/255, set: {epochs: 10}}
runs:
  - {method: [apt, nap, capt, fap, advmaple], dataset: shapes, shots: [1, 2, 4, 8, 16], seed: [1, 2, 3, 4], set: {lr: 0.01},
     variant: {a: {length: 1}, b: {length: 2}, c: {length: 3}, d: {length: 4}, e: {length: 5}, f: {length: 6}, g: {length: 7},
     h: {length: 8}, i: {length: 9}, j: {length: 10}}}
evaluate:
  - {attacks: [pgd], set: {steps: 100}, eps: [1/255, 4/255]}
"""
CELLS = """
name: cells
defaults: {backbone: mini, dataset: shapes, shots: 1, augment: none, eps: 1/255, set: {epochs: 2, attack.steps: 2}}
runs:
  - {method: apt, seed: [1, 2, 3, 4, 5, 6, 7, 8, 9, 10]}
evaluate:
  - {attacks: [pgd], set: {steps: 20}, eps: 1/255, limit: 30}
"""


def spent(work: Callable[[], object]) -> tuple[float, float, object]:
    """(wall seconds, CPU seconds, result)."""
    wall, cpu = time.perf_counter(), time.process_time()
    result = work()
    return time.perf_counter() - wall, time.process_time() - cpu, result


def planning(folder: Path) -> str:
    path = folder / "plan.yaml"
    path.write_text(PLAN.replace("[1, 2, 4, 8, 16]", "1").replace("[1, 2, 3, 4]", "1"), encoding="utf-8")
    plan(path)  # imports torch and the methods
    path.write_text(PLAN, encoding="utf-8")
    wall, cpu, found = spent(lambda: estimate(plan(path), folder / "none")[0])
    assert len(found) == 1000  # type: ignore[arg-type]
    return f"dry plan of 1,000 cells with their costs: {wall:.2f} s, {cpu:.2f} s of CPU, after imports"


def running(folder: Path) -> str:
    """CPU seconds of cells one after the other against the same cells as a grid with one worker; first one cell to warm up."""
    from ironclip.grid.execute import run_local
    from ironclip.grid.job import GridJob
    from ironclip.grid.work import run_cell

    path = folder / "cells.yaml"
    path.write_text(CELLS, encoding="utf-8")
    made = plan(path)
    run_cell(made.cells[0], folder / "warm")
    bare = grid = 0.0
    for turn in range(2):  # in turns, since machines are shared
        bare += spent(lambda turn=turn: [run_cell(cell, folder / f"bare{turn}") for cell in made.cells])[1]  # type: ignore[misc]
        grid += spent(lambda turn=turn: run_local(GridJob(path, made, folder / f"grid{turn}")))[1]  # type: ignore[misc]
    return (
        f"{len(made.cells)} cells of {bare / 2 / len(made.cells):.2f} s of CPU each, twice in turn: as a grid "
        f"{100 * (grid / bare - 1):+.1f} % of CPU time"
    )


def main() -> None:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        print(planning(folder))
        print(running(folder))


if __name__ == "__main__":
    main()
