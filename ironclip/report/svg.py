"""A line chart as inline SVG, written by hand: no plotting library, no script, colours that follow the page.

Colours are CSS variables of the page with fallbacks, so a chart also stands alone. Lines differ in dashes and markers too,
for readers who do not see the colours.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from ironclip.core.escapes import html
from ironclip.report.svg_labels import beside

WIDTH, HEIGHT = 480, 340
LEFT, RIGHT, BOTTOM = 52, 14, 46
LETTER = 7.4
"""Mean width of a letter at the font size of the legend, on the generous side."""

COLORS = ("#0b6bb8", "#c2500a", "#0a8065", "#8d4fb0", "#a07400", "#4a5560")
MUTED = "#767c85"
Scale = Callable[[float], float]
DASHES = ("", "7 4", "2 3", "9 3 2 3", "5 5", "1 4")
MARKERS = (
    (),
    ((-3.5, -3.5), (3.5, -3.5), (3.5, 3.5), (-3.5, 3.5)),
    ((0, -4.8), (4.6, 3.4), (-4.6, 3.4)),
    ((0, -5), (5, 0), (0, 5), (-5, 0)),
    ((0, 4.8), (4.6, -3.4), (-4.6, -3.4)),
    ((-4.5, -4.5), (4.5, -4.5), (-4.5, 4.5), (4.5, 4.5)),
    ((-4.5, -4.5), (4.5, 4.5), (4.5, -4.5), (-4.5, 4.5)),
)
"""Corners of the markers around their point; none: a circle. One more than dashes, so that the same two meet after 42 lines."""


@dataclass(frozen=True)
class Series:
    """A line through (x, y), with an optional band (x, low, high). A point that is not finite leaves a gap."""

    name: str
    points: tuple[tuple[float, float], ...]
    band: tuple[tuple[float, float, float], ...] = ()
    muted: bool = False


@dataclass(frozen=True)
class Tick:
    at: float
    text: str


@dataclass(frozen=True)
class Mark:
    """A vertical dashed line with words."""

    x: float
    text: str


def chart(
    lines: Sequence[Series],
    *,
    x_ticks: Sequence[Tick],
    y_ticks: Sequence[Tick],
    x_range: tuple[float, float],
    x_label: str,
    y_label: str,
    title: str,
    marks: Sequence[Mark] = (),
    beside_points: bool = False,
) -> str:
    """The chart. Every point carries its numbers in a <title>, which browsers show as a tooltip.

    Args:
        beside_points: a scatter: each name stands beside the first point of its line, and there is no legend.
        y_ticks: the lowest and the highest one are the range of the y axis.
        title: what a screen reader says.
    """
    looks = _looks(lines)
    legend, rows = ([], 0) if beside_points else _legend(lines, looks)
    top = 38 + 18 * rows
    low, high = x_range if x_range[1] > x_range[0] else (x_range[0] - 0.5, x_range[0] + 0.5)
    bottom, ceiling = y_ticks[0].at, y_ticks[-1].at

    def across(x: float) -> float:
        return LEFT + (x - low) / (high - low) * (WIDTH - LEFT - RIGHT)

    def down(y: float) -> float:
        return HEIGHT - BOTTOM - (y - bottom) / (ceiling - bottom) * (HEIGHT - BOTTOM - top)

    parts = [
        f'<svg class="chart" viewBox="0 0 {WIDTH} {HEIGHT}" role="img" '
        f'font-family="system-ui, sans-serif" font-size="13" aria-label="{html(title)}">',
        f"<title>{html(title)}</title>",
        _text(2, 13, y_label, "start"),
        *legend,
    ]
    for tick in y_ticks:
        y = down(tick.at)
        parts.append(_line(LEFT, y, WIDTH - RIGHT, y, "--grid", "#d9dde2"))
        parts.append(_text(LEFT - 8, y + 4.5, tick.text, "end"))
    parts.append(_line(LEFT, down(bottom), WIDTH - RIGHT, down(bottom), "--axis", "#8a9099"))
    edge = -math.inf
    for tick in x_ticks:
        x = across(tick.at)
        parts.append(_line(x, down(bottom), x, down(bottom) + 5, "--axis", "#8a9099"))
        if x - edge >= LETTER * (len(tick.text) + 1):
            parts.append(_text(x, down(bottom) + 19, tick.text, "middle"))
            edge = x
    parts.append(_text((LEFT + WIDTH - RIGHT) / 2, HEIGHT - 6, x_label, "middle"))
    for mark in marks:
        x = across(mark.x)
        anchor, shift = ("start", 5) if x < WIDTH / 2 else ("end", -5)
        parts.append(_line(x, top, x, down(bottom), "--bad", "#b3261e").replace("<line", '<line stroke-dasharray="4 3"'))
        parts.append(_text(x + shift, top + 12, mark.text, anchor, "--bad", "#b3261e"))
    for line, look in zip(lines, looks):
        parts += _band(line, look, across, down)
    for line, look in zip(lines, looks):
        parts += _drawn(line, look, across, down)
    if beside_points:
        spots = [(across(line.points[0][0]), down(line.points[0][1])) for line in lines]
        places = beside(spots, [LETTER * len(line.name) for line in lines], (LEFT, top, WIDTH - RIGHT, HEIGHT - BOTTOM))
        parts += [_text(x, y, line.name, "start") for line, (x, y) in zip(lines, places)]
    return "\n".join([*parts, "</svg>"])


def alone(charts: Sequence[str], margin: int = 20) -> str:
    """One SVG that stands alone, the charts one below the other on white.

    Args:
        margin: room at the right for a last tick that is wider than what a chart leaves for it.
    """
    placed = []
    for number, drawn in enumerate(charts):
        place = f'<svg y="{HEIGHT * number}" width="{WIDTH}" height="{HEIGHT}" overflow="visible" '
        placed.append(drawn.replace("<svg ", place, 1))
    wide, high = WIDTH + margin, HEIGHT * len(charts)
    size = f'viewBox="0 0 {wide} {high}" width="{wide}" height="{high}"'
    paper = '<rect width="100%" height="100%" fill="#fff"/>'
    return f'<svg xmlns="http://www.w3.org/2000/svg" {size}>{paper}{"".join(placed)}</svg>\n'


def nice_ticks(low: float, high: float, count: int = 5) -> list[float]:
    """Round values, about `count` of them, from at most `low` to at least `high`."""
    span = (high - low) or 1.0
    raw = span / count
    power = 10.0 ** math.floor(math.log10(raw))
    step = next(factor * power for factor in (1, 2, 2.5, 5, 10) if factor * power >= raw * 0.999)
    first, last = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
    return [place * step for place in range(first, max(last, first + 1) + 1)]


def number(value: float) -> str:
    """A tick in as few digits as it needs."""
    return f"{value:.6g}"


@dataclass(frozen=True)
class _Look:
    """How a line looks: a colour by the page's variable or its fallback, dashes, and a marker."""

    variable: str
    color: str
    dashes: str
    corners: tuple[tuple[float, float], ...]

    def style(self, what: str) -> str:
        return f'{what}="{self.color}" style="{what}:var({self.variable}, {self.color})"'

    @property
    def stroke(self) -> str:
        dashes = f' stroke-dasharray="{self.dashes}"' if self.dashes else ""
        return f'fill="none" {self.style("stroke")} stroke-width="2.2" stroke-linejoin="round"{dashes}'

    def marker(self, x: float, y: float, tip: str) -> str:
        style, title = self.style("fill"), f"<title>{html(tip)}</title>"
        if self.corners:
            points = " ".join(f"{x + right:.1f},{y + down:.1f}" for right, down in self.corners)
            return f'<polygon points="{points}" {style}>{title}</polygon>'
        return f'<circle cx="{x:.1f}" cy="{y:.1f}" r="3.8" {style}>{title}</circle>'


def _looks(lines: Sequence[Series]) -> list[_Look]:
    """Colours, dashes and markers in turn; muted lines share their colour alone. No two of 24 lines look alike in grey."""
    looks, counts = [], {True: 0, False: 0}
    for line in lines:
        place = counts[line.muted]
        counts[line.muted] += 1
        turn = place % len(COLORS)
        if line.muted:  # shifted, so that they differ from the coloured ones in grey, too
            shifted = DASHES[(place + 1) % len(DASHES)], MARKERS[(place + 4) % len(MARKERS)]
            looks.append(_Look("--muted", MUTED, *shifted))
        else:
            looks.append(_Look(f"--line{turn}", COLORS[turn], DASHES[turn], MARKERS[place % len(MARKERS)]))
    return looks


def _legend(lines: Sequence[Series], looks: Sequence[_Look]) -> tuple[list[str], int]:
    """A sample of each line and its name, in as many rows as they need."""
    parts, x, row = [], 2.0, 0
    for line, look in zip(lines, looks):
        width = 34 + LETTER * len(line.name) + 14
        if x > 2 and x + width > WIDTH:
            x, row = 2.0, row + 1
        y = 34 + 18 * row
        parts.append(f'<line x1="{x:.1f}" x2="{x + 28:.1f}" y1="{y}" y2="{y}" {look.stroke}/>')
        parts.append(look.marker(x + 14, y, line.name))
        parts.append(_text(x + 34, y + 4.5, line.name, "start"))
        x += width
    return parts, row + 1


def _drawn(line: Series, look: _Look, across: Scale, down: Scale) -> list[str]:
    """A line with its markers; a stretch of points between two gaps is one polyline."""
    parts = [f'<g class="series" data-name="{html(line.name)}">']
    for run in _runs(line.points):
        corners = " ".join(f"{across(x):.1f},{down(y):.1f}" for x, y in run)
        parts.append(f'<polyline points="{corners}" {look.stroke}/>')
    finite = [(x, y) for x, y in line.points if math.isfinite(y)]
    if len(finite) <= 20 or not _runs(line.points):
        parts += [look.marker(across(x), down(y), f"{line.name}: {y:.4g}") for x, y in finite]
    return [*parts, "</g>"]


def _band(line: Series, look: _Look, across: Scale, down: Scale) -> list[str]:
    band = [(across(x), down(low), down(high)) for x, low, high in line.band if math.isfinite(low + high)]
    if len(band) < 2:
        return []
    outline = [(x, high) for x, _, high in band] + [(x, low) for x, low, _ in reversed(band)]
    corners = " ".join(f"{x:.1f},{y:.1f}" for x, y in outline)
    return [f'<polygon class="band" points="{corners}" {look.style("fill")} fill-opacity="0.16" stroke="none"/>']


def _runs(points: Sequence[tuple[float, float]]) -> list[list[tuple[float, float]]]:
    """The stretches of at least two finite points."""
    runs: list[list[tuple[float, float]]] = [[]]
    for point in points:
        if math.isfinite(point[1]):
            runs[-1].append(point)
        elif runs[-1]:
            runs.append([])
    return [run for run in runs if len(run) > 1]


def _line(x1: float, y1: float, x2: float, y2: float, variable: str, color: str) -> str:
    where = f'x1="{x1:.1f}" y1="{y1:.1f}" x2="{x2:.1f}" y2="{y2:.1f}"'
    return f'<line {where} stroke="{color}" style="stroke:var({variable}, {color})"/>'


def _text(x: float, y: float, text: str, anchor: str, variable: str = "--ink", color: str = "#30363d") -> str:
    style = f'fill="{color}" style="fill:var({variable}, {color})"'
    return f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}" {style}>{html(text)}</text>'
