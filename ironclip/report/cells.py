"""Rows as the cells that all printed tables share, as terminal text, CSV and JSON; `formats` writes the cells for papers.

Printed tables show per cent, leave out what all rows share and say it in the caption; best bold, second underlined.
CSV and JSON hold every column, accuracies as fractions.
"""

import csv
import io
import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from ironclip.core import escapes
from ironclip.core.shown import plain as plain_text
from ironclip.records.bounds import mark
from ironclip.report.tables import DASH, Row, caption, columns, interval, percent, rank

if TYPE_CHECKING:
    from rich.table import Table


@dataclass(frozen=True)
class Cell:
    """A text, the interval behind it, its rank (1 best, 2 second, 0 neither) and a note such as "static-only"."""

    text: str
    interval: str = ""
    rank: int = 0
    note: str = ""


@dataclass(frozen=True)
class Grid:
    """A table ready for printing; the first `words` columns are words, the others numbers.

    `starts` are the rows, from the second on, at which another data set or radius begins.
    """

    head: tuple[str, ...]
    body: tuple[tuple[Cell, ...], ...]
    words: int
    caption: str
    starts: frozenset[int]


def grid(table: Sequence[Row] | Grid) -> Grid:
    """The cells that every printed form of the table shares; cells are returned as they are."""
    if isinstance(table, Grid):
        return table
    shown = columns(table)
    ranks = [rank(table, value) for value in (_clean, _robust, lambda row: row.harmonic)]
    adapting = any(row.forward_passes for row in table)
    head = ("Method", *(column.title for column in shown), "Clean", "Robust", "H", "Learned")
    head += ("Passes", "Seconds") if adapting else ()
    body = []
    for number, row in enumerate(table):
        clean, robust, harmonic = (each[number] for each in ranks)
        body.append(
            (
                Cell(row.method, note="no defence" if row.undefended else ""),
                *(Cell(column.value(row)) for column in shown),
                Cell(percent(row.clean.value), interval(row.clean), clean),
                Cell(
                    mark(row.one_loss and math.isfinite(row.robust.value)) + percent(row.robust.value),
                    interval(row.robust),
                    robust,
                    row.note,
                ),
                Cell(percent(row.harmonic), rank=harmonic),
                Cell(f"{row.parameters:,}" if row.parameters else "0"),
                *(_answer(row) if adapting else ()),
            )
        )
    starts = frozenset(place for place in range(1, len(table)) if table[place].group != table[place - 1].group)
    return Grid(head, tuple(body), 1 + sum(column.title != "n" for column in shown), caption(table), starts)


def terminal(table: Sequence[Row] | Grid) -> "Table":
    """A rich table; print it with a rich console."""
    from rich.table import Table
    from rich.text import Text

    cells = grid(table)
    made = Table(caption=Text(plain_text(cells.caption)), caption_justify="left", caption_style="dim")
    for place, title in enumerate(cells.head):
        made.add_column(Text(plain_text(title)), justify="left" if place < cells.words else "right", overflow="fold")
    styles = {0: "", 1: "bold", 2: "underline"}
    for number, line in enumerate(cells.body):
        if number in cells.starts:
            made.add_section()
        written = []
        for cell in line:
            text = Text(plain_text(cell.text), style=styles[cell.rank])
            for extra in (cell.interval, cell.note):
                text.append(f" {plain_text(extra)}" if extra else "", style="not bold not underline dim")
            written.append(text)
        made.add_row(*written)
    return made


def plain(row: Row) -> dict[str, Any]:
    """All columns of one row under flat names; accuracies are fractions, None where there is no number."""
    named = ("method", "data", "backbone", "shots", "seed", "eps", "trained_at", "threat", "attacks")
    facts = {name: getattr(row, name) for name in named}
    for name, proportion in (("clean", row.clean), ("robust", row.robust)):
        parts = {name: proportion.value, f"{name}_low": proportion.low, f"{name}_high": proportion.high}
        facts |= {key: _finite(value) for key, value in parts.items()}
    facts |= {"harmonic": _finite(row.harmonic), "learned_parameters": row.parameters, "images": row.images}
    facts |= {name: getattr(row, name) for name in ("forward_passes", "backward_passes", "answer_seconds")}
    return facts | {"undefended": row.undefended, "note": row.note, "one_loss": row.one_loss, "options": row.options}


def as_csv(table: Sequence[Row]) -> str:
    """One line per row, a head line first; nothing at all for no rows."""
    if not table:
        return ""
    stream = io.StringIO()
    writer = csv.writer(stream, lineterminator="\n")
    writer.writerow(plain(table[0]))
    writer.writerows(escapes.cells(plain(row).values()) for row in table)
    return stream.getvalue()


def as_json(table: Sequence[Row]) -> str:
    value = {"caption": caption(table), "rows": [plain(row) | {"options": json.loads(row.options)} for row in table]}
    return json.dumps(value, indent=1, allow_nan=False) + "\n"


def _answer(row: Row) -> tuple[Cell, Cell]:
    """Passes and seconds of an answer; dashes where they were not measured."""
    if not row.forward_passes:
        return Cell(DASH), Cell(DASH)
    return Cell(f"{row.forward_passes:g} + {row.backward_passes:g}"), Cell(f"{row.answer_seconds:.3g}")


def _clean(row: Row) -> float:
    return row.clean.value


def _robust(row: Row) -> float:
    return row.robust.value


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None
