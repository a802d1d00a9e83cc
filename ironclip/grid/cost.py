"""What a grid costs: image passes of each cell, and time by the pace of the cells that are done."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ironclip.attacks import STANDARD_FAST
from ironclip.data import open_dataset
from ironclip.grid.plan import Cell, Plan
from ironclip.grid.state import Place
from ironclip.protocols.forecast import inner_steps


@dataclass(frozen=True)
class Cost:
    """One cell: image passes as `passes` counts them, seconds spent on it so far, state."""

    cell: Cell
    passes: float
    seconds: float
    state: str

    def as_dict(self) -> dict[str, Any]:
        facts = {"run": self.cell.name, "variant": self.cell.variant, "measures": len(self.cell.measures)}
        return {**facts, "image_passes": self.passes, "seconds": self.seconds, "state": self.state}


@dataclass(frozen=True)
class Size:
    """Training images, classes and test images of a data set."""

    train: int
    classes: int
    test: int


def estimate(plan: Plan, out: Path) -> tuple[list[Cost], float | None]:
    """The cost of every cell, and the seconds one worker needs for what is left (None: no cell is done yet)."""
    layouts = {cell.config.dataset: cell.config.layout for cell in plan.cells}
    sizes = {name: _size(name, layout) for name, layout in layouts.items()}
    costs = []
    for cell in plan.cells:
        place = Place(out, cell)
        costs.append(Cost(cell, passes(cell, sizes), place.read()["seconds"], place.state))
    return costs, _left(costs)


def _left(costs: Sequence[Cost]) -> float | None:
    """By the pace of the method and backbone where one of its cells is done, else by that of all cells done."""
    finished = [cost for cost in costs if cost.state == "done" and cost.seconds > 0]
    if not finished:
        return None

    def pace(these: Sequence[Cost]) -> float:
        return sum(cost.seconds for cost in these) / sum(cost.passes for cost in these)

    def kind(cost: Cost) -> tuple[str, str]:
        return cost.cell.config.method, cost.cell.config.backbone

    paces = {which: pace([cost for cost in finished if kind(cost) == which]) for which in {kind(cost) for cost in finished}}
    open_cells = [cost for cost in costs if cost.state not in ("done", "failed")]
    return sum(cost.passes * paces.get(kind(cost), pace(finished)) for cost in open_cells)


def passes(cell: Cell, sizes: Mapping[str, Size]) -> float:
    """Passes of one image through the image tower, forward and backward counted apart, roughly: the unit of comparison."""
    config, size = cell.config, sizes[cell.config.dataset]
    shown = size.train if config.shots is None else min(size.train, config.shots * size.classes)
    inner = inner_steps(config.attack)
    learning = 0 if config.method in ("zero_shot", "hep") else shown * config.schedule.epochs * (2 * inner + 4)
    measuring = 0.0
    for measure in cell.measures:
        images = min(size.test, measure.limit or size.test)
        measuring += images * len(measure.eps) * (1 + sum(_steps(name, measure.set) for name in measure.attacks))
    return learning + measuring


def _steps(attack: str, options: Mapping[str, Any]) -> float:
    queries = int(options.get("queries", 5000))
    fast = sum(own["steps"] * own.get("targets", 1) for _, own in STANDARD_FAST.values())
    fixed = {"fgsm": 2, "autoattack": 2 * queries, "square": queries, "standard-fast": 2 * fast}
    return fixed.get(attack, 2 * int(options.get("steps", 100)) * int(options.get("restarts", 1)))


def _size(name: str, layout: str) -> Size:
    dataset = open_dataset(name, layout=layout)
    return Size(len(dataset.items("train")), len(dataset.classes), len(dataset.items("test")))
