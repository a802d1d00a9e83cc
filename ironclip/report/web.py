"""A table of cells as HTML, for pages and for notebooks."""

from collections.abc import Sequence

from ironclip.core.escapes import bdi, html, prose
from ironclip.report.cells import Grid, grid
from ironclip.report.tables import Row

STYLES = {1: " class='best' style='font-weight:bold'", 2: " class='second' style='text-decoration:underline'"}


def table(cells: Grid) -> str:
    """The bare <table>: best bold, second underlined, intervals and notes small behind the number."""
    head = "".join(f"<th scope='col'>{bdi(title)}</th>" for title in cells.head)
    body = []
    for line in cells.body:
        written = []
        for place, cell in enumerate(line):
            extra = " ".join(part for part in (cell.interval, cell.note) if part)
            small = f" <small>{html(extra)}</small>" if extra else ""
            look = STYLES.get(cell.rank, "")
            tag = "td" if place else "th"
            row = "" if place else " scope='row'"
            written.append(f"<{tag}{row}{look} title='{html(cell.text)}'>{bdi(cell.text)}{small}</{tag}>")
        body.append(f"<tr>{''.join(written)}</tr>")
    return f"<table class='matrix'><thead><tr>{head}</tr></thead><tbody>{''.join(body)}</tbody></table>"


def notebook(rows: Sequence[Row], notes: Sequence[str] = ()) -> str:
    """The table of some records with its caption and remarks, as a notebook shows it."""
    if not rows:
        return "<p>no record</p>"
    cells = grid(rows)
    below = "".join(f"<p><small>{prose(text)}</small></p>" for text in (cells.caption, *notes))
    return f"<div style='overflow-x:auto'>{table(cells)}</div>{below}"
