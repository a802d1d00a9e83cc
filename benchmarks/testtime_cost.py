"""What an image costs under R-TPT and A-TPT, by views, classes and images at once; processor seconds of one thread.

    python -m benchmarks.testtime_cost --csv cost.csv --svg cost.svg

Architecture `small` of this folder, random weights, views made from random images, whole answers. One of the three is varied,
the others stay at 16 views, 10 classes and 4 images at once.
"""

import argparse
import csv
import io
import math
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import torch

from benchmarks import harness, plain
from ironclip.backbones import assemble
from ironclip.core.files import write_text
from ironclip.report.svg import Series, Tick, alone, chart
from ironclip.testtime import build

METHODS = {"R-TPT": ("rtpt", {}), "A-TPT": ("atpt", {}), "A-TPT, code": ("atpt", {"variant": "code"})}
USUAL = {"views": 16, "classes": 10, "batch": 4}
AXES = {"views": (8, 16, 32, 64), "classes": (10, 100, 1000), "batch": (1, 2, 4, 8)}
MARGIN = 16
WORDS = {"views": "views V", "classes": "classes C", "batch": "images at once B"}


@dataclass(frozen=True)
class Point:
    """Seconds per image, the least of the rounds."""

    method: str
    varied: str
    views: int
    classes: int
    batch: int
    seconds: float


def measure(rounds: int = 2, axes: dict[str, tuple[int, ...]] = AXES, architecture: str = "small") -> list[Point]:
    """All points, an axis at a time; points that two axes share are measured once."""
    known: dict[tuple[str, int, int, int], float] = {}
    points = []
    for varied, values in axes.items():
        for value in values:
            for method in METHODS:
                setting = USUAL | {varied: value}
                at = (method, setting["views"], setting["classes"], setting["batch"])
                if at not in known:
                    known[at] = _seconds(architecture, *at, rounds)
                points.append(Point(method, varied, *at[1:], known[at]))
                print(f"{points[-1]}", file=sys.stderr)
    return points


def _seconds(architecture: str, method: str, views: int, classes: int, batch: int, rounds: int) -> float:
    models, names = plain.pair(architecture), plain.class_names(classes)
    images = plain.random_batch(models, names, batch)[0].images
    name, options = METHODS[method]
    with torch.no_grad():
        classifier = build(name, {**options, "views": views})(assemble(models.backbone, names))
        classifier(images[:1])  # the shared text graph is made once
        return min(harness.seconds({"ours": lambda: classifier(images)}, rounds)["ours"]) / batch


def as_csv(points: Sequence[Point]) -> str:
    stream = io.StringIO()
    writer = csv.DictWriter(stream, list(Point.__dataclass_fields__), lineterminator="\n")
    writer.writeheader()
    writer.writerows(asdict(point) for point in points)
    return stream.getvalue()


def figure(points: Sequence[Point]) -> str:
    """One SVG of one chart for each axis, one below the other; the horizontal axes are logarithmic."""
    charts = []
    for varied in dict.fromkeys(point.varied for point in points):
        chosen = [point for point in points if point.varied == varied]
        values = sorted({getattr(point, varied) for point in chosen})
        top = _round_up(max(point.seconds for point in chosen))
        lines = [
            Series(method, tuple((math.log2(getattr(p, varied)), p.seconds) for p in chosen if p.method == method))
            for method in METHODS
        ]
        fixed = ", ".join(f"{WORDS[key].split()[-1]} = {value}" for key, value in USUAL.items() if key != varied)
        drawn = chart(
            lines,
            x_ticks=[Tick(math.log2(value), str(value)) for value in values],
            y_ticks=[Tick(top * step / 4, f"{top * step / 4:g}") for step in range(5)],
            x_range=(math.log2(values[0]), math.log2(values[-1])),
            x_label=f"{WORDS[varied]} ({fixed})",
            y_label="Processor seconds per image",
            title=f"Seconds per image by {WORDS[varied]}",
        )
        charts.append(drawn)
    return alone(charts, MARGIN)


def _round_up(value: float) -> float:
    """The next of 1, 2, 4, 8 times a power of ten."""
    power = 10 ** math.floor(math.log10(value))
    return next(step * power for step in (1, 2, 4, 8, 10) if step * power >= value)


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--csv", type=Path, required=True)
    parser.add_argument("--svg", type=Path, required=True)
    parser.add_argument("--rounds", type=int, default=2)
    options = parser.parse_args(argv)
    torch.set_num_threads(1)
    points = measure(options.rounds)
    write_text(options.csv, as_csv(points))
    write_text(options.svg, figure(points))
    return 0


if __name__ == "__main__":
    sys.exit(main())
