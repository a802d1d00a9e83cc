"""AGFT: fine-tune the image tower towards the original model's own softened prediction of the clean image. No labels.

Source: arXiv 2603.29410; official code YuboCui/AGFT (train.py, attacks/pgd.py). Labels are never used, class names are. The
scale belongs to the training: classification keeps the model's own [code]. Deviations: float32.

Equations, s the training scale, gamma the target ratio, f^ and f0^ the unit features of the tuned and of the original tower, t
the text features:

    p = softmax(gamma s f0^(x) t),  q = softmax(s f^(x') t)
    L = -mean_i sum_k p_ik log q_ik,  x' = argmax_{||x' - x|| <= eps} L
"""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from ironclip.core.options import check_number
from ironclip.core.types import Adaptation, Attack, Backbone, Batch
from ironclip.defenses._finetune import FineTuning


class AGFT(FineTuning):
    """Alignment-guided fine-tuning.

    Args:
        train_scale: s, of the cosines in the loss and in the inner attack.
        target_ratio: gamma; 1 and the model's own scale are distillation of the original's probabilities.
    """

    def __init__(
        self,
        backbone: Backbone,
        classes: Sequence[str],
        *,
        templates: Sequence[str] = ("This is a photo of a {}.",),
        train_scale: float = 180.0,
        target_ratio: float = 0.4,
        **shared: Any,
    ) -> None:
        super().__init__(backbone, classes, templates=templates, **shared)
        check_number("train_scale", train_scale, 0, above=True)
        check_number("target_ratio", target_ratio, 0, above=True)
        self.train_scale, self.target_ratio = train_scale, target_ratio

    def loss(
        self, backbone: Backbone, batch: Batch, attack: Attack, *, adaptation: Adaptation | None = None
    ) -> dict[str, Tensor]:
        tuned, ratio = self.classifier(backbone, batch.classes, adaptation), self.train_scale / backbone.spec.logit_scale
        with torch.no_grad():
            target = (self.target_ratio * ratio * self.original(backbone, batch.classes)(batch.images)).softmax(1)

        def alignment(logits: Tensor, rows: Tensor) -> Tensor:
            return -(target[rows] * (ratio * logits).log_softmax(1)).sum(1)

        rows = torch.arange(len(batch), device=target.device)  # in place of labels: which target belongs to an image
        adv = attack(tuned.detached(), batch.images, rows, indices=batch.indices, loss=alignment)
        return {"adv_alignment": alignment(tuned(adv), rows).mean()}


METHOD = AGFT
