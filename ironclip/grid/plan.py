"""From a grid file to cells: what is to be done, what it costs, what is done."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

from ironclip.core.errors import UsageError
from ironclip.grid.check import check_measures, check_run
from ironclip.grid.file import GridFile, Measure, read
from ironclip.grid.select import MEASURES, agrees, meant, wanted
from ironclip.protocols import methods
from ironclip.protocols.config import RunConfig, configure
from ironclip.protocols.resolve import resolve
from ironclip.records.folder import run_name
from ironclip.records.record import canonical_hash

MOST = {"views": 4, "min_steps": 0, "length": 8, "depth": 4}
"""Of these options in a miniature; `mini` reads 30 words at most, and its text tower has four layers."""


@dataclass(frozen=True)
class Cell:
    """One run with everything that is measured on it; independent of all other cells."""

    config: RunConfig
    measures: tuple[Measure, ...]
    variant: str = ""

    @cached_property
    def name(self) -> str:
        """Name of its run folder."""
        return run_name(self.config.as_dict())

    @cached_property
    def settings(self) -> dict[str, Any]:
        """What chooses it: its configuration and the name of its variant."""
        return {"norm": self.config.norm, **self.config.as_dict(), "variant": self.variant}

    @cached_property
    def key(self) -> str:
        """Identity of the cell: another measure is another cell on the same run."""
        made = [measure.model_dump(mode="json", exclude={"only", *measure.unused}) for measure in self.measures]
        return f"{self.name}-{canonical_hash(made)[:6]}"


@dataclass(frozen=True)
class Plan:
    """All cells of a grid file, each once, in the order of the file."""

    grid: GridFile
    cells: tuple[Cell, ...]


def plan(
    path: Path, *, small: bool = False, only: Sequence[str] = (), first: int | None = None, processes: int | None = None
) -> Plan:
    """The cells of a grid file.

    Args:
        small: its miniature.
        only: "key=value,value" texts, as `select.wanted` reads them; a cell must agree with all. first: at most this many cells.
        processes: that train a run together, instead of as many as the file says.

    Raises:
        UsageError: a file, a name, a key or a value that cannot be right, with the cell it is in.
    """
    grid = read(path)
    grid = grid if processes is None else grid.model_copy(update={"processes": processes})
    found: dict[str, Cell] = {}
    for number, settings in enumerate(grid.settings(), 1):
        try:
            cell = _cell(settings, grid.evaluate)
        except UsageError as error:
            raise UsageError(f"{path}, cell {number}: {error}") from None
        found.setdefault(cell.key, cell)
    try:
        check_measures(grid.evaluate, [cell.settings for cell in found.values()])
    except UsageError as error:
        raise UsageError(f"{path}, {error}") from None
    whole = Plan(grid, select(tuple(found.values()), wanted(only))[:first])
    return miniature(whole) if small else whole


def miniature(whole: Plan) -> Plan:
    """The same grid on embedded defaults, in seconds per cell: `mini`, generated images, one shot, one seed, one epoch, one
    step, four images. Shows that every cell runs; the numbers mean nothing."""
    cells: dict[str, Cell] = {}
    for cell in whole.cells:
        values = cell.config.as_dict()
        values |= {"backbone": "mini", "weights": None, "base": None, "activation": None, "files": {}, "precision": "float32"}
        values |= {"dataset": "shapes", "shots": 1, "seed": 1, "split_seed": 1}
        values["schedule"] |= {"epochs": 1, "batch_size": 32}
        values["attack"] |= {"steps": 1} if cell.config.attack.name == "pgd" else {}
        known = {key.rpartition(".")[2]: key for key in methods.options(cell.config.method)}
        own = values["options"]
        own |= {known[key]: min(own[known[key]], most) for key, most in MOST.items() if isinstance(own.get(known.get(key)), int)}
        if "min_steps" in known:  # a mask has to change in the one step there is
            values["schedule"] |= {"lr": 0.05, "optimizer": "adamw"}
        small = Cell(configure(values), tuple(_small(measure) for measure in cell.measures), cell.variant)
        seen = cells.get(small.name, small)  # what is measured on runs that are one in small is measured on that one
        several = {measure.model_dump_json(): measure for measure in (*seen.measures, *small.measures)}
        cells[small.name] = replace(seen, measures=tuple(several.values()))
    grid = whole.grid.model_copy(update={"name": f"{whole.grid.name}-miniature"})
    return Plan(grid, tuple(cells.values()))


def _small(measure: Measure) -> Measure:
    """The measure on four images, with one step of an attack that takes steps and without other data."""
    attacks = tuple("fgsm" if name in ("autoattack", "square", "standard-fast") else name for name in measure.attacks)
    changes = {"steps": 1} if "steps" in measure.set else {}
    return measure.model_copy(update={"attacks": attacks, "set": changes, "limit": 4, "data": None, "suite": None})


def _cell(settings: dict[str, Any], measures: Sequence[Measure]) -> Cell:
    given = dict(settings)
    missing = [key for key in ("method", "dataset") if key not in given]
    if missing:
        raise UsageError(f"every run needs a {missing[0]}")
    method, dataset, variant = given.pop("method"), given.pop("dataset"), given.pop("variant")
    changes = [f"{key}={value if isinstance(value, str) else json.dumps(value)}" for key, value in given.pop("set").items()]
    preset = given.pop("preset", None)
    seed = given.setdefault("seed", 1)
    given.setdefault("split_seed", seed)
    config = resolve(
        method,
        dataset,
        preset=preset.format(method=method.split("+")[0]) if preset else None,
        given=given,
        changes=changes,
    )
    check_run(config)
    cell = Cell(config, (), variant)
    return replace(cell, measures=tuple(measure for measure in measures if meant(measure, cell.settings)))


def select(cells: Sequence[Cell], asked: Mapping[str, Sequence[Any]]) -> tuple[Cell, ...]:
    """The cells, and of each the measures, that agree with what was asked for.

    Raises:
        UsageError: none does.
    """
    runs = {key: values for key, values in asked.items() if key not in MEASURES}
    found = []
    for cell in cells:
        if agrees(cell.settings, runs):
            kept = tuple(measure for measure in cell.measures if _asked(measure, asked))
            if kept or not cell.measures:
                found.append(replace(cell, measures=kept))
    if asked and not found:
        raise UsageError(f"no cell of the grid agrees with --only {', '.join(f'{k}={v}' for k, v in asked.items())}")
    return tuple({cell.key: cell for cell in found}.values())


def _asked(measure: Measure, asked: Mapping[str, Sequence[Any]]) -> bool:
    attacks, known = asked.get("attack"), asked.get("knowledge")
    return (attacks is None or any(name in attacks for name in measure.attacks)) and (known is None or measure.knowledge in known)
