"""What every benchmark shares: processor time, the assertion of equality, and the table.

Times are processor seconds of one thread, because on a shared machine wall time measures the neighbours. Paths alternate, the
passes that assert equality serve as warm-up, and a ratio is given for the medians and for the minima.
"""

import argparse
import gc
import json
import statistics
import sys
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field

import torch
from rich.console import Console
from rich.table import Table
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

Path = Callable[[], object]


@dataclass
class Row:
    """One measured case.

    Args:
        seconds: processor seconds of every round: "plain" (the reference), "lean" (where there is one: the same with what a
            careful user does by hand) and "ours".
        deviations: quantity -> largest difference between ours and plain, relative to the largest magnitude ("pixels": the
            share of pixels that differ at all).
        target: smallest ratio of plain to ours that was asked for.
        notes: other figures, e.g. clean and robust accuracy.
    """

    benchmark: str
    case: str
    seconds: dict[str, list[float]] = field(default_factory=dict)
    deviations: dict[str, float] = field(default_factory=dict)
    target: float | None = None
    notes: dict[str, float] = field(default_factory=dict)

    def ratio(self, path: str = "plain", best: bool = False) -> float:
        """Time of a path over ours: of the medians, or of the minima."""
        pick: Callable[[list[float]], float] = min if best else statistics.median
        return pick(self.seconds[path]) / pick(self.seconds["ours"])

    def record(self) -> dict[str, object]:
        others = [path for path in self.seconds if path != "ours" and "ours" in self.seconds]
        ratios = {path: {"median": self.ratio(path), "min": self.ratio(path, True)} for path in others}
        return {**asdict(self), "ratios": ratios}


Rows = Callable[[bool, int], Iterable[Row]]
"""(quick, rounds) -> rows, one by one."""


def check(name: str, ours: Tensor, plain: Tensor, tolerance: float) -> float:
    """The largest difference over the largest magnitude of `plain`; AssertionError above the tolerance."""
    if ours.shape != plain.shape:
        raise AssertionError(f"{name}: shape {tuple(ours.shape)} against {tuple(plain.shape)}")
    ours, plain = ours.detach(), plain.detach()
    gap = float((ours - plain).abs().max() / plain.abs().max().clamp_min(1e-30))
    if not gap <= tolerance:
        raise AssertionError(f"{name} differs by {gap:.2e} of its largest value; at most {tolerance:.0e} was expected")
    return gap


def check_gradients(ours: Mapping[str, Tensor], plain: Mapping[str, Tensor], tolerance: float) -> float:
    """The largest deviation over the gradients of all learned tensors, each relative to its own largest entry."""
    if ours.keys() != plain.keys():
        raise AssertionError(f"gradients of different tensors: {sorted(ours.keys() ^ plain.keys())}")
    return max(check(f"gradient of {name}", ours[name], plain[name], tolerance) for name in ours)


def check_pixels(ours: Tensor, plain: Tensor, share: float) -> float:
    """The share of pixels that differ by more than 1e-6; AssertionError above `share`.

    An ascent step takes signs, so a pixel whose slope is zero up to rounding may go either way in float32.
    """
    differing = float(((ours - plain).abs() > 1e-6).double().mean())
    if not differing <= share:
        raise AssertionError(f"{differing:.2e} of the adversarial pixels differ; at most {share:.0e} was expected")
    return differing


def seconds(paths: Mapping[str, Path], rounds: int, clock: Callable[[], float] = time.process_time) -> dict[str, list[float]]:
    """Seconds of the processor, or of another clock, of each path in each round; the paths alternate."""
    taken: dict[str, list[float]] = {name: [] for name in paths}
    for _ in range(rounds):
        for name, path in paths.items():
            gc.collect()
            begin = clock()
            path()
            taken[name].append(clock() - begin)
    return taken


def gflop(path: Path) -> float:
    """Billions of floating-point operations in the matrix products of one call (multiply and add count two)."""
    with FlopCounterMode(display=False) as counter:
        path()
    return counter.get_total_flops() / 1e9


def peak_gflops(size: int = 1024) -> float:
    """Billions of operations per second of a square matrix product, the best of five."""
    a, b = torch.rand(size, size), torch.rand(size, size)
    best = min(seconds({"product": lambda: a @ b}, 5)["product"])
    return 2 * size**3 / best / 1e9


def table(rows: Sequence[Row]) -> Table:
    shown = Table("benchmark", "case", "plain s", "lean s", "ours s", "ratio", "of minima", "lean ratio", "target", "deviation")
    for row in rows:
        medians = {path: f"{statistics.median(values):.3f}" for path, values in row.seconds.items()}
        ratios = [f"{row.ratio():.2f}", f"{row.ratio(best=True):.2f}"] if {"plain", "ours"} <= row.seconds.keys() else ["", ""]
        lean = f"{row.ratio('lean'):.2f}" if "lean" in row.seconds else ""
        target = "" if row.target is None else f">= {row.target:g}"
        deviation = f"{max(row.deviations.values()):.0e}" if row.deviations else ""
        times = [medians.get(path, "") for path in ("plain", "lean", "ours")]
        shown.add_row(row.benchmark, row.case, *times, *ratios, lean, target, deviation)
    return shown


def main(rows: Rows, description: str, argv: Sequence[str] | None = None) -> int:
    """Parse, measure, print; 0, or 1 where equality did not hold."""
    parser = argparse.ArgumentParser(description=description.splitlines()[0])
    parser.add_argument("--json", action="store_true", help="one JSON object with every time instead of the table")
    parser.add_argument("--quick", action="store_true", help="small cases, one round, no lean path")
    parser.add_argument("--rounds", type=int, default=0, help="timed rounds per case (default 3, quick 1)")
    options = parser.parse_args(argv)
    torch.set_num_threads(1)
    console = Console(width=150 if not sys.stdout.isatty() else None)
    done: list[Row] = []
    try:
        for row in rows(options.quick, options.rounds or (1 if options.quick else 3)):
            done.append(row)
            print(f"{row.benchmark}: {row.case}: done", file=sys.stderr)
    except AssertionError as error:
        print(f"not equal, so not timed: {error}", file=sys.stderr)
        return 1
    if options.json:
        print(json.dumps({"peak_gflops": peak_gflops(), "torch": torch.__version__, "rows": [row.record() for row in done]}))
        return 0
    console.print(table(done))
    for row in done:
        if row.notes:
            console.print(f"{row.benchmark}, {row.case}: " + ", ".join(f"{k} {v:.4g}" for k, v in row.notes.items()))
    return 0
