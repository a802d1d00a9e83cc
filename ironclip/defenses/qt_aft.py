"""QT-AFT: FARE plus finding the caption of an attacked image among those of its batch.

Source: arXiv 2507.16257; official code futakw/QTAFT. The learned scale e^tau starts at 1 / 0.07 and stays in [1, 100];
classification keeps the model's own scale [code]. Deviations: those of `fare`; where the data have no captions the class's prompt
stands in, and images of one class are then no negatives of each other [inferred].

Equations, f and f_0 the tuned and the original tower, not normalised, f^ of unit length, u the unit features of the captions of a
batch, i the own caption:

    L = ||f(x') - f_0(x)||^2 + w CE(e^tau f^(x') u, i),  x' = argmax_{||x' - x|| <= eps} L  [code]
"""

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from ironclip.core.losses import squared_distance_each
from ironclip.core.options import check_flags, check_number
from ironclip.core.types import Adaptation, Attack, Backbone, Batch
from ironclip.defenses._finetune import FineTuning
from ironclip.defenses._pairs import captions, encoded, matching, others

START, LARGEST = math.log(1 / 0.07), 4.6052  # of tau


class QTAFT(FineTuning):
    """Quality-text-guided adversarial fine-tuning.

    Args:
        caption_weight: w; 0 is FARE.
        mask_equal: images with equal captions are no negatives of each other.
    """

    divisible = False

    def __init__(
        self,
        backbone: Backbone,
        classes: Sequence[str],
        *,
        caption_weight: float = 10.0,
        mask_equal: bool = False,
        **shared: Any,
    ) -> None:
        super().__init__(backbone, classes, **shared)
        check_number("caption_weight", caption_weight, 0)
        check_flags(mask_equal=mask_equal)
        self.caption_weight, self.mask_equal = caption_weight, mask_equal
        self.tau = nn.Parameter(torch.tensor(START, dtype=backbone.dtype).to(backbone.device))

    def loss(
        self, backbone: Backbone, batch: Batch, attack: Attack, *, adaptation: Adaptation | None = None
    ) -> dict[str, Tensor]:
        tuned, texts = self.classifier(backbone, batch.classes, adaptation), captions(backbone, batch, self.templates[0])
        u, same = encoded(backbone, texts), others(texts, batch.images.device)
        same = same if self.mask_equal or not batch.texts else torch.zeros_like(same)
        with torch.no_grad():
            self.tau.clamp_(0, LARGEST)  # where the step before has left the range
            target = self.original(backbone, batch.classes).encode_image(batch.images)

        def terms(features: Tensor, rows: Tensor, tau: Tensor) -> tuple[Tensor, Tensor]:
            found = matching(features, u[rows], tau.exp(), same[rows][:, rows], both=False)
            return squared_distance_each(features, target[rows]), self.caption_weight * found

        def both(features: Tensor, rows: Tensor) -> Tensor:
            return sum(terms(features, rows, self.tau.detach()), torch.zeros((), device=features.device))

        rows = torch.arange(len(batch), device=target.device)  # in place of labels: which target and caption belong to an image
        adv = attack(tuned.detached().encode_image, batch.images, rows, indices=batch.indices, loss=both)
        distance, found = terms(tuned.encode_image(adv), rows, self.tau)
        return {"adv_features": distance.mean(), "caption": found.mean()}


METHOD = QTAFT
