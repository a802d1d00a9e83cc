"""What a grid costs: image passes of each cell, and time by the pace of the cells that are done."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ironclip import defenses, testtime
from ironclip.attacks import STANDARD_FAST
from ironclip.core.errors import DataError, UsageError
from ironclip.data import catalogue, open_dataset
from ironclip.grid.file import Measure
from ironclip.grid.plan import Cell, Plan
from ironclip.grid.state import Place
from ironclip.protocols import methods
from ironclip.protocols.config import RunConfig
from ironclip.protocols.forecast import inner_steps
from ironclip.protocols.resolve import test_time_options


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
    """Training images, classes and test images of a data set; `here` False: as published, for the set is not here."""

    train: int
    classes: int
    test: int
    here: bool = True


def estimate(plan: Plan, out: Path) -> tuple[list[Cost], float | None]:
    """The cost of every cell, and the seconds one worker needs for what is left (None: no cell is done yet)."""
    sizes, costs = sizes_of(plan), []
    for cell in plan.cells:
        place = Place(out, cell)
        costs.append(Cost(cell, passes(cell, sizes), place.read()["seconds"], place.state))
    return costs, _left(costs)


def sizes_of(plan: Plan) -> dict[str, Size]:
    """Data set -> its size, of each that the cells learn from; of a benchmark that is not here as it was published, of any
    other that is not here nothing."""
    layouts = {cell.config.dataset: cell.config.layout for cell in plan.cells}
    return {name: _size(name, layout) for name, layout in layouts.items()}


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
    """Passes of one image through the image tower, forward and backward counted apart, roughly: the unit of comparison.

    Known are the attack's steps, how often a defence goes through its images in an epoch, and what a test-time method needs for
    an answer, which each step of an attack on it needs as well.
    """
    config, size = cell.config, sizes[cell.config.dataset]
    return _learning(config, size) + sum(_measuring(measure, config, size) for measure in cell.measures)


def _learning(config: RunConfig, size: Size) -> float:
    trained, _ = methods.split(config.method)
    given, _ = methods.divide(config.method, config.options)
    parts = trained.split("+")
    if not any(defenses.method(part).learns for part in parts):
        return 0
    shown = size.train if config.shots is None else min(size.train, config.shots * size.classes)
    options, steps, again = {**defenses.options(trained), **given}, math.ceil(max(shown, 1) / config.schedule.batch_size), 1
    for part in parts:
        own = {
            key.removeprefix(f"{part}."): value for key, value in options.items() if len(parts) == 1 or key.startswith(f"{part}.")
        }
        again = max(again, defenses.method(part).planned_passes(own, config.schedule, steps))
    return shown * config.schedule.epochs * again * (2 * inner_steps(config.attack) + 4)


def _measuring(measure: Measure, config: RunConfig, size: Size) -> float:
    above, adapts = methods.split(config.method)[1], methods.divide(config.method, config.options)[1]
    if measure.test_time is not None:
        above, adapts = measure.test_time, test_time_options(measure.test_time, measure.changes)[0]
    answer = attacked = 1
    if above is not None:
        method: Any = testtime.build(above, adapts, dataset=measure.data or config.dataset)
        answer = getattr(method, "passes", 1)
        draws = getattr(method, "draws", 1)
        borrowed = measure.knowledge in ("static", "transfer")
        adaptive = answer + 1 + (draws * answer if draws > 1 else 0)  # the method, what it stands on, draws of its randomness
        attacked = 1 if borrowed else adaptive if measure.knowledge == "adaptive" else answer
    images = min(size.test, measure.limit or size.test)
    steps = sum(_steps(name, measure.set) for name in measure.attacks)
    return images * len(measure.eps) * (answer * (1 + len(measure.attacks)) + attacked * steps)


def _steps(attack: str, options: Mapping[str, Any]) -> float:
    queries = int(options.get("queries", 5000))
    fast = sum(own["steps"] * own.get("targets", 1) for _, own in STANDARD_FAST.values())
    fixed = {"fgsm": 2, "autoattack": 2 * queries, "square": queries, "standard-fast": 2 * fast}
    return fixed.get(attack, 2 * int(options.get("steps", 100)) * int(options.get("restarts", 1)))


def _size(name: str, layout: str) -> Size:
    try:
        dataset = open_dataset(name, layout=layout)
    except (DataError, UsageError):
        known = catalogue().get(name)
        counts = (0, 0, 0) if known is None or known.counts is None else known.counts
        return Size(counts[0], known.classes if known else 0, counts[2], here=False)
    return Size(len(dataset.items("train")), len(dataset.classes), len(dataset.items("test")))
