"""The served model: functions from images to logits with their class names, and facts about them."""

import copy
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ironclip.backbones import AdaptedClassifier, assemble
from ironclip.core.errors import DataError
from ironclip.core.types import Adaptation, Images, Trace
from ironclip.data import EvalSet
from ironclip.protocols import methods
from ironclip.protocols.experiment import Experiment
from ironclip.protocols.few_shot import open_run
from ironclip.records.folder import RunFolder

DEFENDED, UNDEFENDED = "defended", "undefended"
EXAMPLES = 8
EXPORTED = (".pt2", ".onnx")


@dataclass(frozen=True)
class Served:
    """A model behind the service.

    Args:
        classes: K names.
        resolution: side R of the images the functions take.
        functions: "defended" and, where it is known, "undefended": images [B, 3, R, R] in [0, 1] -> logits [B, K].
        facts: JSON values for `GET /model`.
        examples: (class name, image [3, R, R]) to choose from on the page.
        differentiable: gradients reach the images, so that it can be attacked.
    """

    classes: tuple[str, ...]
    resolution: int
    functions: Mapping[str, Images]
    facts: Mapping[str, Any]
    device: torch.device | str = "cpu"
    examples: tuple[tuple[str, Tensor], ...] = ()
    differentiable: bool = True

    def twin(self) -> "Served":
        """The same model on its own copy of the weights.

        A tower swaps weights in and out during a call, so two threads must not share one: attacks run on the twin.
        """
        return Served(**{**vars(self), "functions": copy.deepcopy(dict(self.functions))})


def open_model(target: Path, *, device: str = "cpu", trust: bool = False) -> Served:
    """The model of a run's folder, or of a file that `ironclip export` wrote; a .pt2, which is code, only with `trust`.

    Raises:
        UsageError, RunError, CheckpointError: nothing there that can be served.
    """
    if target.suffix in EXPORTED:
        from ironclip.serve.exported import open_exported

        opened = open_exported(target, trust=trust)
        facts = opened.facts.model_dump(mode="json")
        facts |= {"backbone": opened.facts.backbone.name, "measured": [str(record) for record in opened.facts.measured]}
        return Served(opened.classes, opened.resolution, {DEFENDED: opened}, facts, differentiable=False)
    run, experiment = open_run(target, device=device)
    return of_experiment(experiment, run)


def of_experiment(experiment: Experiment, run: RunFolder | None = None) -> Served:
    """A trained experiment beside zero-shot classification with the hand-written prompts of its data."""
    backbone, dataset = experiment.backbone, experiment.dataset
    with torch.no_grad():
        plain = assemble(backbone, dataset.classes, Adaptation(templates=dataset.templates))
    defended = experiment.classifier
    for module in (defended, plain):
        if isinstance(module, nn.Module):
            module.eval().requires_grad_(False)
    facts = {
        "method": methods.full(experiment.config.method),
        "backbone": backbone.spec.name,
        "weights_sha256": backbone.spec.sha256,
        "data": dataset.name,
        "classes": list(dataset.classes),
        "resolution": backbone.spec.resolution,
        "preprocessing": "shorter side bicubic antialiased, centre crop",
        "measured": [str(record) for folder in (run.evaluations() if run else []) if (record := folder.record())],
    }
    return Served(
        dataset.classes, backbone.spec.resolution, {DEFENDED: defended, UNDEFENDED: plain}, facts,
        backbone.device, _examples(experiment),
    )  # fmt: skip


def _examples(experiment: Experiment) -> tuple[tuple[str, Tensor], ...]:
    """A few test images, classes in proportion; none where the data are not there any more."""
    try:
        pictures = EvalSet(experiment.dataset, "test", resolution=experiment.backbone.spec.resolution, limit=EXAMPLES)
        batch = pictures.batch(slice(0, EXAMPLES))
    except (DataError, OSError):
        return ()
    return tuple((batch.classes[label], image) for label, image in zip(batch.labels.tolist(), batch.images, strict=True))


def attention(function: Images, image: Tensor) -> list[list[float]] | None:
    """[G, G] attention of the class token to the patches in the last layer, mean over the heads, largest 1; None where the
    tower keeps none (ResNets, timm towers, exported files)."""
    base = getattr(function, "base", function)
    if not isinstance(base, AdaptedClassifier) or base.backbone.spec.kind != "vit" or not base.backbone.spec.class_token:
        return None
    spec = base.backbone.spec
    trace = Trace(tokens=False, attention=True, layers=[spec.image_layers - 1])
    with torch.no_grad():
        base.encode_image(image[None], trace=trace)
    (weights,) = trace.weights.values()
    patches = weights[0, :, 0, 1 : 1 + spec.grid**2].mean(0)  # prompts stand behind the patches
    grid: list[list[float]] = (patches / patches.max().clamp_min(1e-12)).reshape(spec.grid, spec.grid).tolist()
    return grid
