"""What a grid costs beside its cells: planning 1,000 cells, asking an index of 100,000 records, and running small cells."""

import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from ironclip.grid.cost import estimate
from ironclip.grid.plan import plan
from ironclip.records.index import COLUMNS, Index

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


def asking(folder: Path, many: int = 100_000) -> str:
    """Rows are written as `Index.rebuild` writes them; reading the folders themselves is not in these numbers."""
    index = Index(folder)
    methods, sets = ("apt", "nap", "capt", "fap"), ("eurosat", "dtd", "caltech101", "food101", "sun397")
    rows = [
        dict.fromkeys(COLUMNS)
        | {"run": f"run-{n // 4:06d}", "evaluation": str(n % 4), "status": "evaluated", "config_hash": f"{n // 4:064x}"}
        | {"method": methods[n // 4 % 4], "dataset": sets[n // 16 % 5], "backbone": "mini", "shots": 16, "seed": n // 80 % 3}
        | {"norm": "linf", "eps": (1, 2, 4, 8)[n % 4] / 255, "knowledge": "white-box", "attacks": "pgd", "images": 100}
        | {"clean": 0.5, "robust": n % 97 / 100, "failed": 0}
        for n in range(many)
    ]

    def fill() -> None:
        with index._open() as database:
            marks = ", ".join("?" for _ in COLUMNS)
            database.executemany(f"INSERT INTO runs VALUES ({marks})", [tuple(row.values()) for row in rows])

    writing, _, _ = spent(fill)
    wall, cpu, found = spent(lambda: index.find(method="nap", dataset="dtd", eps=4 / 255))
    expected = [row for row in rows if (row["method"], row["dataset"], row["eps"]) == ("nap", "dtd", 4 / 255)]
    assert len(found) == len(expected) > 0  # type: ignore[arg-type]
    one, _, _ = spent(lambda: index.find(run="run-012345"))
    everything, _, _ = spent(index.find)
    return (
        f"index of {many:,} records: {len(expected):,} of them by three filters {wall:.2f} s ({cpu:.2f} s of CPU), one run "
        f"{1000 * one:.1f} ms, all of them {everything:.2f} s; written in {writing:.1f} s"
    )


def rebuilding(folder: Path, source: Path, many: int = 200) -> str:
    """The time to read run folders again, for each record."""
    import shutil

    root = folder / "many"
    for number in range(many):
        shutil.copytree(source, root / f"run-{number:04d}")
    wall, cpu, broken = spent(Index(root).rebuild)
    assert broken == []
    return f"index rebuilt from {many} folders: {1000 * wall / many:.1f} ms a record, {1000 * cpu / many:.1f} ms of CPU"


def running(folder: Path) -> tuple[str, Path]:
    """CPU seconds of cells one after the other against the same cells as a grid with one worker; first one cell to warm up."""
    from ironclip.grid.execute import run_local
    from ironclip.grid.work import run_cell

    path = folder / "cells.yaml"
    path.write_text(CELLS, encoding="utf-8")
    made = plan(path)
    run_cell(made.cells[0], folder / "warm")
    bare = grid = 0.0
    for turn in range(2):  # in turns, since machines are shared
        bare += spent(lambda turn=turn: [run_cell(cell, folder / f"bare{turn}") for cell in made.cells])[1]  # type: ignore[misc]
        grid += spent(lambda turn=turn: run_local(path, made, folder / f"grid{turn}"))[1]  # type: ignore[misc]
    text = (
        f"{len(made.cells)} cells of {bare / 2 / len(made.cells):.2f} s of CPU each, twice in turn: as a grid "
        f"{100 * (grid / bare - 1):+.1f} % of CPU time"
    )
    return text, folder / "bare0" / made.cells[0].name


def main() -> None:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        print(planning(folder))
        print(asking(folder / "index") if (folder / "index").mkdir() is None else "")
        text, run = running(folder)
        print(text)
        print(rebuilding(folder, run))


if __name__ == "__main__":
    main()
