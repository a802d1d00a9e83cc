"""The facts stored with a published model: what it is, how it was trained, what was measured. Imports no torch."""

import shlex
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from pydantic import Field, ValidationError, field_validator

from ironclip.core.errors import CheckpointError
from ironclip.core.texts import json_value
from ironclip.core.threat import format_eps
from ironclip.core.version import __version__
from ironclip.protocols import methods
from ironclip.records.bounds import mark
from ironclip.records.folder import RunFolder
from ironclip.records.record import BackboneFacts, Part, Proportion, Record
from ironclip.records.verified import UNSEALED, opened
from ironclip.report.tables import attack_words
from ironclip.report.views import standing

if TYPE_CHECKING:
    from ironclip.protocols.experiment import Experiment

KEY = "ironclip.json"
"""Name under which the facts lie in a file."""


class Measured(Part):
    """One record in short; accuracies are fractions with their 95 % intervals.

    Args:
        data: name of the data set, its split and, where it is not all, which classes.
        standing: why the robust accuracy must not be ranked ("static-only" ...); empty: it may.
        one_loss: whether the robust accuracy is an upper bound (`runs.bounds`).
    """

    data: str
    split_hash: str = ""
    images: int
    norm: str
    eps: str
    knowledge: str
    threat: str
    attacks: tuple[str, ...]
    clean: Proportion
    robust: Proportion
    standing: str = ""
    one_loss: bool = False
    flags: tuple[str, ...] = ()
    command: str = ""

    @field_validator("clean", "robust")
    @classmethod
    def _counted(cls, value: Proportion) -> Proportion:
        if not 0 <= value.count <= value.of or value.of < 1 or value != Proportion.measured(value.count, value.of):
            raise ValueError("share and interval are not those of its counts")
        return value

    def __str__(self) -> str:
        threat = f"{self.threat}; {', '.join(self.attacks) or 'no attack'}; n={self.images}"
        note = f"; {self.standing}" if self.standing else ""
        return f"{self.data}: clean {self.clean}, robust {mark(self.one_loss)}{self.robust} ({threat}{note})"


class Training(Part):
    """How it was trained; None where nothing was learned."""

    data: str
    shots: int | None
    eps: str
    attack: dict[str, Any]
    seed: int
    split_seed: int
    parameters: int


class Facts(Part):
    """Everything a reader of the file must know.

    Args:
        templates: prompts behind the class features; `{ctx}` stands for learned words.
        resolution: side R of the images [B, 3, R, R] in [0, 1] that go in; logits [B, K] in the order of `classes` come out.
        preprocessing: how a file becomes such an image; mean and deviation are inside the model.
    """

    format: Literal[1] = 1
    version: str = __version__
    method: str
    options: dict[str, Any] = Field(default_factory=dict)
    classes: tuple[str, ...] = Field(max_length=100_000)
    templates: tuple[str, ...] = Field(max_length=10_000)
    backbone: BackboneFacts
    resolution: int = Field(ge=1, le=4096)
    preprocessing: str
    training: Training | None = None
    measured: tuple[Measured, ...] = ()


def facts_of(experiment: "Experiment", records: Iterable[Record] = ()) -> Facts:
    """The facts of a trained experiment and of what was measured of it."""
    from ironclip.attacks import describe
    from ironclip.protocols.few_shot import training_attack
    from ironclip.protocols.measure import PREPROCESSING

    config, spec = experiment.config, experiment.backbone.spec
    adaptation = experiment.base.adaptation
    parameters = sum(p.numel() for p in experiment.defense.parameters())
    training = Training(
        data=experiment.trained_on or experiment.dataset.name, shots=config.shots, eps=format_eps(config.eps, config.norm),
        attack=describe(training_attack(config)), seed=config.seed, split_seed=config.split_seed, parameters=parameters,
    )  # fmt: skip
    return Facts(
        method=methods.full(config.method),
        options=config.options,
        classes=experiment.dataset.classes,
        templates=(adaptation.context.template,) if adaptation.context is not None else adaptation.templates,
        backbone=BackboneFacts(name=spec.name, sha256=spec.sha256),
        resolution=spec.resolution,
        preprocessing=PREPROCESSING,
        training=training if parameters else None,
        measured=tuple(measured(record) for record in records),
    )


def own_records(run: RunFolder | None, experiment: "Experiment") -> list[Record]:
    """What was measured of this experiment's method; evaluations with a test-time method on top are another method's."""
    places = [] if run is None else run.evaluations()
    found = [record for place in places if (record := place.record()) is not None]
    return [record for record in found if record.method == methods.full(experiment.config.method)]


def measured(record: Record) -> Measured:
    data, threat = record.data, record.threat
    subset = "" if data.subset == "all" else f", {data.subset} classes"
    return Measured(
        data=f"{data.name} {data.split}{subset}",
        split_hash=data.split_hash,
        images=record.images,
        norm=threat.norm,
        eps=format_eps(threat.eps, threat.norm),
        knowledge=threat.knowledge,
        threat=record.threat_words,
        attacks=tuple(attack_words(attack) for attack in record.attacks),
        clean=record.clean,
        robust=record.robust,
        standing=standing(record),
        one_loss=record.one_loss,
        flags=tuple(f"{flag.level}: {flag.text}" for flag in record.flags),
        command=public(record.command),
    )


def public(command: str) -> str:
    """A command line without the folders of the machine on which it was typed."""
    try:
        words = shlex.split(command)
    except ValueError:
        return ""
    return shlex.join(Path(word).name if Path(word).is_absolute() or word.startswith((".", "~")) else word for word in words)


def read_facts(text: str | bytes, where: object) -> Facts:
    """The facts in a file.

    Raises:
        CheckpointError: not written by this version, or edited.
    """
    try:
        value, reason = opened(json_value(text))
    except ValueError as error:
        raise CheckpointError(f"{where}: its facts cannot be read ({error}); export it again") from None
    if reason is not None:
        why = "they hold no sha256" if reason == UNSEALED else "they do not fit their own sha256"
        raise CheckpointError(f"{where}: its facts are not to be believed ({why}); export it again")
    try:
        return Facts.model_validate(value)
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(str(part) for part in first["loc"]) or "it"
        raise CheckpointError(f"{where}: its facts cannot be read ({place}: {first['msg']}); export it again") from None


def names(values: Sequence[str], limit: int = 8) -> str:
    """The first of many names, and how many there are."""
    shown = ", ".join(values[:limit])
    return shown if len(values) <= limit else f"{shown} and {len(values) - limit} more"
