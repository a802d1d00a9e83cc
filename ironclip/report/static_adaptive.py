"""Static robust accuracy beside that under attacks on the defence, as one self-contained figure.

A pair needs both numbers on the same data sets: static (images made without the defence) and attacked (the lowest of white-box
and adaptive). Over several data sets the images are counted together.
"""

import csv
import io
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from ironclip.core.errors import DataError, UsageError
from ironclip.core.escapes import html
from ironclip.records.record import Proportion
from ironclip.report.svg import COLORS, LETTER, MUTED, nice_ticks
from ironclip.report.tables import Row, percent

KNOWN = ("white-box", "adaptive")
NEEDED = ("method", "data", "backbone", "eps", "threat", "robust", "images")
WIDTH, STEP, HEAD, RIGHT = 760, 27, 78, 96
INK, SOFT, RULE = "#1c2126", "#59636e", "#dde2e7"


@dataclass(frozen=True)
class Found:
    """One measured number: of which method, on which data, and what its attacker knew."""

    method: str
    data: str
    setting: str
    knowledge: str
    count: int
    images: int


@dataclass(frozen=True)
class Pair:
    """The two numbers of one method in one setting (backbone and radius), over the same data sets."""

    method: str
    setting: str
    data: tuple[str, ...]
    static: Proportion
    attacked: Proportion


def of_rows(table: Iterable[Row]) -> list[Found]:
    """What the rows of a report say; a row that is not trusted says nothing."""
    rows = [row for row in table if row.note != "not trusted"]
    return [
        Found(row.method, row.data, f"{row.backbone}, {row.eps}", _knowledge(row.threat), row.robust.count, row.images)
        for row in rows
    ]


def of_csv(text: str, name: str) -> list[Found]:
    """The same from a table that `ironclip report --csv` wrote.

    Raises:
        DataError: it is no such table.
    """
    lines = list(csv.DictReader(io.StringIO(text)))
    if not lines or not all(key in lines[0] for key in NEEDED):
        raise DataError(f"{name} is no table of `ironclip report --csv`: it needs the columns {', '.join(NEEDED)}")
    try:
        return [
            Found(line["method"], line["data"], f"{line['backbone']}, {line['eps']}", _knowledge(line["threat"]),
                  round(float(line["robust"]) * int(line["images"])), int(line["images"]))
            for line in lines if line["robust"] and line.get("note") != "not trusted"
        ]  # fmt: skip
    except (ValueError, TypeError):
        raise DataError(f"{name} is no table of `ironclip report --csv`: robust and images must be numbers") from None


def pairs(found: Iterable[Found]) -> list[Pair]:
    """The methods with both numbers, by setting and falling static number.

    Of several static numbers on one data set the one of most images counts, of several attacked ones the lowest.

    Raises:
        UsageError: no method has both.
    """
    groups: dict[tuple[str, str], dict[str, tuple[list[Found], list[Found]]]] = {}
    for each in found:
        static, attacked = groups.setdefault((each.setting, each.method), {}).setdefault(each.data, ([], []))
        if each.knowledge == "static":
            static.append(each)
        elif each.knowledge in KNOWN:
            attacked.append(each)
    made = []
    for (setting, method), sets in groups.items():
        both = {data: sides for data, sides in sets.items() if all(sides)}
        if both:
            reported = [max(static, key=lambda one: (one.images, -one.count)) for static, _ in both.values()]
            left = [min(attacked, key=lambda one: (one.count / one.images, -one.images)) for _, attacked in both.values()]
            made.append(
                Pair(method.removeprefix("zero_shot+"), setting, tuple(sorted(both)), _together(reported), _together(left))
            )
    if not made:
        raise UsageError("no method has both a static and a white-box or adaptive number on one data set")
    return sorted(made, key=lambda pair: (pair.setting, -pair.static.value, -pair.attacked.value, pair.method))


def picture(shown: Sequence[Pair]) -> str:
    """One SVG: for each setting a panel, for each method a line from its static to its attacked number."""
    settings = list(dict.fromkeys(pair.setting for pair in shown))
    highest = max(max(pair.static.high, pair.attacked.high) for pair in shown)
    ticks = nice_ticks(0, min(100.0, 100 * highest))
    left = 24 + LETTER * max(len(pair.method) for pair in shown)
    scale = (WIDTH - RIGHT - left) / ticks[-1]
    parts: list[str] = []
    top = 0
    for setting in settings:
        rows = [pair for pair in shown if pair.setting == setting]
        parts += _panel(rows, setting, top, left, scale, ticks)
        top += HEAD + STEP * len(rows) + 34
    size = f'viewBox="0 0 {WIDTH} {top}" width="{WIDTH}" height="{top}"'
    label = "Robust accuracy of each defence: on images made without it, and under an attack on it"
    head = f'<svg xmlns="http://www.w3.org/2000/svg" {size} role="img" aria-label="{label}" '
    head += 'font-family="system-ui, sans-serif" font-size="13">'
    return "\n".join([head, f"<title>{label}</title>", '<rect width="100%" height="100%" fill="#fff"/>', *parts, "</svg>"]) + "\n"


def _panel(rows: Sequence[Pair], setting: str, top: int, left: float, scale: float, ticks: Sequence[float]) -> list[str]:
    bottom = top + HEAD + STEP * len(rows)
    data = list(dict.fromkeys(pair.data for pair in rows))
    where = ", ".join(data[0]) if len(data) == 1 else f"{min(map(len, data))} to {max(map(len, data))} data sets"
    parts = [
        _text(16, top + 22, f"{setting}; {where}", "start", INK, ' font-weight="600"'),
        _marker(22, top + 44, COLORS[0], hollow=True),
        _text(32, top + 48.5, "static: images made without the defence, as it reports itself", "start", SOFT),
        _marker(462, top + 44, COLORS[1]),
        _text(472, top + 48.5, "left under an attack on the defence", "start", SOFT),
    ]
    for tick in ticks:
        x = left + scale * tick
        parts.append(f'<line x1="{x:.1f}" x2="{x:.1f}" y1="{top + HEAD - 10}" y2="{bottom}" stroke="{RULE}"/>')
        parts.append(_text(x, bottom + 17, f"{tick:g}", "middle", SOFT))
    parts.append(_text(WIDTH - RIGHT + 14, bottom + 17, "robust %", "start", SOFT))
    for place, pair in enumerate(rows):
        y = top + HEAD + STEP * place + 6.0
        ends = [left + 100 * scale * side.value for side in (pair.static, pair.attacked)]
        color = MUTED if pair.method == "zero_shot" else INK
        parts += [
            _text(left - 14, y + 4.5, "no defence" if pair.method == "zero_shot" else pair.method, "end", color),
            f'<line x1="{ends[0]:.1f}" x2="{ends[1]:.1f}" y1="{y}" y2="{y}" stroke="{MUTED}" stroke-width="1.5"/>',
            _whisker(pair.static, left, scale, y - 5, COLORS[0]),
            _whisker(pair.attacked, left, scale, y + 5, COLORS[1]),
            _marker(ends[0], y, COLORS[0], hollow=True, tip=f"{pair.method}, static: {pair.static}"),
            _marker(ends[1], y, COLORS[1], tip=f"{pair.method}, attacked: {pair.attacked}"),
            _text(WIDTH - RIGHT + 14, y + 4.5, f"{percent(pair.static.value)} → {percent(pair.attacked.value)}", "start", color),
        ]
    return parts


def _whisker(side: Proportion, left: float, scale: float, y: float, color: str) -> str:
    low, high = (left + 100 * scale * end for end in (side.low, side.high))
    return f'<line x1="{low:.1f}" x2="{high:.1f}" y1="{y}" y2="{y}" stroke="{color}" stroke-opacity="0.45" stroke-width="2"/>'


def _marker(x: float, y: float, color: str, *, hollow: bool = False, tip: str = "") -> str:
    title = f"<title>{html(tip)}</title>" if tip else ""
    fill = "#fff" if hollow else color
    return f'<circle cx="{x:.1f}" cy="{y:.1f}" r="5" fill="{fill}" stroke="{color}" stroke-width="2">{title}</circle>'


def _text(x: float, y: float, text: str, anchor: str, color: str, extra: str = "") -> str:
    return f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}" fill="{color}"{extra}>{html(text)}</text>'


def _together(many: Sequence[Found]) -> Proportion:
    return Proportion.measured(sum(one.count for one in many), sum(one.images for one in many))


def _knowledge(threat: str) -> str:
    return threat.partition(" ")[0]
