"""The state of each cell of a grid: one small file per cell, beside the runs. Imports no torch.

<out>/.grid/<cell>/state.json   {"state", "attempts", "progress", "reason", "seconds"}
<out>/.grid/<cell>/.lock        held by the process that works on the cell; free again when that process ends
"""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal

from ironclip.core.errors import RunError
from ironclip.core.files import disk_errors, write_json
from ironclip.core.texts import json_value, plain_bytes
from ironclip.grid.plan import Cell
from ironclip.records.lock import locked

State = Literal["open", "begun", "done", "failed"]
ATTEMPTS = 5
"""How often a cell is begun whose process dies, without a step that is kept, before it is given up."""


class Place:
    """Where the state of one cell is kept."""

    def __init__(self, out: Path, cell: Cell) -> None:
        self.cell, self.run = cell, out / cell.name
        self.folder = out / ".grid" / cell.key

    def read(self) -> dict[str, Any]:
        path = self.folder / "state.json"
        with disk_errors(path):
            content = plain_bytes(path) if path.exists() else b"{}"
        begun = {"state": "open", "attempts": 0, "progress": 0, "reason": "", "seconds": 0.0}
        try:
            found = begun | json_value(content)
            if any(type(found[key]) is not type(begun[key]) for key in ("state", "attempts", "progress", "reason")):
                raise ValueError("another type")
            return found
        except (ValueError, TypeError):
            raise RunError(f"{path} is no JSON; remove it to begin the cell again") from None

    @property
    def state(self) -> State:
        state: State = self.read()["state"]
        if state == "done" and not (self.run / "config.yaml").exists():
            return "open"  # the run was removed
        return state

    @property
    def settled(self) -> bool:
        return self.state in ("done", "failed")

    def reopen(self) -> None:
        """Give a failed cell another chance."""
        if self.state == "failed":
            self._write(state="open", attempts=0)

    @contextmanager
    def claim(self) -> Iterator[None]:
        """Hold the cell alone; RunBusy if somebody else does."""
        with locked(self.folder):
            yield

    def begin(self) -> bool:
        """Count an attempt; False where the cell has killed too many processes and is given up.

        The count starts again where the attempts before came further than any before them.
        """
        seen, far = self.read(), steps_kept(self.run)
        attempts = 0 if far > seen["progress"] else seen["attempts"]
        if attempts >= ATTEMPTS:
            self._write(state="failed", reason=f"its process died {attempts} times; see the log for memory and time")
            return False
        self._write(state="begun", attempts=attempts + 1, progress=max(far, seen["progress"]))
        self.started = time.monotonic()
        return True

    def finish(self) -> None:
        self._write(state="done", reason="", seconds=self.read()["seconds"] + time.monotonic() - self.started)

    def fail(self, reason: str) -> None:
        self._write(state="failed", reason=reason)

    def release(self) -> None:
        """Not done and not at fault: interrupted, or its run is in use elsewhere."""
        seen = self.read()
        spent = seen["seconds"] + time.monotonic() - self.started
        self._write(state="open", attempts=max(0, seen["attempts"] - 1), seconds=spent)

    def _write(self, **changes: Any) -> None:
        with disk_errors(self.folder):
            write_json(self.folder / "state.json", {**self.read(), **changes})


def steps_kept(run: Path) -> int:
    """How far a run is: the whole lines of its logs and samples, and the files that end a part of it."""
    try:
        lines = sum(plain_bytes(file).count(b"\n") for file in sorted(run.rglob("*.jsonl")))
    except (OSError, RunError):
        return 0  # the attempt itself says what is wrong
    return lines + sum(1 for name in ("learned.safetensors", "record.json") for _ in run.rglob(name))
