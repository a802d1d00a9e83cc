"""The table of a paper: methods as rows, data sets and their average as columns, mean and deviation over seeds.

One table for each backbone, number of shots, threat and protocol (few-shot, base-to-new, or learned on one data set and
measured on others). Averages as the field takes them: over seeds first, then over data sets; H of the averages, not the
average of H.
"""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import Any

from ironclip.report.tables import attack_words
from ironclip.report.views import radius, standing
from ironclip.runs.records import Record
from ironclip.runs.statistics import harmonic

UNSETTLED = object()
SAME = (
    "dataset",
    "subset",
    "seed",
    "split_seed",
    "backbone",
    "weights",
    "shots",
    "classes",
    "preset",
    "source",
    "method",
    "templates",
)
"""Settings that are columns or captions of their own, or follow from others; all others tell two rows of a method apart."""
AUTOATTACK = {"apgd-ce", "apgd-t", "fab-t", "square"}
BASE_TO_NEW = "base-to-new"
FROM = "learned on "


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
    distortion: float | None = None

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

    @property
    def protocol(self) -> str:
        """ "" for few-shot classification, `BASE_TO_NEW`, or `FROM` and the data set learned on."""
        return self.facts[-1] if self.facts[-1] == BASE_TO_NEW or self.facts[-1].startswith(FROM) else ""

    @property
    def source(self) -> str:
        """The data set learned on, where others are measured."""
        return self.protocol.removeprefix(FROM) if self.protocol.startswith(FROM) else ""

    def elsewhere(self) -> "Matrix":
        """The same table without the data set learned on."""
        data = tuple(name for name in self.data if name != self.source)
        lines = {label: {name: scores[name] for name in data if name in scores} for label, scores in self.lines.items()}
        return Matrix(self.facts, data, lines)

    def half(self, part: str) -> "Matrix":
        """Of a base-to-new table the base or the new classes, under the names of the whole data sets."""
        lines = {
            label: {name.removesuffix(f"-{part}"): score for name, score in scores.items() if name.endswith(f"-{part}")}
            for label, scores in self.lines.items()
        }
        return Matrix(self.facts, tuple(dict.fromkeys(name.rsplit("-", 1)[0] for name in self.data)), lines)


def matrices(entries: Iterable[Entry]) -> tuple[Matrix, ...]:
    """A table for each backbone, shots, threat and protocol.

    Records of methods that learn nothing stand in all tables of their threat with these data; those of the data set learned
    on stand in the table of the others, too.
    """
    found = list(entries)
    labels = _labels(found)
    keys = list(dict.fromkeys(_key(entry) for entry in found if not _untrained(entry.record)))
    keys = keys or list(dict.fromkeys(_key(entry) for entry in found))
    tables = []
    for key in sorted(keys, key=str):
        learned = [entry for entry in found if _key(entry) == key]
        runs = {entry.record.config_hash for entry in learned} if key[-1].startswith(FROM) else set()
        home = [entry for entry in found if runs and entry.record.config_hash in runs and _key(entry) == (*key[:-1], "")]
        data = tuple(dict.fromkeys(_data(entry.record) for entry in (*home, *learned)))
        mine = [
            (label, entry)
            for label, entry in zip(labels, found)
            if any(entry is other for other in (*learned, *home))
            or (
                _untrained(entry.record)
                and _key(entry)[1:-1] == key[1:-1]
                and _data(entry.record) in data
                and _suite(_key(entry)) == _suite(key)
            )
        ]
        ahead = sorted((entry.record.method != "zero_shot", label) for label, entry in mine if _untrained(entry.record))
        order = dict.fromkeys(label for _, label in ahead) | dict.fromkeys(label for label, _ in mine)
        scores = {name: _column([(mark, entry.record) for mark, entry in mine if _data(entry.record) == name]) for name in data}
        lines = {label: {name: column[label] for name, column in scores.items() if label in column} for label in order}
        shots = "all images" if key[0] is None else f"{key[0]} shot{'s' if key[0] != 1 else ''}"
        protocol = (key[-1],) if key[-1] else ()
        tables.append(Matrix((f"backbone {key[1]}", shots, *key[2:-1], *protocol), data, lines))
    return tuple(tables)


def _column(found: Sequence[tuple[str, Record]]) -> dict[str, Score]:
    """The scores of one data set by label: on the pictures that all have in common where there are such, or else on most."""
    rows: dict[str, list[Record]] = {}
    for label, record in found:
        rows.setdefault(label, []).append(record)
    common = set.intersection(*({record.images for record in records} for records in rows.values())) if rows else set()
    return {label: _score(records, max(common, default=0)) for label, records in rows.items()}


def _score(many: Sequence[Record], images: int) -> Score:
    """One value a seed: of several records of one seed, that of so many images, or else of most."""
    best = {record.seed: record for record in sorted(many, key=lambda record: (record.images == images, record.images))}
    records = [record for record in many if any(record is kept for kept in best.values())]
    moved = [each["distortion"] for record in records for each in record.diagnostics.get("distortion", {}).values()]
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
        distortion=fmean(moved) if moved else None,
    )


def _untrained(record: Record) -> bool:
    return record.cost.trainable_parameters == 0


def _key(entry: Entry) -> tuple[Any, ...]:
    """(shots, backbone, threat, attacks, protocol): what a table holds fixed."""
    record = entry.record
    attacks = list(
        dict.fromkeys(attack_words(attack).replace(attack.name, attack.name.split("/")[0]) for attack in record.attacks)
    )
    if {attack.name for attack in record.attacks} >= AUTOATTACK:
        attacks = ["AutoAttack"]
    threat = f"{record.threat.norm} {radius(record.threat)} {record.threat.knowledge}"
    return record.shots, record.backbone.name, threat, " + ".join(attacks) or "no attack", _protocol(record)


def _suite(key: tuple[Any, ...]) -> str:
    return key[-1] if key[-1].startswith("suite") else ""


def _protocol(record: Record) -> str:
    if record.data.suite:
        return f"suite {record.data.suite}"
    if record.data.subset in ("base", "new"):
        return BASE_TO_NEW
    return f"{FROM}{record.trained_on}" if record.trained_on else ""


def _data(record: Record) -> str:
    name, subset = record.data.name, record.data.subset
    return name if subset == "all" or name.endswith(f"-{subset}") else f"{name}-{subset}"


def _labels(entries: Sequence[Entry]) -> list[str]:
    """The method of each entry, with the settings in which its runs on one data set differ; its preset where there are several.

    Settings that more of the runs share than any other stand for the method itself (or the preset) and are not spelled out.
    """
    presets: dict[tuple[Any, ...], set[str]] = {}
    for entry in entries:
        presets.setdefault((entry.record.method, entry.record.backbone.name), set()).add(_preset(entry))
    groups: dict[tuple[Any, ...], list[dict[str, str]]] = {}
    flat = [((*_place(entry), _preset(entry)), _flat(entry.config)) for entry in entries]
    for place, own in flat:
        groups.setdefault(place, []).append(own)
    usual = {place: _usual(rivals) for place, rivals in groups.items()}
    labels = []
    for entry, (place, own) in zip(entries, flat):
        told = [key for key, value in usual[place].items() if value is UNSETTLED or own.get(key) != value]
        words = [f"{key.removeprefix('options.')}={_short(own.get(key))}" for key in told]
        if len(presets[entry.record.method, entry.record.backbone.name]) > 1:
            words.insert(0, _preset(entry) or "no preset")
        labels.append(f"{entry.record.method} ({', '.join(words)})" if words else entry.record.method)
    return labels


def _preset(entry: Entry) -> str:
    """The name of the preset within its method, such as "quick"."""
    return str(entry.config.get("preset") or "").rpartition("/")[2]


def _usual(rivals: Sequence[Mapping[str, str]]) -> dict[str, Any]:
    """The settings in which the rivals differ, each with the value it has in most runs: those of the combination that is more
    frequent than any other, or else of more than half of the runs; UNSETTLED where there is none."""
    keys = sorted(key for key in {key for one in rivals for key in one} if len({one.get(key) for one in rivals}) > 1)
    counts = Counter(tuple(one.get(key) for key in keys) for one in rivals).most_common(2)
    if len(counts) == 1 or counts[0][1] > counts[1][1]:
        return dict(zip(keys, counts[0][0]))
    common = {key: Counter(one.get(key) for one in rivals).most_common(1)[0] for key in keys}
    return {key: value if 2 * many > len(rivals) else UNSETTLED for key, (value, many) in common.items()}


def _place(entry: Entry) -> tuple[Any, ...]:
    record = entry.record
    return record.method, record.shots, record.backbone.name, _data(record)


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
