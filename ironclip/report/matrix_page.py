"""The tables of `matrix` with their figures as one self-contained HTML page: no script, nothing loaded from elsewhere."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from html import escape
from statistics import fmean
from typing import Any, Literal

from ironclip.report.formats import Grid
from ironclip.report.matrix import Matrix, Score, Setting
from ironclip.report.matrix_tables import cells
from ironclip.report.svg import Series, Tick, chart, nice_ticks, number
from ironclip.threat import format_eps

PER_CENT = tuple(Tick(float(y), str(y)) for y in range(0, 101, 20))
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
        drawn = "".join(f"<figure>{figure}</figure>" for figure in (scatter(matrix), cost(matrix)) if figure)
        parts.append(f"<h2>{escape(', '.join(matrix.facts))}</h2>{_table(cells(matrix))}<div class='figures'>{drawn}</div>")
    curves = (("Robust accuracy over shots", over_shots(tables)), ("Robust accuracy over the radius", over_eps(tables)))
    for heading, figures in curves:
        if figures:
            drawn = "".join(f"<figure>{figure}</figure>" for figure in figures)
            parts.append(f"<h2>{heading}</h2><div class='figures'>{drawn}</div>")
    head = "<meta charset='utf-8'><meta name='viewport' content='width=device-width, initial-scale=1'>"
    head += f"<title>{escape(title)}</title><style>{STYLE}</style>"
    return f"<!doctype html><html lang='en'><head>{head}</head><body>{''.join(parts)}</body></html>"


def scatter(matrix: Matrix) -> str:
    """Robust over clean accuracy of each method: the average over the data sets, or the only one."""
    points = [(label, score.clean, score.robust) for label in matrix.lines if (score := _overall(matrix, label))]
    named = [(label, 100 * fmean(clean), 100 * fmean(robust)) for label, clean, robust in points]
    return _points(named, "Clean accuracy (per cent)", f"Robust over clean accuracy, {matrix.facts[0]}")


def cost(matrix: Matrix) -> str:
    """Robust accuracy over the seconds of training."""
    named = []
    for label, scores in matrix.lines.items():
        overall = _overall(matrix, label)
        if overall and (seconds := fmean(score.seconds for score in scores.values())) > 0:
            named.append((label, seconds, 100 * fmean(overall.robust)))
    return _points(named, "Training (seconds, mean over data sets)", "Robust accuracy over the time of training")


def over_shots(tables: Sequence[Matrix]) -> list[str]:
    """For each data set measured at several numbers of shots: robust accuracy of each method with the deviation over seeds."""
    figures = []
    for (name, setting), methods in _curves(tables, "shots").items():
        numbers = sorted({shots for values in methods.values() for shots in values})
        if len(numbers) > 1:
            place = {shots: float(at) for at, shots in enumerate(numbers)}
            ticks = [Tick(place[shots], f"{shots:g}") for shots in numbers]
            lines = [
                _line(label, {shots: score.robust for shots, score in scores.items()}, place.__getitem__)
                for label, scores in methods.items()
                if any(score.parameters for score in scores.values())
            ]
            facts = (setting.facts[0], *setting.facts[2:])
            figures.append(_chart(lines, "Shots a class", ticks, (0.0, place[numbers[-1]]), f"{name}, {', '.join(facts)}"))
    return figures


def over_eps(tables: Sequence[Matrix]) -> list[str]:
    """For each data set and attack measured at several radii: robust accuracy of each method, at 0 the clean one."""
    figures = []
    for (name, setting), methods in _curves(tables, "eps").items():
        radii = sorted({eps for scores in methods.values() for eps in scores})
        if len(radii) > 1:
            ticks = [Tick(eps, format_eps(eps)) for eps in (0.0, *radii)]
            lines = [
                _line(
                    label,
                    {0.0: next(iter(scores.values())).clean} | {eps: s.robust for eps, s in scores.items()},
                    lambda eps: eps,
                )
                for label, scores in methods.items()
                if len(scores) > 1
            ]
            shown = (name, setting.backbone, setting.attacks, setting.knowledge, f"{setting.facts[1]} where learned")
            figures.append(_chart(lines, "Attack radius", ticks, (0.0, radii[-1]), ", ".join(shown)))
    return figures


def _curves(tables: Sequence[Matrix], over: Literal["shots", "eps"]) -> dict[tuple[str, Setting], dict[str, dict[float, Score]]]:
    """(data set, the rest of the setting) -> label of a method -> value of one field of the setting -> score."""
    found: dict[tuple[str, Setting], dict[str, dict[float, Score]]] = {}
    fixed = {"shots": None} if over == "shots" else {"eps": 0.0, "radius": ""}
    for matrix in tables:
        at = getattr(matrix.setting, over)
        for label, scores in matrix.lines.items() if at is not None else ():
            for name, score in scores.items():
                place = name, replace(matrix.setting, **fixed)
                found.setdefault(place, {}).setdefault(label, {})[at] = score
    return found


def _overall(matrix: Matrix, label: str) -> Score | None:
    return matrix.average(label) or (next(iter(matrix.lines[label].values()), None) if len(matrix.data) == 1 else None)


def _line(label: str, values: Mapping[Any, tuple[float, ...]], at: Callable[[Any], float]) -> Series:
    points = tuple((at(key), 100 * fmean(values[key])) for key in sorted(values))
    band = tuple((at(key), 100 * min(values[key]), 100 * max(values[key])) for key in sorted(values) if len(values[key]) > 1)
    return Series(label, points, band, muted=label.split(" ")[0] == "zero_shot")


def _points(named: Sequence[tuple[str, float, float]], x_label: str, title: str) -> str:
    """Methods as points, the axes as wide as they need; nothing for fewer than two."""
    if len(named) < 2:
        return ""
    across, up = (nice_ticks(min(values), max(values)) for values in ([x for _, x, _ in named], [y for _, _, y in named]))
    lines = [Series(label, ((x, y),), muted=label.split(" ")[0] == "zero_shot") for label, x, y in named]
    ticks, levels = ([Tick(value, number(value)) for value in values] for values in (across, up))
    return _chart(lines, x_label, ticks, (across[0], across[-1]), title, levels)


def _chart(
    lines: Sequence[Series],
    x_label: str,
    ticks: Sequence[Tick],
    span: tuple[float, float],
    title: str,
    levels: Sequence[Tick] = PER_CENT,
) -> str:
    if not lines:
        return ""
    drawn = chart(
        lines, x_ticks=ticks, y_ticks=levels, x_range=span, x_label=x_label, y_label="Robust accuracy (per cent)", title=title
    )
    return f"{drawn}<figcaption class='caption'>{escape(title)}</figcaption>"


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
