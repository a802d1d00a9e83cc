"""The classifier on which borrowed images are made: zero-shot classification by a backbone, or another run."""

from pathlib import Path
from typing import cast

import torch

from ironclip.backbones import ClipBackbone, assemble
from ironclip.backbones.loading import load
from ironclip.core.errors import UsageError
from ironclip.core.threat import Knowledge
from ironclip.core.types import Adaptation, Classifier
from ironclip.protocols import methods
from ironclip.protocols.experiment import Experiment, transferred
from ironclip.protocols.few_shot import open_run
from ironclip.records.folder import is_run


def check_source(knowledge: str | None, source: str | None) -> None:
    """UsageError unless a source is named exactly where the threat is transfer."""
    if knowledge == "transfer" and not source:
        raise UsageError("a transfer attack is made on another model; name a backbone or a run with --source")
    if source and knowledge != "transfer":
        raise UsageError(f"--source is the model on which transfer images are made; add --knowledge transfer; got {source!r}")


def transfer_source(source: str, experiment: Experiment) -> tuple[str, Classifier]:
    """(name for captions, classifier) of another model, with the class names and prompts of the attacked one.

    Args:
        source: a run's folder, or a backbone for zero-shot classification.

    Raises:
        UsageError: a model that sees images of another size, or a run that fits its own classes alone.
    """
    device = str(experiment.backbone.device)
    if is_run(Path(source)):
        run, other = open_run(Path(source), device=device)
        if other.dataset.classes != experiment.dataset.classes:
            other = transferred(other, experiment.config.dataset, experiment.config.subset, opened=experiment.dataset)
        name, classifier, spec = f"{named(other)}, run {run.config_hash[:8]}", other.classifier, other.backbone.spec
    else:
        backbone = load(source, device=device)
        name, classifier, spec = f"zero_shot on {backbone.spec.name}", zero_shot(backbone, experiment), backbone.spec
    if spec.resolution != experiment.backbone.spec.resolution:
        sizes = f"{spec.resolution} and {experiment.backbone.spec.resolution} pixels"
        raise UsageError(f"transfer images from {source!r} do not fit: the models see {sizes}")
    return name, classifier


def borrowed(
    experiment: Experiment, classifier: Classifier, knowledge: Knowledge, source: str | None
) -> tuple[str, tuple[Classifier, ...]]:
    """(name of the classifier the images are made on, "" for the evaluated one; what an attack is handed besides).

    Static: instead of the evaluated one the classifier below the test-time method, or without one zero-shot classification.
    """
    check_source(knowledge, source)
    if source is not None:
        name, other = transfer_source(source, experiment)
        return name, (other,)
    above = experiment.test_time
    if above is None:
        if knowledge == "static":
            return f"zero_shot on {experiment.backbone.spec.name}", (zero_shot(experiment.backbone, experiment),)
        return "", experiment.defense.surrogates(classifier) if knowledge == "adaptive" else ()
    below = cast(Classifier, classifier.base)  # type: ignore[attr-defined]
    below.name = "base"  # type: ignore[attr-defined]
    if knowledge == "static":
        return named(experiment), (below,)
    if knowledge == "adaptive":
        return "", (*above.surrogates(classifier), below, *experiment.defense.surrogates(below))
    return "", ()


def zero_shot(backbone: ClipBackbone, experiment: Experiment) -> Classifier:
    """Zero-shot classification by a backbone, with the classes and prompts of the experiment."""
    templates = Adaptation(templates=experiment.dataset.templates)
    with torch.no_grad():
        return assemble(backbone, experiment.dataset.classes, templates)


def named(experiment: Experiment) -> str:
    """The trained part of an experiment in words, such as "apt on mini"."""
    return f"{methods.split(experiment.config.method)[0]} on {experiment.backbone.spec.name}"
