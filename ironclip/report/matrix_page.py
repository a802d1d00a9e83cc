"""The tables of `matrix` with their figures as one self-contained HTML page: no script, nothing loaded from elsewhere."""

from collections.abc import Sequence
from importlib.resources import files

from ironclip.core.escapes import bdi, html, prose
from ironclip.report import web
from ironclip.report.cells import Grid
from ironclip.report.matrix import Matrix
from ironclip.report.matrix_figures import Figure, cost, over_eps, over_shots, scatter
from ironclip.report.matrix_tables import cells

STYLE = """
.matrix { width: auto; font-size: .85rem; }
.matrix th, .matrix td { text-align: right; white-space: nowrap; }
.matrix th:first-child { text-align: left; position: sticky; left: 0; background: var(--paper); max-width: 14rem; overflow: hidden; text-overflow: ellipsis; }
.best { font-weight: 700; color: var(--accent); }
.matrix small { color: var(--soft); }
"""  # noqa: E501


def matrix_page(tables: Sequence[Matrix], *, title: str = "Results") -> str:
    """The whole page: every table, its scatter of robust over clean accuracy and its cost, then curves over shots and radii."""
    parts = [f"<main><header><h1>{bdi(title)}</h1></header>"]
    for matrix in tables:
        drawn = _figures([figure for figure in (scatter(matrix), cost(matrix)) if figure])
        parts.append(f"<h2>{prose(', '.join(matrix.facts))}</h2>{_table(cells(matrix))}{drawn}")
    curves = (("Robust accuracy over shots", over_shots(tables)), ("Robust accuracy over the radius", over_eps(tables)))
    parts += [f"<h2>{heading}</h2>{_figures(figures)}" for heading, figures in curves if figures]
    parts.append("<footer>Made by ironclip. This page is one file and loads nothing from elsewhere.</footer></main>")
    head = "<meta charset='utf-8'><meta name='viewport' content='width=device-width, initial-scale=1'>"
    head += f"<meta name='color-scheme' content='light dark'><title>{html(title)}</title><style>{_sheet()}{STYLE}</style>"
    return f"<!doctype html><html lang='en'><head>{head}</head><body>{''.join(parts)}</body></html>"


def _sheet() -> str:
    """The style of all reports."""
    return (files("ironclip.report") / "templates" / "report.css").read_text(encoding="utf-8")


def _figures(figures: Sequence[Figure]) -> str:
    drawn = (f"<figure>{one.svg}<figcaption>{prose(one.title)}</figcaption></figure>" for one in figures)
    return f"<div class='charts'>{''.join(drawn)}</div>"


def _table(grid: Grid) -> str:
    caption = f"<p class='caption'>{prose(grid.caption)}</p>"
    label = html(f"Table: {grid.caption}"[:120])
    scrolls = f"<div class='scroll' tabindex='0' role='region' aria-label='{label}'>"
    return f"{scrolls}{web.table(grid)}</div>{caption}"
