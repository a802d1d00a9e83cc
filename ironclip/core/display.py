"""How an object shows itself in a notebook: its name and a few facts. Pure text, no library."""

from collections.abc import Mapping, Sequence
from html import escape

SHOWN = 5


def facts_html(title: str, facts: Mapping[str, object]) -> str:
    """A small HTML table: the title above, one line for each fact that is not empty."""
    lines = "".join(
        f'<tr><th style="text-align:left">{escape(name)}</th><td style="text-align:left">{escape(str(value))}</td></tr>'
        for name, value in facts.items()
        if value not in (None, "")
    )
    return f"<b>{escape(title)}</b><table>{lines}</table>"


def listed(names: Sequence[str]) -> str:
    """The first names, and how many there are: "cat, dog (2)", "a, b, c, d, e ... (30)"."""
    more = " ..." if len(names) > SHOWN else ""
    return f"{', '.join(names[:SHOWN])}{more} ({len(names)})"


def table_html(head: Sequence[str], rows: Sequence[Sequence[object]]) -> str:
    """A plain HTML table of texts."""
    above = "".join(f'<th style="text-align:left">{escape(title)}</th>' for title in head)
    body = "".join(
        "<tr>" + "".join(f'<td style="text-align:left">{escape(str(cell))}</td>' for cell in row) + "</tr>" for row in rows
    )
    return f"<table><tr>{above}</tr>{body}</table>"
