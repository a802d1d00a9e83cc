"""A grid that is to be done: what every executor is given."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ironclip.grid.plan import Cell, Plan
from ironclip.grid.state import Place

Callback = Callable[[dict[str, Any]], None]


@dataclass(frozen=True)
class GridJob:
    """All cells of a plan, to be done into one folder.

    Attributes:
        file: the grid file, of which `plan` was made with the keywords `choice`.
        workers: processes here or of a Ray that is started here; tasks of an array of Slurm.
        device: "auto": the best there is where a cell is done.
        until: no cell is begun after this time (`time.time`).
        callback: gets {"event": "cell", "cell", "state", "reason", "seconds"} of each cell that is done or failed, once.
    """

    file: Path
    plan: Plan
    out: Path
    workers: int = 1
    device: str = "cpu"
    choice: Mapping[str, Any] = field(default_factory=dict)
    until: float | None = None
    callback: Callback | None = None

    @property
    def settled(self) -> bool:
        """Whether each cell is done or failed."""
        return all(Place(self.out, cell).settled for cell in self.plan.cells)

    def tell(self, told: set[str], cells: Sequence[Cell] | None = None) -> None:
        """Hand each cell (of these, or of all) that is done or failed to the callback; `told` has the keys of those that were."""
        for cell in self.plan.cells if cells is None else cells:
            place = Place(self.out, cell)
            if cell.key not in told and place.settled:
                told.add(cell.key)
                if self.callback is not None:
                    self.callback({"event": "cell", "cell": cell.name, **place.read()})
