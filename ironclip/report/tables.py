"""Records as rows of a table. Numbers here; how they are written is in `formats`."""

import json
import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace

from ironclip.attacks import DEFAULT, STANDARD_FAST
from ironclip.records.bounds import BOUND, LEGEND
from ironclip.records.record import AttackResult, Proportion, Record
from ironclip.records.usual import unusual
from ironclip.report.views import is_undefended, radius, standing, trained_at

DASH = "–"
EXPLAINED = (
    "Accuracy in per cent with its 95 % Wilson interval. Robust: right without an attack and under every attack listed. "
    "H: harmonic mean of clean and robust."
)
STATIC = "{}: the attack was made on another model, which overstates the defence; not ranked."

SCORES = "{}: the attack saw scores alone, which overstates the defence; not ranked."


@dataclass(frozen=True)
class Row:
    """One record in a table. Accuracies are fractions; `note` says why the robust one may not be ranked; `options`: the
    method's, as JSON."""

    method: str
    data: str
    backbone: str
    shots: int | None
    seed: int | None
    eps: str
    threat: str
    attacks: str
    clean: Proportion
    robust: Proportion
    harmonic: float
    parameters: int
    images: int
    undefended: bool = False
    forward_passes: float = 0.0
    backward_passes: float = 0.0
    answer_seconds: float = 0.0
    note: str = ""
    targeted: str = ""
    one_loss: bool = False
    trained_at: str = ""
    options: str = "{}"

    @property
    def group(self) -> tuple[str, str]:
        """Rows of one group are about the same images and radius, so they may be ranked."""
        return self.data, self.eps


@dataclass(frozen=True)
class Column:
    """A column of facts, shown only where it differs between rows; else its value goes to the caption."""

    title: str
    value: Callable[[Row], str]
    caption: str

    def said(self, value: str) -> str:
        """A value in words: "16 shots", "1 shot"."""
        return self.caption.format(value).removesuffix("s") if value == "1" else self.caption.format(value)


FACTS = (
    Column("Data", lambda row: row.data, "{}"),
    Column("Backbone", lambda row: row.backbone, "backbone {}"),
    Column("Shots", lambda row: DASH if row.shots is None else str(row.shots), "{} shots"),
    Column("Seed", lambda row: DASH if row.seed is None else str(row.seed), "seed {}"),
    Column("Trained at", lambda row: row.trained_at or DASH, "trained at {}"),
    Column("Threat", lambda row: row.threat, "{}"),
    Column("Attacks", lambda row: row.attacks, "{}"),
    Column("Targeted success", lambda row: row.targeted or DASH, "targeted success {}"),
    Column("n", lambda row: str(row.images), "n = {}"),
)
CAPTION_ONLY = frozenset({"Attacks"})


def rows(records: Iterable[Record], methods: Sequence[str] | None = None) -> tuple[Row, ...]:
    """Rows grouped by data set and radius in the order of their first appearance, the undefended model first in each.

    Args:
        methods: what the method of each record is called, where variants of one are told apart (`labels.labels_of`); None: by its
            name alone.
    """
    found = [_row(record) for record in records]
    if methods is not None:
        found = [replace(row, method=name) for row, name in zip(found, methods, strict=True)]
    order = {group: place for place, group in enumerate(dict.fromkeys(row.group for row in found))}
    return tuple(sorted(found, key=lambda row: (order[row.group], not row.undefended)))


def columns(table: Sequence[Row]) -> tuple[Column, ...]:
    """The fact columns in which the rows differ. What learns nothing has no shots, seed or training radius, which counts as
    no difference."""
    return tuple(column for column in FACTS if column.title not in CAPTION_ONLY and len(_values(column, table)) > 1)


def caption(table: Sequence[Row]) -> str:
    """One paragraph: the threat model, everything the rows share, and what the columns mean."""
    shown = columns(table)
    shared = []
    for column in FACTS:
        values = [value for value in _values(column, table) if value != DASH]
        if values and column not in shown:
            shared.append(column.said("; ".join(values)))
    borrowed = [note for note in dict.fromkeys(row.note for row in table) if note.endswith("-only")]
    notes = [(SCORES if note == "black-box-only" else STATIC).format(note) for note in borrowed]
    if any(row.note == "not trusted" for row in table):
        notes.append("not trusted: a check failed, see the flags of the record; not ranked.")
    if any(row.one_loss for row in table):
        notes.append(f"{BOUND}: {LEGEND}.")
    if any(row.forward_passes for row in table):
        notes.append("Passes: of the image encoder for the answer to one image, forward + backward; Seconds: for that answer.")
    return " ".join([*([f"All rows: {', '.join(shared)}."] if shared else []), EXPLAINED, *notes])


def rank(table: Sequence[Row], value: Callable[[Row], float]) -> tuple[int, ...]:
    """1 for the best and 2 for the second of each group, 0 elsewhere; equal as printed means equal rank.

    Rows with a note are not ranked, a single row has no rank, and of two rows only the best has one.
    """
    ranks = []
    for row in table:
        rivals = [other for other in table if other.group == row.group and not other.note]
        levels = sorted({printed for other in rivals if (printed := percent(value(other))) != DASH}, key=float, reverse=True)
        ranked = levels[: min(2, len(rivals) - 1)] if not row.note else []
        ranks.append(ranked.index(percent(value(row))) + 1 if percent(value(row)) in ranked else 0)
    return tuple(ranks)


def percent(fraction: float | None) -> str:
    """A fraction in per cent with one decimal, or a dash where there is no number."""
    return DASH if fraction is None or not math.isfinite(fraction) else f"{100 * fraction:.1f}"


def interval(proportion: Proportion) -> str:
    return f"[{percent(proportion.low)}, {percent(proportion.high)}]"


def attack_words(attack: AttackResult) -> str:
    """Name and the constants that matter most: "pgd (100 steps, 2 restarts)"."""
    constants = attack.constants
    parts = [f"{constants[key]} {key}" for key in ("steps", "queries") if isinstance(constants.get(key), int)]
    if isinstance(restarts := constants.get("restarts"), int) and restarts > 1:
        parts.append(f"{restarts} restarts")
    if isinstance(loss := constants.get("loss"), str) and loss != "ce":
        parts.append(f"{loss} loss")
    said = ("steps", "queries", "restarts", "loss")
    parts += [f"{key} {value}" for key, value in unusual(attack.name, constants).items() if key not in said]
    return f"{attack.name} ({', '.join(parts)})" if parts else attack.name


def attacks_words(record: Record) -> str:
    """All attacks of a record: those of the default by its name, for its constants are fixed, else one by one."""
    named = {attack.name.split("/")[0] for attack in record.attacks} == set(STANDARD_FAST)
    if named and not any(unusual(attack.name, attack.constants) for attack in record.attacks):
        return DEFAULT
    return " + ".join(attack_words(attack) for attack in record.attacks) or "no attack"


def answer_words(record: Record) -> str:
    """What the answer to one image costs, where it was measured, else nothing."""
    forward, backward = record.cost.forward_passes, record.cost.backward_passes
    if not forward:
        return ""
    seconds = record.timing.answer_seconds
    return f"{forward:g} forward and {backward:g} backward passes of the image encoder, {seconds:.3g} s per image"


def targeted_words(record: Record) -> str:
    """How often attacks reached a chosen class, where it was measured: rule, attack, share with its interval."""
    found = []
    for rule, reached in record.diagnostics.get("targeted", {}).items():
        found += [f"{rule}, {name}: {Proportion.model_validate(each['success'])}" for name, each in reached.items()]
    return "; ".join(found)


def _row(record: Record) -> Row:
    data = record.data
    parts = [data.name, "" if data.split == "test" else data.split, "" if data.subset == "all" else f"{data.subset} classes"]
    parts.append(f"(trained on {record.trained_on})" if record.trained_on else "")
    return Row(
        method=record.method,
        data=" ".join(part for part in parts if part),
        backbone=record.backbone.name,
        shots=record.shots,
        seed=record.seed,
        eps=f"{record.threat.norm} {radius(record.threat)}",
        threat=record.threat_words,
        attacks=attacks_words(record),
        clean=record.clean,
        robust=record.robust,
        harmonic=record.harmonic,
        parameters=record.cost.trainable_parameters,
        images=record.images,
        undefended=is_undefended(record),
        note=standing(record),
        targeted=targeted_words(record),
        forward_passes=record.cost.forward_passes,
        backward_passes=record.cost.backward_passes,
        answer_seconds=record.timing.answer_seconds,
        one_loss=record.one_loss,
        trained_at=trained_at(record),
        options=json.dumps(record.options, sort_keys=True),
    )


def _values(column: Column, table: Sequence[Row]) -> list[str]:
    """The different values of a column; a dash in a row of a method that learns nothing is no value of its own."""
    return list(dict.fromkeys(value for row in table if (value := column.value(row)) != DASH or row.parameters))
