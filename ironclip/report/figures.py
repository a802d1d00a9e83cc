"""The charts of a report: loss terms and logged numbers by epoch, and robust accuracy by radius."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

from ironclip.core.shown import number_of
from ironclip.report.svg import Mark, Series, Tick, chart, nice_ticks, number
from ironclip.report.views import RunView, radius


def training_curve(log: Sequence[Mapping[str, Any]]) -> str:
    """Mean of each loss term by epoch as inline SVG; a dashed line where training collapsed. Empty without epochs."""
    epochs = [entry for entry in log if entry.get("event") == "epoch" and entry.get("terms")]
    if not epochs:
        return ""
    lines = _lines(epochs, "terms")
    if len(lines) > 1:
        sums = [(float(entry["epoch"]), float(sum(entry["terms"].values()))) for entry in epochs]
        lines.insert(0, Series("sum of terms", tuple(sums)))
    title = f"Training loss over {number_of(len(epochs), 'epoch')}"
    return _by_epoch(lines, epochs, y_label="Loss (nats, mean over images)", title=title)


def diagnostic_curve(log: Sequence[Mapping[str, Any]]) -> str:
    """Mean of each number that the method logged beside its loss, by epoch, as inline SVG. Empty where there is none."""
    epochs = [entry for entry in log if entry.get("event") == "epoch" and entry.get("diagnostics")]
    if not epochs:
        return ""
    return _by_epoch(_lines(epochs, "diagnostics"), epochs, y_label="Mean over images", title="Logged numbers by epoch")


def _lines(epochs: Sequence[Mapping[str, Any]], what: str) -> list[Series]:
    """One line for each name found in this part of the entries."""
    lines = []
    for name in dict.fromkeys(name for entry in epochs for name in entry[what]):
        values = [(float(entry["epoch"]), entry[what].get(name)) for entry in epochs]
        lines.append(Series(_term(name), tuple((x, math.nan if y is None else float(y)) for x, y in values)))
    return lines


def _by_epoch(lines: Sequence[Series], epochs: Sequence[Mapping[str, Any]], *, y_label: str, title: str) -> str:
    heights = [y for line in lines for _, y in line.points if math.isfinite(y)]
    first, last = epochs[0]["epoch"], epochs[-1]["epoch"]
    every = max(1, math.ceil((last - first + 1) / 10))
    steps = sorted({first, *range(every * math.ceil(first / every), last + 1, every)})
    return chart(
        lines,
        x_ticks=[Tick(float(epoch), str(epoch)) for epoch in steps],
        y_ticks=[Tick(y, number(y)) for y in nice_ticks(min([0.0, *heights]), max([0.0, *heights]))],
        x_range=(float(first), float(last)),
        x_label="Epoch",
        y_label=y_label,
        marks=_collapses(epochs),
        title=title,
    )


def eps_curve(views: Sequence[RunView], names: Sequence[str] | None = None) -> str:
    """Robust accuracy by radius with Wilson bands, one line per view with a curve; radius 0 is clean accuracy.

    Args:
        names: what the lines are called; default: the methods. Views of one norm only.
    """
    called = names or [view.record.method for view in views]
    drawn = [(view, name) for view, name in zip(views, called, strict=True) if view.curve]
    if not drawn:
        return ""
    lines = []
    for view, name in drawn:
        points = tuple((point.eps, 100 * point.robust.value) for point in view.curve)
        band = tuple((point.eps, 100 * point.robust.low, 100 * point.robust.high) for point in view.curve)
        lines.append(Series(name, points, band, muted=view.undefended))
    radii = sorted({point.eps for view, _ in drawn for point in view.curve})
    threat = drawn[0][0].record.threat
    written = [radius(threat, eps) for eps in radii]
    if all(text.endswith("/255") or text == "0" for text in written):
        unit, written = "1/255 of full brightness", [text.removesuffix("/255") for text in written]
    else:
        unit = "unit of pixels in [0, 1]"
    return chart(
        lines,
        x_ticks=[Tick(eps, text) for eps, text in zip(radii, written)],
        y_ticks=[Tick(float(y), str(y)) for y in range(0, 101, 20)],
        x_range=(0.0, radii[-1]),
        x_label=f"Attack radius ({threat.norm}, {unit})",
        y_label="Accuracy (per cent)",
        title="Robust accuracy over the attack radius; at 0 the images are clean",
    )


def _term(name: str) -> str:
    """Names of loss terms in words where they are the usual ones."""
    words = {"ce": "cross-entropy", "kl": "KL divergence"}
    head, _, tail = name.rpartition("_")
    return f"{head.replace('_', ' ')} {words[tail]}".strip() if tail in words else name.replace("_", " ")


def _collapses(epochs: Sequence[Mapping[str, Any]]) -> list[Mark]:
    first = next((entry["epoch"] for entry in epochs if "collapse" in entry.get("flags", ())), None)
    return [] if first is None else [Mark(float(first), f"collapse, epoch {first}")]
