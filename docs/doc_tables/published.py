"""What the papers print about methods that were measured here, in one line each."""

import re
from collections.abc import Iterable

from doc_tables.reading import stored, table
from ironclip.report.published import Printed, printed


def clean_beside(robust: Printed) -> str:
    """The clean accuracy of the same paper, backbone and data, or a dash."""
    place = (robust.paper, robust.method, robust.backbone, robust.weights, robust.dataset)
    for row in printed():
        if row.metric == "clean_acc" and (row.paper, row.method, row.backbone, row.weights, row.dataset) == place:
            return f"{row.value:g}"
    return "–"


def widest(method: str) -> Printed | None:
    """The robust accuracy over most data sets, if possible in the method's own paper; None: no accuracy of it was read."""

    def order(row: Printed) -> tuple[bool | int, ...]:
        sets = re.match(r"mean of (\d+)", row.dataset)
        own, named = row.paper.startswith(row.printed_as), row.backbone != ""
        return own, row.knowledge != "adaptive", named, int(sets[1]) if sets else 0, row.weights == "openai"

    rows = [row for row in printed() if row.method == method and row.metric == "robust_acc"]
    return max(rows, key=order, default=None)


def as_printed(methods: Iterable[str]) -> str:
    """Each method with the widest figure that a paper prints of it."""
    lines = []
    for method in methods:
        row = widest(method)
        if row is None:
            lines.append([method, "no accuracy was read", *["–"] * 6])
            continue
        tower = row.backbone + (f", {row.weights}" if row.weights not in ("", "openai") else "")
        attack = row.attack + (", static" if row.knowledge == "static" else "")
        source = row.paper.split(" (")[0] + ("" if row.read_in == "paper" else " (in a summary)")
        lines.append(
            [method, source, tower or "–", row.dataset, row.eps or "–", attack or "–", clean_beside(row), f"{row.value:g}"]
        )
    return table(["method", "printed by", "backbone", "data", "radius", "attack", "clean %", "robust %"], lines)


def recent_trained_printed() -> str:
    """The trained defences of 2025 and 2026."""
    named = (line["method"].split(" ")[0] for line in stored("recent-trained"))
    return as_printed(name for name in dict.fromkeys(named) if name != "zero_shot")
