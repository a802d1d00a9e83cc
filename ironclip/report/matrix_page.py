"""The tables of `matrix` with their figures as one self-contained HTML page: no script, nothing loaded from elsewhere."""

from collections.abc import Sequence
from html import escape

from ironclip.report.formats import Grid
from ironclip.report.matrix import Matrix
from ironclip.report.matrix_figures import Figure, cost, over_eps, over_shots, scatter
from ironclip.report.matrix_tables import cells

STYLE = """
:root { --ink: #1d2329; --muted: #767c85; --grid: #d9dde2; --page: #fff; --best: #0b6bb8; }
@media (prefers-color-scheme: dark) { :root { --ink: #e6e8ea; --muted: #9aa1a9; --grid: #3a4148; --page: #14181c; --best: #6db3ee; } }
body { margin: 0 auto; max-width: 72rem; padding: 1rem; color: var(--ink); background: var(--page); font: 16px/1.5 system-ui, sans-serif; }
h1 { font-size: 1.5rem; } h2 { font-size: 1.15rem; margin-top: 2.2rem; }
.wide { overflow-x: auto; }
table { border-collapse: collapse; font-size: 0.85rem; font-variant-numeric: tabular-nums; }
th, td { padding: 0.25rem 0.6rem; text-align: right; white-space: nowrap; border-bottom: 1px solid var(--grid); }
th:first-child, td:first-child { text-align: left; position: sticky; left: 0; background: var(--page); max-width: 14rem; overflow: hidden; text-overflow: ellipsis; }
.group th { text-align: center; border-bottom: 0; } .best { font-weight: 700; color: var(--best); } small, .caption { color: var(--muted); }
.figures { display: grid; grid-template-columns: repeat(auto-fit, minmax(min(100%, 24rem), 1fr)); gap: 1.5rem; } figure { margin: 0; } svg { width: 100%; height: auto; }
"""  # noqa: E501


def matrix_page(tables: Sequence[Matrix], *, title: str = "Results") -> str:
    """The whole page: every table, its scatter of robust over clean accuracy and its cost, then curves over shots and radii."""
    parts = [f"<h1>{escape(title)}</h1>"]
    for matrix in tables:
        drawn = _figures([figure for figure in (scatter(matrix), cost(matrix)) if figure])
        parts.append(f"<h2>{escape(', '.join(matrix.facts))}</h2>{_table(cells(matrix))}{drawn}")
    curves = (("Robust accuracy over shots", over_shots(tables)), ("Robust accuracy over the radius", over_eps(tables)))
    parts += [f"<h2>{heading}</h2>{_figures(figures)}" for heading, figures in curves if figures]
    head = "<meta charset='utf-8'><meta name='viewport' content='width=device-width, initial-scale=1'>"
    head += f"<title>{escape(title)}</title><style>{STYLE}</style>"
    return f"<!doctype html><html lang='en'><head>{head}</head><body>{''.join(parts)}</body></html>"


def _figures(figures: Sequence[Figure]) -> str:
    drawn = (f"<figure>{one.svg}<figcaption class='caption'>{escape(one.title)}</figcaption></figure>" for one in figures)
    return f"<div class='figures'>{''.join(drawn)}</div>"


def _table(grid: Grid) -> str:
    head = "".join(f"<th>{escape(title)}</th>" for title in grid.head)
    body = []
    for line in grid.body:
        written = []
        for cell in line:
            extra = " ".join(part for part in (cell.interval, cell.note) if part)
            small = f" <small>{escape(extra)}</small>" if extra else ""
            best = " class='best'" if cell.rank == 1 else ""
            written.append(f"<td{best} title='{escape(cell.text)}'>{escape(cell.text)}{small}</td>")
        body.append(f"<tr>{''.join(written)}</tr>")
    caption = f"<p class='caption'>{escape(grid.caption)}</p>"
    return f"<div class='wide'><table><thead><tr>{head}</tr></thead><tbody>{''.join(body)}</tbody></table></div>{caption}"
