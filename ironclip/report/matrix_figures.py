"""The figures of the tables of `matrix`: robust over clean accuracy, its cost, and curves over shots and radii."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from statistics import fmean
from typing import Any, Literal

from ironclip.core.threat import format_eps
from ironclip.report.matrix import Matrix, Score, Setting
from ironclip.report.svg import Series, Tick, chart, nice_ticks, number

PER_CENT = tuple(Tick(float(y), str(y)) for y in range(0, 101, 20))


@dataclass(frozen=True)
class Figure:
    """A chart as SVG, and what it shows in words."""

    title: str
    svg: str


def figures(tables: Sequence[Matrix]) -> list[Figure]:
    """All that the tables give."""
    pairs = [figure for matrix in tables for figure in (scatter(matrix), cost(matrix)) if figure]
    return [*pairs, *over_shots(tables), *over_eps(tables)]


def scatter(matrix: Matrix) -> Figure | None:
    """Robust over clean accuracy of each method: the average over the data sets, or the only one."""
    points = [(label, score.clean, score.robust) for label in matrix.lines if (score := _overall(matrix, label))]
    named = [(label, 100 * fmean(clean), 100 * fmean(robust)) for label, clean, robust in points]
    return _points(named, "Clean accuracy (per cent)", f"Robust over clean accuracy, {', '.join(matrix.facts)}")


def cost(matrix: Matrix) -> Figure | None:
    """Robust accuracy over the seconds of training."""
    named = []
    for label, scores in matrix.lines.items():
        overall = _overall(matrix, label)
        if overall and (seconds := fmean(score.seconds for score in scores.values())) > 0:
            named.append((label, seconds, 100 * fmean(overall.robust)))
    title = f"Robust accuracy over the time of training, {', '.join(matrix.facts)}"
    return _points(named, "Training (seconds, mean over data sets)", title)


def over_shots(tables: Sequence[Matrix]) -> list[Figure]:
    """For each data set measured at several numbers of shots: robust accuracy of each method with its range over seeds."""
    drawn = []
    for (name, setting), methods in _curves(tables, "shots").items():
        numbers = sorted({shots for values in methods.values() for shots in values})
        if len(numbers) > 1:
            place = {shots: float(at) for at, shots in enumerate(numbers)}
            ticks = [Tick(place[shots], f"{shots:g}") for shots in numbers]
            lines = [
                _line(label, {shots: score.robust for shots, score in scores.items()}, place.__getitem__)
                for label, scores in methods.items()
            ]
            facts = (setting.facts[0], *setting.facts[2:])
            drawn.append(_chart(lines, "Shots per class", ticks, (0.0, place[numbers[-1]]), f"{name}, {', '.join(facts)}"))
    return drawn


def over_eps(tables: Sequence[Matrix]) -> list[Figure]:
    """For each data set and attack measured at several radii: robust accuracy of each method, at 0 the clean one."""
    drawn = []
    for (name, setting), methods in _curves(tables, "eps").items():
        several = {label: scores for label, scores in methods.items() if len(scores) > 1}
        radii = sorted({eps for scores in several.values() for eps in scores})
        if several:
            ticks = [Tick(eps, format_eps(eps, setting.norm)) for eps in (0.0, *radii)]
            lines = []
            for label, scores in several.items():
                values = {eps: score.robust for eps, score in scores.items()}
                lines.append(_line(label, {0.0: next(iter(scores.values())).clean, **values}, float))
            shown = (
                name,
                setting.backbone,
                setting.attacks,
                setting.norm,
                setting.knowledge,
                f"{setting.facts[1]} where learned",
            )
            drawn.append(_chart(lines, "Attack radius", ticks, (0.0, radii[-1]), ", ".join(shown)))
    return drawn


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


def _points(named: Sequence[tuple[str, float, float]], x_label: str, title: str) -> Figure | None:
    """Methods as points, the axes as wide as they need; None for fewer than two."""
    if len(named) < 2:
        return None
    across, up = (nice_ticks(min(values), max(values)) for values in ([x for _, x, _ in named], [y for _, _, y in named]))
    lines = [Series(label, ((x, y),), muted=label.split(" ")[0] == "zero_shot") for label, x, y in named]
    ticks, levels = ([Tick(value, number(value)) for value in values] for values in (across, up))
    return _chart(lines, x_label, ticks, (across[0], across[-1]), title, levels, beside_points=True)


def _chart(
    lines: Sequence[Series],
    x_label: str,
    ticks: Sequence[Tick],
    span: tuple[float, float],
    title: str,
    levels: Sequence[Tick] = PER_CENT,
    beside_points: bool = False,
) -> Figure:
    drawn = chart(
        lines,
        x_ticks=ticks,
        y_ticks=levels,
        x_range=span,
        x_label=x_label,
        y_label="Robust accuracy (per cent)",
        title=title,
        beside_points=beside_points,
    )
    return Figure(title, drawn)
