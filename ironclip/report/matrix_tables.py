"""Tables of `matrix` ready for printing, and as CSV: best bold, H of the averages, the threat model in the caption."""

import csv
import io
from collections.abc import Sequence
from statistics import fmean, pstdev, stdev
from typing import Any

from ironclip.core import escapes
from ironclip.core.shown import number_of
from ironclip.records.bounds import BOUND, LEGEND, mark
from ironclip.records.statistics import harmonic, wilson
from ironclip.report.cells import Cell, Grid
from ironclip.report.matrix import BASE_TO_NEW, Matrix, Score
from ironclip.report.tables import DASH, percent

DIGITS = {"train_seconds": 1}  # else six in the CSV
EXPLAINED = "Accuracy in per cent, mean ± deviation over {} (population). Robust: right without an attack and under every attack."


def cells(matrix: Matrix) -> Grid:
    """The table ready for printing: clean, robust and H for each data set and for the average, best bold.

    Base-to-new: the four numbers, H of base and new (clean, robust) and H4. Learned on one data set: averages over all and
    without that one. The column of the feature distortion is there where it was measured.
    """
    return _base_to_new(matrix) if matrix.setting.protocol == BASE_TO_NEW else _plain_cells(matrix)


def _plain_cells(matrix: Matrix) -> Grid:
    averages = {"average": matrix.average}
    if matrix.source in matrix.data:
        averages |= {f"average without {matrix.source}": matrix.elsewhere().average}
    averages = {name: of for name, of in averages.items() if any(of(label) for label in matrix.lines)}
    head = tuple(f"{name} {what}" for name in (*matrix.data, *averages) for what in ("clean", "robust", "H"))
    columns = [[scores.get(name) for scores in matrix.lines.values()] for name in matrix.data]
    columns += [[of(label) for label in matrix.lines] for of in averages.values()]
    blocks = [_block(column) for column in columns]
    moved = [name for name in matrix.data if any(_moved(scores.get(name)) for scores in matrix.lines.values())]
    for name in moved:
        head += (f"{name} distortion",)
        blocks.append([(Cell(_moved(scores.get(name)) or DASH),) for scores in matrix.lines.values()])
    return _finished(matrix, head, blocks)


def _base_to_new(matrix: Matrix) -> Grid:
    """For each data set, and for the averages: clean and robust on base and on new classes, H of each pair, and H4."""
    base, new = matrix.half("base"), matrix.half("new")
    pairs: list[tuple[str, list[tuple[Score | None, Score | None]]]] = [
        (name, [(base.lines[label].get(name), new.lines[label].get(name)) for label in matrix.lines]) for name in base.data
    ]
    averages = [(base.average(label), new.average(label)) for label in matrix.lines]
    if any(one and other for one, other in averages):
        pairs.append(("average", averages))
    head: tuple[str, ...] = ()
    blocks: list[list[tuple[Cell, ...]]] = []
    for name, column in pairs:
        blocks += [_block([one for one, _ in column], both=False), _block([other for _, other in column], both=False)]
        means = [_harmonics(one, other) if one and other else None for one, other in column]
        fair = [
            values
            for values, (one, other) in zip(means, column)
            if values and not (one and one.note) and not (other and other.note)
        ]
        best = (
            [max((percent(values[place]) for values in fair), key=float, default="") for place in range(3)]
            if len(fair) > 1
            else [""] * 3
        )
        blocks.append(
            [
                tuple(
                    Cell(percent(value), rank=int(values in fair and percent(value) == top)) for value, top in zip(values, best)
                )
                if values
                else (Cell(DASH),) * 3
                for values in means
            ]
        )
        parts = ("base clean", "base robust", "new clean", "new robust", "H clean", "H robust", "H4")
        head += tuple(f"{name} {part}" for part in parts)
    return _finished(matrix, head, blocks)


def _harmonics(base: Score, new: Score) -> tuple[float, float, float]:
    """H of clean, H of robust, and H4 of all four numbers."""
    clean, robust = ((fmean(base.clean), fmean(new.clean)), (fmean(base.robust), fmean(new.robust)))
    return harmonic(clean), harmonic(robust), harmonic((*clean, *robust))


def _moved(score: Score | None) -> str:
    return "" if score is None or score.distortion is None else f"{score.distortion:.3f}"


def _finished(matrix: Matrix, numbers: Sequence[str], blocks: Sequence[Sequence[tuple[Cell, ...]]]) -> Grid:
    """The blocks of columns with the names of the methods, what they cost, and the caption."""
    head = ("Method", *numbers, "Learned", "Train s")
    body = []
    radii = matrix.trained_at
    apart = len(set(radii.values())) > 1
    for number, (label, scores) in enumerate(matrix.lines.items()):
        note = f"trained at {radii[label]}" if apart and label in radii else ""
        row = [cell for block in blocks for cell in block[number]]
        counts = sorted({score.parameters for score in scores.values()})  # some learn a row for each class
        learned = "–".join(f"{count:,}" for count in (counts[:1] + counts[1:][-1:])) or "0"
        seconds = fmean(score.seconds for score in scores.values()) if scores else 0.0
        body.append((Cell(label, note=note), *row, Cell(learned), Cell(f"{seconds:.0f}")))
    seeds = {len(score.clean) for scores in matrix.lines.values() for score in scores.values()}
    images = {f"{name}: {max(scores[name].images for scores in matrix.lines.values() if name in scores)}" for name in matrix.data}
    count = f"{min(seeds)} to {max(seeds)} seeds" if len(seeds) > 1 else number_of(max(seeds), "seed")
    caption = f"{', '.join(matrix.facts)}. {EXPLAINED.format(count)} Test images: {', '.join(sorted(images))}."
    if apart:
        caption += " Training radii differ; each stands beside its method."
    elif radii:
        caption += f" Trained at {next(iter(radii.values()))}."
    if any(score.one_loss for scores in matrix.lines.values() for score in scores.values()):
        caption += f" {BOUND}: {LEGEND}."
    return Grid(head, tuple(body), 1, caption, frozenset())


def listed(tables: Sequence[Matrix]) -> list[dict[str, Any]]:
    """Every number of the tables, as in `long`, a mapping for each method and data set."""
    return [line for matrix in tables for line in _plain(matrix)]


def long(tables: Sequence[Matrix]) -> str:
    """CSV with one line per method and data set: every number, deviations with both denominators, and Wilson's 95 % interval of
    the mean for the images of one seed (seeds share their images: they do not add any)."""
    stream = io.StringIO()
    writer = csv.writer(stream, lineterminator="\n")
    for number, line in enumerate(listed(tables)):
        if number == 0:
            writer.writerow(line.keys())
        written = ("" if v is None else f"{v:.{DIGITS.get(k, 6)}f}" if isinstance(v, float) else v for k, v in line.items())
        writer.writerow(escapes.cells(written))
    return stream.getvalue()


def _plain(matrix: Matrix) -> list[dict[str, Any]]:
    found = []
    for label, scores in matrix.lines.items():
        for name, score in scores.items():
            facts = {
                "facts": "; ".join(matrix.facts),
                "method": label,
                "data": name,
                "seeds": len(score.clean),
                "images": score.images,
            }
            for what in ("clean", "robust"):
                many = getattr(score, what)
                numbers = {what: fmean(many), f"{what}_std": pstdev(many), f"{what}_std1": stdev(many) if len(many) > 1 else 0.0}
                low, high = wilson(round(fmean(many) * score.images), score.images)
                numbers |= {f"{what}_low": low, f"{what}_high": high}
                facts |= numbers
            facts |= {"harmonic": score.harmonic, "note": score.note, "one_loss": score.one_loss}
            facts |= {"learned_parameters": score.parameters, "trained_at": score.trained_at}
            found.append(facts | {"distortion": score.distortion, "train_seconds": score.seconds})
    return found


def _block(column: Sequence[Score | None], both: bool = True) -> list[tuple[Cell, ...]]:
    """Cells of one data set, ranked among the rows that may be ranked; `both`: with H of clean and robust."""

    def values(score: Score) -> tuple[str, str, str]:
        return percent(fmean(score.clean)), percent(fmean(score.robust)), percent(score.harmonic)

    fair = [values(score) for score in column if score is not None and not score.note]
    best = [max((each[place] for each in fair), key=float, default="") for place in range(3)] if len(fair) > 1 else [""] * 3
    made: list[tuple[Cell, ...]] = []
    for score in column:
        if score is None:
            made.append((Cell(DASH),) * (2 + both))
            continue
        clean, robust, mean = ((text, int(text == top and not score.note)) for text, top in zip(values(score), best))
        made.append(
            (
                Cell(clean[0], _spread(score.clean), clean[1]),
                Cell(mark(score.one_loss) + robust[0], _spread(score.robust), robust[1], score.note),
                Cell(mean[0], rank=mean[1]),
            )[: 2 + both]
        )
    return made


def _spread(values: Sequence[float]) -> str:
    return f"±{percent(pstdev(values))}" if len(values) > 1 else ""
