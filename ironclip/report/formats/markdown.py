"""Write a Markdown table."""

from collections.abc import Sequence

from ironclip.core import escapes
from ironclip.report.cells import Cell, Grid, grid
from ironclip.report.tables import Row


def markdown(table: Sequence[Row] | Grid, number: int = 0) -> str:
    """A pipe table with its caption below."""
    marks = {0: "{}", 1: "**{}**", 2: "<ins>{}</ins>"}

    def write(cell: Cell) -> str:
        extra = (cell.interval, f"({escapes.markdown(cell.note)})" if cell.note else "")
        parts = (marks[cell.rank].format(escapes.markdown(cell.text)), *extra)
        return " ".join(part for part in parts if part)

    cells = grid(table)
    lines = [
        [escapes.markdown(title) for title in cells.head],
        [":--" if place < cells.words else "--:" for place in range(len(cells.head))],
    ]
    lines += [[write(cell) for cell in line] for line in cells.body]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines) + f"\n\n{escapes.markdown(cells.caption)}\n"


FORMAT = markdown
