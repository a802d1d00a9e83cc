"""The table of a paper: methods as rows, data sets and their average as columns, mean and deviation over seeds.

One table for each backbone, number of shots and threat. Averages as the field takes them: over seeds first, then over data
sets; H of the averages, not the average of H.
"""

import csv
import io
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean, pstdev, stdev
from typing import Any

from ironclip.report.formats import Cell, Grid
from ironclip.report.tables import DASH, percent
from ironclip.report.views import radius, standing
from ironclip.runs.records import Record
from ironclip.runs.statistics import harmonic

SAME = ("dataset", "seed", "split_seed", "backbone", "weights", "shots", "classes", "preset", "source", "method", "templates")
"""Settings that are columns or captions of their own, or follow from others; all others tell two rows of a method apart."""
EXPLAINED = "Accuracy in per cent, mean ± deviation over {} (population). Robust: right without an attack and under every attack."


@dataclass(frozen=True)
class Entry:
    """One record and the settings of its run."""

    record: Record
    config: Mapping[str, Any]


@dataclass(frozen=True)
class Score:
    """Clean and robust accuracy of one method on one data set, one value a seed; fractions."""

    clean: tuple[float, ...]
    robust: tuple[float, ...]
    images: int
    note: str = ""
    seconds: float = 0.0
    parameters: int = 0

    @property
    def harmonic(self) -> float:
        return harmonic((fmean(self.clean), fmean(self.robust)))


@dataclass(frozen=True)
class Matrix:
    """One table: (label of a method -> data set -> score), methods that learn nothing first."""

    facts: tuple[str, ...]
    data: tuple[str, ...]
    lines: Mapping[str, Mapping[str, Score]]

    def average(self, label: str) -> Score | None:
        """Mean over the data sets, of means over seeds; None where one is missing."""
        scores = self.lines[label]
        if len(self.data) < 2 or any(name not in scores for name in self.data):
            return None
        clean, robust = (fmean(fmean(getattr(scores[name], what)) for name in self.data) for what in ("clean", "robust"))
        notes = {score.note for score in scores.values()} - {""}
        return Score((clean,), (robust,), sum(score.images for score in scores.values()), " ".join(sorted(notes)))


def matrices(entries: Iterable[Entry]) -> tuple[Matrix, ...]:
    """A table for each backbone, shots and threat; records of methods that learn nothing stand in all tables of their threat."""
    found = list(entries)
    labels = _labels(found)
    keys = list(dict.fromkeys(_key(entry) for entry in found if not _untrained(entry.record)))
    keys = keys or list(dict.fromkeys(_key(entry) for entry in found))
    tables = []
    for key in sorted(keys, key=str):
        mine = [
            (label, entry)
            for label, entry in zip(labels, found)
            if _key(entry) == key or (_untrained(entry.record) and _key(entry)[1:] == key[1:])
        ]
        data = tuple(dict.fromkeys(_data(entry.record) for _, entry in mine))
        order = dict.fromkeys(label for label, entry in mine if _untrained(entry.record)) | dict.fromkeys(
            label for label, _ in mine
        )
        lines = {
            label: {
                name: _score(chosen)
                for name in data
                if (chosen := [entry.record for mark, entry in mine if mark == label and _data(entry.record) == name])
            }
            for label in order
        }
        shots = "all images" if key[0] is None else f"{key[0]} shot{'s' if key[0] != 1 else ''}"
        tables.append(Matrix((f"backbone {key[1]}", shots, *key[2:]), data, lines))
    return tuple(tables)


def cells(matrix: Matrix) -> Grid:
    """The table ready for printing: clean, robust and H for each data set and for the average, best bold."""
    wide = [*matrix.data, *(["average"] if any(matrix.average(label) for label in matrix.lines) else [])]
    head = ("Method", *(f"{name} {what}" for name in wide for what in ("clean", "robust", "H")), "Learned", "Train s")
    columns = [
        [matrix.average(label) if name == "average" else scores.get(name) for label, scores in matrix.lines.items()]
        for name in wide
    ]
    blocks = [_block(column) for column in columns]
    body = []
    for number, (label, scores) in enumerate(matrix.lines.items()):
        numbers = [cell for block in blocks for cell in block[number]]
        learned = max((score.parameters for score in scores.values()), default=0)
        seconds = fmean(score.seconds for score in scores.values()) if scores else 0.0
        body.append((Cell(label), *numbers, Cell(f"{learned:,}"), Cell(f"{seconds:.0f}")))
    seeds = {len(score.clean) for scores in matrix.lines.values() for score in scores.values()}
    images = {f"{name}: {max(scores[name].images for scores in matrix.lines.values() if name in scores)}" for name in matrix.data}
    count = f"{min(seeds)} to {max(seeds)} seeds" if len(seeds) > 1 else f"{max(seeds)} seed{'s' if max(seeds) > 1 else ''}"
    caption = f"{', '.join(matrix.facts)}. {EXPLAINED.format(count)} Test images: {', '.join(sorted(images))}."
    return Grid(head, tuple(body), 1, caption, frozenset())


def long(tables: Sequence[Matrix]) -> str:
    """CSV with one line a method and data set: every number, deviations with both denominators."""
    stream = io.StringIO()
    writer = csv.writer(stream, lineterminator="\n")
    for number, line in enumerate(line for matrix in tables for line in _plain(matrix)):
        if number == 0:
            writer.writerow(line.keys())
        writer.writerow(line.values())
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
                facts |= {key: f"{value:.6f}" for key, value in numbers.items()}
            facts |= {"harmonic": f"{score.harmonic:.6f}", "note": score.note, "learned_parameters": score.parameters}
            found.append(facts | {"train_seconds": f"{score.seconds:.1f}"})
    return found


def _block(column: Sequence[Score | None]) -> list[tuple[Cell, Cell, Cell]]:
    """Cells of one data set, ranked among the rows that may be ranked."""

    def values(score: Score) -> tuple[str, str, str]:
        return percent(fmean(score.clean)), percent(fmean(score.robust)), percent(score.harmonic)

    fair = [values(score) for score in column if score is not None and not score.note]
    best = [max((each[place] for each in fair), key=float, default="") for place in range(3)] if len(fair) > 1 else [""] * 3
    made = []
    for score in column:
        if score is None:
            made.append((Cell(DASH), Cell(DASH), Cell(DASH)))
            continue
        clean, robust, both = ((text, int(text == top and not score.note)) for text, top in zip(values(score), best))
        made.append(
            (
                Cell(clean[0], _spread(score.clean), clean[1]),
                Cell(robust[0], _spread(score.robust), robust[1], score.note),
                Cell(both[0], rank=both[1]),
            )
        )
    return made


def _spread(values: Sequence[float]) -> str:
    return f"±{percent(pstdev(values))}" if len(values) > 1 else ""


def _score(records: Sequence[Record]) -> Score:
    notes = {str(standing(record)) for record in records} - {""}
    if any(flag.id == "collapse" for record in records for flag in record.flags):
        notes.add("collapsed")
    return Score(
        clean=tuple(record.clean.value for record in records),
        robust=tuple(record.robust.value for record in records),
        images=records[0].images,
        note=", ".join(sorted(notes)),
        seconds=fmean(record.timing.train_seconds for record in records),
        parameters=max(record.cost.trainable_parameters for record in records),
    )


def _untrained(record: Record) -> bool:
    return record.cost.trainable_parameters == 0


def _key(entry: Entry) -> tuple[Any, ...]:
    """(shots, backbone, threat, attacks): what a table holds fixed."""
    record = entry.record
    attacks = dict.fromkeys(attack.name.split("/")[0] for attack in record.attacks)
    threat = f"{record.threat.norm} {radius(record.threat)} {record.threat.knowledge}"
    return record.shots, record.backbone.name, threat, "+".join(attacks) or "no attack"


def _data(record: Record) -> str:
    name, subset = record.data.name, record.data.subset
    return name if subset == "all" or name.endswith(subset) else f"{name} {subset}"


def _labels(entries: Sequence[Entry]) -> list[str]:
    """The method of each entry, with the settings in which its runs differ."""
    flat = [_flat(entry.config) for entry in entries]
    labels = []
    for entry, own in zip(entries, flat):
        rivals = [other for rival, other in zip(entries, flat) if rival.record.method == entry.record.method]
        differing = sorted({key for other in rivals for key in (*other, *own) if other.get(key) != own.get(key)})
        words = ", ".join(f"{key.removeprefix('options.')}={_short(own.get(key))}" for key in differing)
        labels.append(f"{entry.record.method} ({words})" if words else entry.record.method)
    return labels


def _flat(values: Mapping[str, Any], prefix: str = "") -> dict[str, str]:
    found: dict[str, str] = {}
    for key, value in values.items():
        if not prefix and key in SAME:
            continue
        found |= _flat(value, f"{prefix}{key}.") if isinstance(value, Mapping) else {prefix + key: str(value)}
    return found


def _short(value: str | None) -> str:
    if value is None:
        return "default"
    try:
        return f"{float(value):.4g}" if "." in value else value
    except ValueError:
        return value
