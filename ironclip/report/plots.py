"""Accuracies of records as a matplotlib figure for a paper. Needs the extra `report`; the pages use `svg` and need nothing.

No global state of matplotlib is touched: no pyplot, no backend, no style.
"""

import io
from collections.abc import Sequence
from pathlib import Path

import matplotlib
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from ironclip.core.errors import RunError, UsageError
from ironclip.core.files import disk_errors, write_whole
from ironclip.records.record import Proportion, Record
from ironclip.report.svg import COLORS
from ironclip.report.tables import columns, rows
from ironclip.report.views import Point, RunView, curve, radius, setting, standing

ENDINGS = (".pdf", ".pgf", ".png", ".svg")
FONTS = {"pdf.fonttype": 42, "svg.fonttype": "none"}  # letters stay letters: publishers refuse Type 3 fonts
MARKERS = "osD^vP"


class Drawing(Figure):
    """A figure that a notebook shows as it is, also where pyplot was never imported."""

    def _repr_png_(self) -> bytes:
        picture = io.BytesIO()
        self.savefig(picture, format="png", dpi=144)
        return picture.getvalue()


def figure(records: Sequence[Record]) -> Drawing:
    """Clean and robust accuracy with their 95 % Wilson intervals.

    Over the radius where a classifier was measured at several radii of one norm; else one line per record.

    Raises:
        UsageError: no record.
    """
    if not records:
        raise UsageError("there is nothing to plot: the result holds no record")
    views = _views(records)
    norms = {record.threat.norm for record in records}
    if any(len(view.curve) > 2 for view in views) and len(norms) == 1:
        drawn = Drawing(figsize=(5.2, 3.4), layout="constrained")
        _over_radius(drawn.add_subplot(), views, names(views))
    else:
        views = [RunView(record) for record in records]
        drawn = Drawing(figsize=(5.2, 1.1 + 0.5 * len(views)), layout="constrained")
        _by_record(drawn.add_subplot(), views, names(views))
    return drawn


def save(drawn: Figure, path: Path) -> None:
    """Write the figure, whole or not at all.

    Raises:
        UsageError: another ending than .pdf, .pgf, .png and .svg. RunError: no disk, or .pgf without a TeX system.
    """
    if path.suffix not in ENDINGS:
        raise UsageError(f"a figure is written as {', '.join(ENDINGS)}; got {path.name!r}")
    with disk_errors(path), matplotlib.rc_context(FONTS):
        try:
            write_whole(path, lambda temporary: drawn.savefig(temporary, format=path.suffix[1:], dpi=300))
        except (RuntimeError, FileNotFoundError) as problem:  # matplotlib asks TeX how wide each text is
            if path.suffix != ".pgf":
                raise
            raise RunError(f"cannot write {path}: .pgf needs a TeX system (xelatex); write .pdf instead") from problem


def _views(records: Sequence[Record]) -> list[RunView]:
    """One view for each classifier and kind of attack, with its curve over the radius."""
    groups: dict[str, dict[float, Record]] = {}
    for record in records:
        groups.setdefault(setting(record), {})[record.threat.eps] = record
    largest = [max(found.values(), key=lambda record: record.threat.eps) for found in groups.values()]
    return [RunView(record, curve=curve(found.values())) for record, found in zip(largest, groups.values(), strict=True)]


def names(views: Sequence[RunView]) -> list[str]:
    """The method of each view and, below it, in what it differs from the others: short, for an axis or a legend."""
    table = [rows([view.record])[0] for view in views]
    facts = [column for column in columns(table) if column.title in ("Data", "Backbone", "Shots", "Seed")]
    several = len({view.record.threat.knowledge for view in views}) > 1
    found = []
    for view, row in zip(views, table, strict=True):
        parts: list[str] = [view.record.threat.knowledge] if several else []
        parts += [f"{column.title.lower()} {column.value(row)}" for column in facts]
        parts += ["not trusted"] if standing(view.record) == "not trusted" else []
        found.append(row.method + (f"\n{', '.join(parts)}" if parts else ""))
    return found


def _over_radius(axes: Axes, views: Sequence[RunView], called: Sequence[str]) -> None:
    threat = views[0].record.threat
    for number, (view, name) in enumerate(zip(views, called, strict=True)):
        points: Sequence[Point] = view.curve
        axes.errorbar(
            [point.eps for point in points],
            [100 * point.robust.value for point in points],
            yerr=_reach([point.robust for point in points]),
            label=name, color=COLORS[number % len(COLORS)], marker=MARKERS[number % len(MARKERS)], markersize=4,
            linestyle="--" if view.undefended or standing(view.record) else "-", linewidth=1.3, capsize=2, elinewidth=0.8,
        )  # fmt: skip
    radii = sorted({point.eps for view in views for point in view.curve})
    axes.set_xticks(radii, [radius(threat, eps) for eps in radii])
    axes.set_xlabel(f"Attack radius ({threat.norm}); at 0 the images are clean")
    axes.set_ylabel(f"Accuracy (%){', an upper bound: one loss' if any(view.record.one_loss for view in views) else ''}")
    axes.set_ylim(0, 100)
    axes.grid(alpha=0.25)
    axes.legend(fontsize="small", frameon=False)


def _by_record(axes: Axes, views: Sequence[RunView], called: Sequence[str]) -> None:
    heights = range(len(views) - 1, -1, -1)
    bound = " (upper bound: one loss)" if any(view.record.one_loss for view in views) else ""
    looks = (("clean", "", "o", COLORS[0], 0.12), ("robust", bound, "s", COLORS[1], -0.12))
    for name, remark, marker, color, shift in looks:
        found = [getattr(view.record, name) for view in views]
        axes.errorbar(
            [100 * one.value for one in found], [height + shift for height in heights], xerr=_reach(found),
            label=name + remark, color=color, marker=marker, markersize=5, linestyle="none", capsize=3, elinewidth=1,
        )  # fmt: skip
    radii = dict.fromkeys(f"{view.record.threat.norm} {radius(view.record.threat)}" for view in views)
    several = len(radii) > 1
    labels = [f"{name}, {radius(view.record.threat)}" if several else name for view, name in zip(views, called, strict=True)]
    axes.set_yticks(list(heights), labels)
    axes.set_ylim(-0.6, len(views) - 0.4)
    axes.set_xlim(0, 100)
    axes.set_xlabel(f"Accuracy (%), attacked at {', '.join(radii)}")
    axes.grid(axis="x", alpha=0.25)
    axes.legend(fontsize="small", frameon=False, ncols=2, loc="lower left", bbox_to_anchor=(0, 1))


def _reach(found: Sequence[Proportion]) -> list[list[float]]:
    """How far the intervals reach below and above the values, in per cent."""
    return [[100 * (one.value - one.low) for one in found], [100 * (one.high - one.value) for one in found]]
