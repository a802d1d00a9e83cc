"""Sim-CLIP: FARE with the cosine between features as its outer loss. No labels.

Source: arXiv 2407.14971; official code speedlab-git/SimCLIP (train/adversarial_training_simclip.py). The inner attack is FARE's,
on the squared distance from f_0(x) [code]. Deviations: those of `fare`. Sim-CLIP+ is the same tower, used inside a
vision-language model [code].

Equations, f the tuned and f_0 the original tower, z' = f(x'), sg a constant; c = f(x) in the paper (`target="siamese"`), c =
f_0(x) in the released code and weights (`target="frozen"`), where the second term has a value and no gradient:

    L = -1/2 cos(z', sg c) - 1/2 cos(c, sg z')
"""

from collections.abc import Sequence
from typing import Any, Literal

import torch
from torch import Tensor
from torch.nn.functional import cosine_similarity

from ironclip.core.options import check_choice
from ironclip.core.types import Adaptation, Attack, Backbone, Batch
from ironclip.defenses._finetune import FineTuning
from ironclip.defenses.fare import away_from

TARGETS = ("frozen", "siamese")


class SimCLIP(FineTuning):
    """Robust features by cosine similarity; class names are needed for classification alone.

    Args:
        target: the clean branch: "frozen" is the original tower [code], "siamese" the tuned one [paper].
    """

    def __init__(
        self,
        backbone: Backbone,
        classes: Sequence[str],
        *,
        target: Literal["frozen", "siamese"] = "frozen",
        **shared: Any,
    ) -> None:
        super().__init__(backbone, classes, **shared)
        check_choice("target", target, TARGETS)
        self.target = target

    def loss(
        self, backbone: Backbone, batch: Batch, attack: Attack, *, adaptation: Adaptation | None = None
    ) -> dict[str, Tensor]:
        tuned = self.classifier(backbone, batch.classes, adaptation)
        with torch.no_grad():
            original = self.original(backbone, batch.classes).encode_image(batch.images)
        moved = tuned.encode_image(away_from(original, tuned, batch, attack))
        clean = tuned.encode_image(batch.images) if self.target == "siamese" else original
        return {
            "adv_cosine": -cosine_similarity(moved, clean.detach(), dim=-1).mean() / 2,
            "clean_cosine": -cosine_similarity(clean, moved.detach(), dim=-1).mean() / 2,
        }


METHOD = SimCLIP
