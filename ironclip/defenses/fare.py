"""FARE: fine-tune the image tower so that features of perturbed images stay at the original features of the clean images. No
labels.

Source: arXiv 2402.12336; official code chs20/RobustVLM (train/adversarial_training_clip.py, train/pgd_train.py). Features are not
normalised.

Equations, f the tuned and f_0 the original tower [paper] [code]:

    L = ||f(x') - f_0(x)||^2,  x' = argmax_{||x' - x|| <= eps} ||f(x') - f_0(x)||^2

The code's inner attack has a momentum of 0.9 on signs: v <- sign(0.9 v + sign(gradient)). Because |0.9 v| < 1 this is the sign of
the gradient wherever that is not exactly zero, so plain sign steps reach the same images and are used here. The code starts
outside [0, 1] and clips from the first step on; here the start is clipped too.
"""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from ironclip.backbones import AdaptedClassifier
from ironclip.core.losses import squared_distance_each
from ironclip.core.options import check_flags, check_number
from ironclip.core.types import Adaptation, Attack, Backbone, Batch
from ironclip.defenses._finetune import FineTuning


class FARE(FineTuning):
    """Robust features without labels; class names are needed for classification alone.

    Args:
        clean_weight: w in w clean + (1 - w) adversarial, the clean term for unperturbed images; the paper's is 0 [code].
        trades: the adversarial term's target is the tuned tower's own clean feature, held constant, not the original's [code].
    """

    def __init__(
        self,
        backbone: Backbone,
        classes: Sequence[str],
        *,
        clean_weight: float = 0.0,
        trades: bool = False,
        **shared: Any,
    ) -> None:
        super().__init__(backbone, classes, **shared)
        check_number("clean_weight", clean_weight, 0, 1)
        check_flags(trades=trades)
        self.clean_weight, self.trades = clean_weight, trades

    def loss(
        self, backbone: Backbone, batch: Batch, attack: Attack, *, adaptation: Adaptation | None = None
    ) -> dict[str, Tensor]:
        tuned, weight = self.classifier(backbone, batch.classes, adaptation), self.clean_weight
        with torch.no_grad():
            original = self.original(backbone, batch.classes).encode_image(batch.images)
            target = tuned.encode_image(batch.images) if self.trades else original
        terms = {}
        if weight < 1:
            adv = away_from(target, tuned, batch, attack)
            terms["adv_features"] = (1 - weight) * squared_distance_each(tuned.encode_image(adv), target).mean()
        if weight:
            terms["clean_features"] = weight * squared_distance_each(tuned.encode_image(batch.images), original).mean()
        return terms


def away_from(target: Tensor, tuned: AdaptedClassifier, batch: Batch, attack: Attack) -> Tensor:
    """[B, 3, H, W] images whose tuned features are far from target [B, E]."""
    rows = torch.arange(len(batch), device=target.device)  # in place of labels: which target belongs to an image

    def distance(features: Tensor, rows: Tensor) -> Tensor:
        return squared_distance_each(features, target[rows])

    return attack(tuned.detached().encode_image, batch.images, rows, indices=batch.indices, loss=distance)


METHOD = FARE
