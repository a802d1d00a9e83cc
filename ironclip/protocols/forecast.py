"""How long a training will take, estimated before it begins: the number of steps, and their time from one pass through each
tower."""

import time
import warnings
from dataclasses import dataclass, replace
from typing import Any

import torch

from ironclip.core.types import Backbone
from ironclip.protocols.experiment import Experiment

PICTURES, TEXTS = 8, 16  # on which the towers are timed


@dataclass(frozen=True)
class Forecast:
    """Optimiser steps in all, epochs, images of a step, steps of the inner attack; and seconds, within a factor of about three:
    first passes are slow, and what a defence adds to the towers is not timed."""

    steps: int
    epochs: int
    batch: int
    inner: int
    seconds: float


def forecast(experiment: Experiment) -> Forecast | None:
    """The forecast of the training of an experiment; None where nothing is trained."""
    config, defense = experiment.config, experiment.defense
    if not any(True for _ in defense.parameters()):
        return None
    shown, schedule = len(experiment.dataset.items("train")), config.schedule
    batch = min(shown, schedule.batch_size)
    each = -(-shown // schedule.batch_size)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # training says again what a defence has to say of its schedule
        steps = schedule.epochs * defense.passes(schedule, each) * each
    inner = inner_steps(config.attack)
    image, text = _seconds(experiment.backbone, len(experiment.dataset.classes))
    return Forecast(steps, schedule.epochs, batch, inner, steps * (batch * (inner + 2) * image + text))


def inner_steps(attack: Any) -> int:
    """Passes forward and backward that the inner attack of a configuration makes."""
    return int(attack.options.get("steps", 10)) if attack.name == "pgd" else 1


def _seconds(backbone: Backbone, classes: int) -> tuple[float, float]:
    """Seconds of one image, and of the prompts of all classes, forward and backward."""
    side, some = backbone.spec.resolution, min(classes, TEXTS)
    images = torch.zeros(PICTURES, 3, side, side, device=backbone.device, requires_grad=True)
    start = time.perf_counter()
    torch.autograd.grad(backbone.encode_image(images).sum(), images)[0].sum().item()
    middle = time.perf_counter()
    tokens = backbone.embed_text(["a photo of a class."] * some)
    embeddings = tokens.embeddings.detach().requires_grad_()
    torch.autograd.grad(backbone.encode_text(replace(tokens, embeddings=embeddings)).sum(), embeddings)[0].sum().item()
    return (middle - start) / PICTURES, (time.perf_counter() - middle) * classes / some
