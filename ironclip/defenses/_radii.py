"""Training under several radii at once: the parts of a batch are attacked at shares of the radius, in turn."""

from collections.abc import Sequence
from dataclasses import is_dataclass, replace
from typing import cast

import torch
from torch import Tensor

from ironclip.backbones import AdaptedClassifier
from ironclip.core.errors import UsageError
from ironclip.core.options import check_number
from ironclip.core.types import Attack, Batch


def check_radii(radii: Sequence[float]) -> tuple[float, ...]:
    """The shares of eps; UsageError unless they are numbers in [0, 1], one of them above 0."""
    found = tuple(radii) if isinstance(radii, Sequence) and not isinstance(radii, str) else ()
    for share in found:
        check_number("radii", share, 0, 1)
    if not any(found):
        raise UsageError(f"radii are shares of eps, at least one of them above 0; got {radii!r}")
    return found


def attacked(classifier: AdaptedClassifier, batch: Batch, attack: Attack, radii: Sequence[float]) -> Tensor:
    """[B, 3, H, W] the images of the batch under attack, each part at its share of the radius; a share of 0 leaves it clean.

    Raises:
        UsageError: a share below 1 of an attack without a field `eps`.
    """
    adv = batch.images.clone()
    for share, rows in zip(radii, torch.arange(len(batch)).tensor_split(len(radii)), strict=True):
        if share and len(rows):
            part, labels, indices = batch.images[rows], batch.labels[rows], batch.indices[rows]
            adv[rows] = scaled(attack, share)(classifier, part, labels, indices=indices)
    return adv


def scaled(attack: Attack, share: float) -> Attack:
    """The attack at this share of its radius and step; UsageError where it has no field `eps`."""
    if share == 1:
        return attack
    eps, step = getattr(attack, "eps", None), getattr(attack, "step_size", None)
    if eps is None or not is_dataclass(attack):
        raise UsageError(f"radii below 1 need a training attack with a field eps; got {attack!r}")
    changes = {"eps": eps * share} if step is None else {"eps": eps * share, "step_size": step * share}
    return cast(Attack, replace(attack, **changes))
