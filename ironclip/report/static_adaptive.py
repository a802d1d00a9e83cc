"""What a defence reports about itself beside what an attacker who knows it leaves, as one self-contained figure.

A pair needs both numbers on the same data sets: static (images made without the defence) and attacked (the lowest of white-box
and adaptive). A trained defence that has no static number reports the white-box one, beside its adaptive one. Over several data
sets the images are counted together.
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

SIDES = (("static", ("white-box", "adaptive")), ("white-box", ("adaptive",)))
"""What is reported, and what it stands beside; the first pair that a method has."""
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
    """The two numbers of one method in one setting (backbone and radius), over the same data sets.

    Args:
        knowledge: of the attacker whose number is reported: "static" or "white-box".
    """

    method: str
    setting: str
    data: tuple[str, ...]
    knowledge: str
    reported: Proportion
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
    """The methods with both numbers, by setting and falling reported number.

    Of several reported numbers on one data set the one of most images counts, of several attacked ones the lowest.

    Raises:
        UsageError: no method has both.
    """
    groups: dict[tuple[str, str], list[Found]] = {}
    for each in found:
        groups.setdefault((each.setting, each.method), []).append(each)
    made = [pair for many in groups.values() if (pair := _paired(many)) is not None]
    if not made:
        raise UsageError("no method has both a static and a white-box or adaptive number, or both of these, on one data set")
    return sorted(made, key=lambda pair: (pair.setting, -pair.reported.value, -pair.attacked.value, pair.method))


def _paired(many: Sequence[Found]) -> Pair | None:
    for knowledge, against in SIDES:
        both = {}
        for data in sorted({each.data for each in many}):
            here = [each for each in many if each.data == data]
            reported = [each for each in here if each.knowledge == knowledge]
            attacked = [each for each in here if each.knowledge in against]
            if reported and attacked:
                most = max(reported, key=lambda one: (one.images, -one.count))
                both[data] = most, min(attacked, key=lambda one: (one.count / one.images, -one.images))
        if both:
            sides = [_together(side) for side in zip(*both.values(), strict=True)]
            return Pair(many[0].method.removeprefix("zero_shot+"), many[0].setting, tuple(both), knowledge, *sides)
    return None


def picture(shown: Sequence[Pair]) -> str:
    """One SVG: for each setting a panel, for each method a line from its static to its attacked number."""
    settings = list(dict.fromkeys(pair.setting for pair in shown))
    highest = max(max(pair.reported.high, pair.attacked.high) for pair in shown)
    ticks = nice_ticks(0, min(100.0, 100 * highest))
    left = 24 + LETTER * max(len(_name(pair)) for pair in shown)
    scale = (WIDTH - RIGHT - left) / ticks[-1]
    parts: list[str] = []
    top = 0
    for setting in settings:
        rows = [pair for pair in shown if pair.setting == setting]
        parts += _panel(rows, setting, top, left, scale, ticks)
        top += HEAD + STEP * len(rows) + 34
    size = f'viewBox="0 0 {WIDTH} {top}" width="{WIDTH}" height="{top}"'
    label = "Robust accuracy of each defence: as it reports itself, and under an attack that knows it"
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
        _text(32, top + 48.5, _legend(rows), "start", SOFT),
        _marker(462, top + 44, COLORS[1]),
        _text(472, top + 48.5, "left under an attack that knows it", "start", SOFT),
    ]
    for tick in ticks:
        x = left + scale * tick
        parts.append(f'<line x1="{x:.1f}" x2="{x:.1f}" y1="{top + HEAD - 10}" y2="{bottom}" stroke="{RULE}"/>')
        parts.append(_text(x, bottom + 17, f"{tick:g}", "middle", SOFT))
    parts.append(_text(WIDTH - RIGHT + 14, bottom + 17, "robust %", "start", SOFT))
    for place, pair in enumerate(rows):
        y = top + HEAD + STEP * place + 6.0
        ends = [left + 100 * scale * side.value for side in (pair.reported, pair.attacked)]
        color = MUTED if pair.method == "zero_shot" else INK
        parts += [
            _text(left - 14, y + 4.5, _name(pair), "end", color),
            f'<line x1="{ends[0]:.1f}" x2="{ends[1]:.1f}" y1="{y}" y2="{y}" stroke="{MUTED}" stroke-width="1.5"/>',
            _whisker(pair.reported, left, scale, y - 5, COLORS[0]),
            _whisker(pair.attacked, left, scale, y + 5, COLORS[1]),
            _marker(ends[0], y, COLORS[0], hollow=True, tip=f"{pair.method}, {pair.knowledge}: {pair.reported}"),
            _marker(ends[1], y, COLORS[1], tip=f"{pair.method}, attacked: {pair.attacked}"),
            _text(
                WIDTH - RIGHT + 14, y + 4.5, f"{percent(pair.reported.value)} → {percent(pair.attacked.value)}", "start", color
            ),
        ]
    return parts


def _name(pair: Pair) -> str:
    return "no defence" if pair.method == "zero_shot" else pair.method


def _legend(rows: Sequence[Pair]) -> str:
    said = {"static": "static, images made without the defence", "white-box": "white-box, an attack on its answer alone"}
    kinds = [said[kind] for kind in said if any(pair.knowledge == kind for pair in rows)]
    return "as it reports itself: " + ("; ".join(kinds) if len(kinds) == 1 else "static, or white-box where trained")


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
