"""The table of a paper: methods as rows, data sets and their average as columns, mean and deviation over seeds.

One table for each backbone, number of shots, threat and protocol (few-shot, base-to-new, or learned on one data set and
measured on others). Averages as the field takes them: over seeds first, then over data sets; H of the averages, not the
average of H.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from statistics import fmean

from ironclip.attacks import DEFAULT
from ironclip.core.shown import number_of
from ironclip.records.record import Record
from ironclip.records.statistics import harmonic
from ironclip.report.labels import Entry, data_name, labels_of
from ironclip.report.tables import attack_words, attacks_words
from ironclip.report.views import radius, standing, trained_at

AUTOATTACK = {"apgd-ce", "apgd-t", "fab-t", "square"}
BASE_TO_NEW = "base-to-new"
FROM = "learned on "


@dataclass(frozen=True)
class Setting:
    """What a table holds fixed; `shots` None: all images."""

    shots: int | None
    backbone: str
    norm: str
    eps: float
    radius: str
    knowledge: str
    attacks: str
    protocol: str

    @property
    def facts(self) -> tuple[str, ...]:
        """For people."""
        shots = "all images" if self.shots is None else number_of(self.shots, "shot")
        threat = f"{self.norm} {self.radius} {self.knowledge}"
        return (f"backbone {self.backbone}", shots, threat, self.attacks, *filter(None, [self.protocol]))

    @property
    def order(self) -> tuple[str | float, ...]:
        return self.backbone, self.shots or 0, self.norm, self.knowledge, self.attacks, self.protocol, self.eps


@dataclass(frozen=True)
class Score:
    """Clean and robust accuracy of one method on one data set, one value per seed; fractions."""

    clean: tuple[float, ...]
    robust: tuple[float, ...]
    images: int
    note: str = ""
    one_loss: bool = False
    seconds: float = 0.0
    parameters: int = 0
    distortion: float | None = None
    trained_at: str = ""

    @property
    def harmonic(self) -> float:
        return harmonic((fmean(self.clean), fmean(self.robust)))


@dataclass(frozen=True)
class Matrix:
    """One table: (label of a method -> data set -> score), methods that learn nothing first."""

    setting: Setting
    data: tuple[str, ...]
    lines: Mapping[str, Mapping[str, Score]]

    def average(self, label: str) -> Score | None:
        """Mean over the data sets, of means over seeds; None where one is missing."""
        scores = self.lines[label]
        if len(self.data) < 2 or any(name not in scores for name in self.data):
            return None
        clean, robust = (fmean(fmean(getattr(scores[name], what)) for name in self.data) for what in ("clean", "robust"))
        notes = {score.note for score in scores.values()} - {""}
        return Score(
            (clean,), (robust,), sum(score.images for score in scores.values()), " ".join(sorted(notes)),
            any(score.one_loss for score in scores.values()),
        )  # fmt: skip

    @property
    def facts(self) -> tuple[str, ...]:
        return self.setting.facts

    @property
    def source(self) -> str:
        """The data set learned on, where others are measured."""
        protocol = self.setting.protocol
        return protocol.removeprefix(FROM) if protocol.startswith(FROM) else ""

    @property
    def trained_at(self) -> Mapping[str, str]:
        """The training radii of the methods that learn something."""
        radii = {label: dict.fromkeys(one.trained_at for one in line.values()) for label, line in self.lines.items()}
        return {label: ", ".join(found) for label, every in radii.items() if (found := list(filter(None, every)))}

    def elsewhere(self) -> "Matrix":
        """The same table without the data set learned on."""
        data = tuple(name for name in self.data if name != self.source)
        lines = {label: {name: scores[name] for name in data if name in scores} for label, scores in self.lines.items()}
        return Matrix(self.setting, data, lines)

    def half(self, part: str) -> "Matrix":
        """Of a base-to-new table the base or the new classes, under the names of the whole data sets."""
        lines = {
            label: {name.removesuffix(f"-{part}"): score for name, score in scores.items() if name.endswith(f"-{part}")}
            for label, scores in self.lines.items()
        }
        return Matrix(self.setting, tuple(dict.fromkeys(name.rsplit("-", 1)[0] for name in self.data)), lines)


def matrices(entries: Iterable[Entry]) -> tuple[Matrix, ...]:
    """A table for each backbone, shots, threat and protocol.

    Records of methods that learn nothing stand in all tables of their threat with these data; those of the data set learned
    on stand in the table of the others, too.
    """
    found = list(entries)
    labels = labels_of(found)
    settings = [_setting(entry.record) for entry in found]
    keys = list(dict.fromkeys(key for key, entry in zip(settings, found) if not _untrained(entry.record)))
    tables = []
    for key in sorted(keys or dict.fromkeys(settings), key=lambda key: key.order):
        learned = [place for place, other in enumerate(settings) if other == key]
        home: list[int] = []
        if key.protocol.startswith(FROM):
            runs, few_shot = {found[place].record.config_hash for place in learned}, replace(key, protocol="")
            home = [n for n, entry in enumerate(found) if entry.record.config_hash in runs and settings[n] == few_shot]
        own = {*home, *learned}
        data = tuple(dict.fromkeys(data_name(found[place].record) for place in (*home, *learned)))
        mine = [
            (labels[place], entry)
            for place, entry in enumerate(found)
            if place in own or (_belongs(settings[place], key) and _untrained(entry.record))
            if data_name(entry.record) in data
        ]
        ahead = sorted((entry.record.method != "zero_shot", label) for label, entry in mine if _untrained(entry.record))
        order = dict.fromkeys(label for _, label in ahead) | dict.fromkeys(label for label, _ in mine)
        scores = {name: _column([(mark, e.record) for mark, e in mine if data_name(e.record) == name]) for name in data}
        lines = {label: {name: column[label] for name, column in scores.items() if label in column} for label in order}
        tables.append(Matrix(key, data, lines))
    return tuple(tables)


def _belongs(untrained: Setting, table: Setting) -> bool:
    """Whether what learned nothing stands beside what was learned: same backbone, threat, attacks and list of data sets."""
    suites = [one.protocol if one.protocol.startswith("suite") else "" for one in (untrained, table)]
    return suites[0] == suites[1] and replace(untrained, shots=table.shots, protocol=table.protocol) == table


def _column(found: Sequence[tuple[str, Record]]) -> dict[str, Score]:
    """The scores of one data set by label: on the images that every method was evaluated on, if there are any, else on most."""
    rows: dict[str, list[Record]] = {}
    for label, record in found:
        rows.setdefault(label, []).append(record)
    common = set.intersection(*({record.images for record in records} for records in rows.values())) if rows else set()
    return {label: _score(records, max(common, default=0)) for label, records in rows.items()}


def _score(many: Sequence[Record], images: int) -> Score:
    """One value per seed. Of several records of a seed the one with this number of images counts, else the one with most."""
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
        one_loss=any(record.one_loss for record in records),
        seconds=fmean(record.timing.train_seconds for record in records),
        parameters=max(record.cost.trainable_parameters for record in records),
        distortion=fmean(moved) if moved else None,
        trained_at=", ".join(dict.fromkeys(filter(None, map(trained_at, records)))),
    )


def _untrained(record: Record) -> bool:
    return record.cost.trainable_parameters == 0


def _setting(record: Record) -> Setting:
    words = [attack_words(attack).replace(attack.name, attack.name.split("/")[0]) for attack in record.attacks]
    attacks = " + ".join(dict.fromkeys(words)) or "no attack"
    if attacks_words(record) == DEFAULT:
        attacks = DEFAULT
    if {attack.name for attack in record.attacks} >= AUTOATTACK:
        attacks = "AutoAttack"
    threat = record.threat
    name = record.backbone.name
    knowledge = f"transfer from {threat.source}" if threat.knowledge == "transfer" else threat.knowledge
    return Setting(record.shots, name, threat.norm, threat.eps, radius(threat), knowledge, attacks, _protocol(record))


def _protocol(record: Record) -> str:
    if record.data.suite:
        return f"suite {record.data.suite}"
    if record.data.subset in ("base", "new"):
        return BASE_TO_NEW
    return f"{FROM}{record.trained_on}" if record.trained_on else ""
