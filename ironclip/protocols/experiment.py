"""A configuration with everything it names loaded, and its variants without training: other data, other classes, a test-time
method on top."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import torch

from ironclip import defenses, testtime
from ironclip.backbones import AdaptedClassifier, ClipBackbone, assemble
from ironclip.core.errors import CheckpointError, UsageError
from ironclip.core.tensors import generator
from ironclip.core.types import Batch, Classifier, Defense, TestTime
from ironclip.data import Dataset, TrainSet, base_to_new, few_shot, open_dataset
from ironclip.protocols import methods
from ironclip.protocols.config import RunConfig
from ironclip.protocols.frozen import Frozen, load_frozen
from ironclip.records.learned import Learned

INIT = 1  # keeps the draw of starting values apart from other uses of the seed
SOURCE_SHOTS, SOURCE_BATCH = 16, 32  # images that a test-time method may prepare itself with


@dataclass(frozen=True, repr=False)
class Experiment:
    """A configuration with what it names loaded: data with the shots drawn, frozen backbone, defence, test-time method.

    `trained_on` names the data the defence was trained on where they are others, `source` are those data. `suite` is the
    list of data sets in which `dataset` is measured.
    """

    config: RunConfig
    dataset: Dataset
    backbone: ClipBackbone
    defense: Defense
    test_time: TestTime | None = None
    trained_on: str = ""
    source: Dataset | None = None
    suite: str = ""

    def __repr__(self) -> str:
        return f"Experiment({self.config.method} on {self.backbone.spec.name}, {self.dataset})"

    @property
    def base(self) -> AdaptedClassifier:
        """The trained classifier, without a test-time method."""
        with torch.no_grad():
            return assemble(self.backbone, self.dataset.classes, self.defense.adaptation(self.backbone, self.dataset.classes))

    @property
    def classifier(self) -> Classifier:
        """The trained classifier with the test-time method, if any, prepared on training images and put on top."""
        base = self.base
        if self.test_time is None:
            return base
        self.test_time.prepare(base, self.source_batches())
        return self.test_time(base)

    def source_batches(self) -> Iterator[Batch]:
        """Training images as they are, of the data the defence was trained on: the shots it was trained on, 16 per class where
        it was trained on all or nothing was trained; always the same. Nothing is read before the first batch is asked for."""
        data, shots = self.source or self.dataset, self.config.shots or SOURCE_SHOTS
        chosen = few_shot(data, shots, self.config.split_seed, strict=False)
        pictures = TrainSet(chosen, resolution=self.backbone.spec.resolution)
        yield from pictures.batches(0, self.config.seed, SOURCE_BATCH, augment="none")


def open_experiment(
    config: RunConfig,
    *,
    device: str = "cpu",
    backbone: ClipBackbone | None = None,
    dataset: Dataset | None = None,
    test_time: TestTime | None = None,
    weights: Path | str | None = None,
) -> Experiment:
    """Load what the configuration names, except what is passed in; fails before any work is done.

    Args:
        weights: where the file with the weights of its backbone lies now, if it was moved.

    Raises:
        UsageError, DataError, CheckpointError: a name, an option, a split or a file that cannot be used.
    """
    if dataset is None:
        dataset = open_configured(config)
    trained, above = methods.split(config.method)
    _, adapts = methods.divide(config.method, config.options)
    parts = [defenses.method(name) for name in trained.split("+")]
    if any(part.learns for part in parts) and config.shots is not None:
        dataset = few_shot(dataset, config.shots, config.split_seed, strict=config.strict_shots)
    if config.subset != "all":
        dataset = base_to_new(dataset)[0 if config.subset == "base" else 1]
    backbone = backbone or load_frozen(Frozen.of(config), device=device, weights=weights)
    defense = build_defense(config, backbone, dataset.classes, dataset.templates)
    test_time = test_time or (testtime.build(above, adapts, dataset=dataset.name) if above else None)
    return Experiment(config, dataset, backbone, defense, test_time)


def open_configured(config: RunConfig) -> Dataset:
    """The data set that a configuration names, whole."""
    return open_dataset(config.dataset, classes_file=config.classes, templates=config.templates, layout=config.layout)


def build_defense(config: RunConfig, backbone: ClipBackbone, classes: Sequence[str], templates: Sequence[str]) -> Defense:
    """The trained part of a configuration's method with its starting values; `templates` where it takes hand-written prompts."""
    trained, _ = methods.split(config.method)
    options, _ = methods.divide(config.method, config.options)
    for key in defenses.options(trained):
        part, _, option = key.rpartition(".")
        if option == "templates" and (part or trained) != "hep":
            options.setdefault(key, tuple(templates))
    draw = generator(config.seed, INIT)
    return defenses.build(trained, backbone, classes, generator=draw, given=options).to(backbone.device)


def take_learned(defense: Defense, learned: Learned, where: object) -> None:
    """Load stored tensors into a defence that was built for them.

    Raises:
        CheckpointError: the tensors are of another method, of other sizes, or of another kind of number.
    """
    try:
        defense.load_learned(learned.tensors)
    except (RuntimeError, ValueError, TypeError, LookupError, AttributeError) as error:
        said = (str(error).splitlines() or [type(error).__name__])[0][:200]
        raise CheckpointError(f"{where} does not fit {learned.method}: {said}") from None


def with_test_time(experiment: Experiment, name: str, given: Mapping[str, Any] | None = None) -> Experiment:
    """The same experiment with a test-time method on top; its configuration names it, nothing is trained again.

    Raises:
        UsageError: it has one already, or the name or an option is unknown.
    """
    config = experiment.config
    if experiment.test_time is not None:
        raise UsageError(f"{config.method} holds a test-time method already; leave out {name!r}")
    method = testtime.build(name, given, dataset=experiment.dataset.name)
    options = config.options if "+" in config.method else {f"{config.method}.{k}": v for k, v in config.options.items()}
    options = options | {f"{name}.{k}": v for k, v in testtime.worded(given or {}).items()}
    config = config.model_copy(update={"method": f"{config.method}+{name}", "options": options})
    return replace(experiment, config=config, test_time=method)


def transferred(
    experiment: Experiment,
    name: str | None = None,
    subset: Literal["all", "base", "new"] = "all",
    *,
    classes: str | None = None,
    layout: str = "auto",
    opened: Dataset | None = None,
    suite: str = "",
) -> Experiment:
    """The trained defence on other data or classes, with their names and hand-written prompts; nothing is trained again.

    Args:
        name: another data set; None: the one trained on.
        subset: which of its classes. classes: file with their names; default: as trained, for other data those of the data.
        layout: what its folders mean. opened: that data set, as a suite has it.

    Raises:
        UsageError: no such data, or a defence that fits the classes alone for which it was learned.
    """
    trained = experiment.config
    config = trained.model_copy(
        update={
            "dataset": name or trained.dataset,
            "classes": classes or (None if name else trained.classes),
            "layout": layout if name or layout != "auto" else trained.layout,
            "subset": subset,
        }
    )
    dataset = opened or open_configured(config)
    if subset != "all":
        dataset = base_to_new(dataset)[0 if subset == "base" else 1]
    # Built for its own classes, so that a defence which depends on them notices; the prompts are those of the other data.
    own = replace(experiment.dataset, templates=dataset.templates)
    moved = open_experiment(
        trained.model_copy(update={"shots": None, "subset": "all"}),
        backbone=experiment.backbone, dataset=own, test_time=experiment.test_time,
    )  # fmt: skip
    moved.defense.load_learned(experiment.defense.learned())
    with torch.no_grad():
        moved.defense.adaptation(experiment.backbone, dataset.classes)
    source = experiment.dataset.name + ("" if trained.subset == "all" else f" {trained.subset}")
    return replace(moved, config=config, dataset=dataset, trained_on=source, source=experiment.dataset, suite=suite)
