"""The contents of a report as plain values, read from run folders or made by hand. Imports no torch."""

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from ironclip.core.errors import UsageError
from ironclip.core.threat import Norm, Threat, format_eps
from ironclip.records.folder import RunFolder
from ironclip.records.record import Proportion, Record
from ironclip.report.labels import Entry, labels_of

if TYPE_CHECKING:
    from ironclip.records.pictures import Example

UNDEFENDED = ("zero_shot",)


@dataclass(frozen=True)
class Panel:
    """One image before and after an attack.

    Args:
        clean, adversarial: [3, H, W] in [0, 1]; a CPU tensor or an array.
        before, after: predicted class names; their probabilities are None where they were not kept.
    """

    clean: Any
    adversarial: Any
    label: str
    before: str
    after: str
    before_probability: float | None = None
    after_probability: float | None = None
    attack: str = ""
    index: int = 0


@dataclass(frozen=True)
class Point:
    """Robust accuracy at one radius; radius 0 is clean accuracy."""

    eps: float
    robust: Proportion


@dataclass(frozen=True)
class RunView:
    """One evaluation as the report shows it.

    Args:
        log: entries of the training log; only those with {"event": "epoch", "epoch", "terms", "diagnostics", "flags"} are drawn.
        curve: robust accuracy by radius, from `curve`.
        config: the settings of its run, which tell variants of a method apart.
    """

    record: Record
    log: Sequence[Mapping[str, Any]] = ()
    panels: Sequence[Panel] = ()
    curve: Sequence[Point] = ()
    config: Mapping[str, Any] = field(default_factory=dict)

    @property
    def undefended(self) -> bool:
        return is_undefended(self.record)


def methods_of(views: Sequence[RunView]) -> list[str]:
    """The method of each view, with the settings that tell variants of it apart."""
    return labels_of([Entry(view.record, view.config) for view in views])


def is_undefended(record: Record) -> bool:
    return record.method in UNDEFENDED


def standing(record: Record) -> Literal["", "static-only", "transfer-only", "black-box-only", "not trusted"]:
    """Why the robust accuracy of this record must not be ranked or made a headline; empty: it may."""
    if any(flag.level == "fail" for flag in record.flags):
        return "not trusted"
    if record.threat.knowledge == "static":
        return "static-only"
    if record.threat.knowledge == "black-box":
        return "black-box-only"
    return "transfer-only" if record.threat.knowledge == "transfer" else ""


def panels(examples: Iterable["Example"], classes: Sequence[str]) -> tuple[Panel, ...]:
    """Panels of kept examples, with the names of the classes; probabilities where the example carries them."""

    def name(label: int) -> str:
        return classes[label] if 0 <= label < len(classes) else f"class {label}"

    return tuple(
        Panel(
            example.clean,
            example.adversarial,
            label=name(example.label),
            before=name(example.clean_prediction),
            after=name(example.prediction),
            before_probability=getattr(example, "clean_probability", None),
            after_probability=getattr(example, "probability", None),
            attack=example.attack,
            index=example.index,
        )
        for example in examples
    )


def radius(threat: Threat, eps: float | None = None) -> str:
    """A radius as people write it: in grey levels for l-infinity, decimal for l2. Default: that of the threat."""
    eps = threat.eps if eps is None else eps
    return format_eps(eps, threat.norm)


def trained_at(record: Record) -> str:
    """The radius of the training attack as people write it, with its norm where that is not linf; "" where nothing is trained."""
    attack = record.training_attack
    if not record.cost.trainable_parameters or not attack or "eps" not in attack:
        return ""
    norm: Norm = attack.get("norm", "linf")
    return f"{'' if norm == 'linf' else f'{norm} '}{format_eps(attack['eps'], norm)}"


def curve(records: Iterable[Record]) -> tuple[Point, ...]:
    """Robust accuracy by radius, from evaluations of one classifier that differ in the radius only; starts with clean at 0.

    Raises:
        UsageError: records of several defences, data sets or threat models, or two of the same radius.
    """
    ordered = sorted(records, key=lambda record: record.threat.eps)
    if not ordered:
        return ()
    if len({setting(record) for record in ordered}) > 1:
        raise UsageError("a curve over eps needs records that differ in eps only")
    points = {0.0: ordered[0].clean}
    for record in ordered:
        if record.threat.eps in points and record.threat.eps > 0:
            raise UsageError(f"two records of one curve have eps {record.threat.eps:g}")
        points[record.threat.eps] = record.robust
    return tuple(Point(eps, robust) for eps, robust in points.items())


def setting(record: Record) -> str:
    """Everything that makes two records comparable, except the radius: which classifier, images and kind of attack."""
    attacks = tuple(sorted(attack.name for attack in record.attacks))
    threat = replace(record.threat, eps=0.0).as_dict()
    who = record.model_dump(mode="json", include={"method", "options", "backbone", "data", "shots", "split_seed", "seed"})
    return json.dumps([who, threat, record.quantise, attacks, record.images], sort_keys=True)


def read(run: RunFolder) -> tuple[RunView, ...]:
    """The finished evaluations of a run. Those that differ in eps only become one view with a curve.

    The radius shown is that of the run's own (first) evaluation, elsewhere the largest. Empty where nothing is finished.
    """
    from ironclip.records.pictures import load_examples

    groups: dict[str, list[tuple[Record, Path]]] = {}
    for place in run.evaluations():
        if (record := place.record()) is not None:
            groups.setdefault(setting(record), []).append((record, place.path))
    views: list[RunView] = []
    for found in groups.values():
        record, path = found[0] if found[0][1] == run.path else max(found, key=lambda pair: pair[0].threat.eps)
        shown = panels(load_examples(path / "examples.safetensors"), record.data.classes)
        distinct = {each.threat.eps: each for each, _ in found}
        views.append(RunView(record, run.entries() if not views else (), shown, curve(distinct.values()), run.config))
    return tuple(views)
