"""AdvFLYP: adversarial fine-tuning on image-text pairs with CLIP's own contrastive loss, held near the original tower.

Source: arXiv 2604.11576; official code Sxing2/AdvFLYP. The inner attack raises L_c alone.
Deviations: float32; images with equal captions are no negatives of each other where the data have no captions and the class's
prompt stands in [inferred], or with `mask_equal`; one caption per image.

Equations, u the unit features of the captions of a batch, z = f^(x') the unit feature of the attacked image, p its prediction
over the captions; z0, p0 those of the original tower on the same attacked image; zc, pc those of the tuned tower on the clean
one, not held constant [code]:

    L_c = 1/2 [CE(s z u) + CE(s u z)]
    L = L_c + feature_weight mean(|z - z0| + |z - zc|) + logit_weight (KL(p || p0) + KL(p || pc))
"""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import normalize

from ironclip.core.losses import kl_each
from ironclip.core.options import check_flags, check_number
from ironclip.core.types import Adaptation, Attack, Backbone, Batch
from ironclip.defenses._finetune import FineTuning
from ironclip.defenses._pairs import captions, encoded, matching, others


class AdvFLYP(FineTuning):
    """Adversarial "fine-tune like you pre-train".

    Args:
        feature_weight: of the distances of features.
        logit_weight: of the divergences of predictions.
        mask_equal: images with equal captions are no negatives of each other.
    """

    divisible = False

    def __init__(
        self,
        backbone: Backbone,
        classes: Sequence[str],
        *,
        feature_weight: float = 1.0,
        logit_weight: float = 1.0,
        mask_equal: bool = False,
        **shared: Any,
    ) -> None:
        super().__init__(backbone, classes, **shared)
        check_number("feature_weight", feature_weight, 0)
        check_number("logit_weight", logit_weight, 0)
        check_flags(mask_equal=mask_equal)
        self.feature_weight, self.logit_weight, self.mask_equal = feature_weight, logit_weight, mask_equal

    def loss(
        self, backbone: Backbone, batch: Batch, attack: Attack, *, adaptation: Adaptation | None = None
    ) -> dict[str, Tensor]:
        tuned, scale = self.classifier(backbone, batch.classes, adaptation), backbone.spec.logit_scale
        texts = captions(backbone, batch, self.templates[0])
        u, same = encoded(backbone, texts), others(texts, batch.images.device)
        same = same if self.mask_equal or not batch.texts else torch.zeros_like(same)

        def contrast(features: Tensor, rows: Tensor) -> Tensor:
            return matching(features, u[rows], scale, same[rows][:, rows], both=True)

        rows = torch.arange(len(batch), device=batch.images.device)  # in place of labels: which caption belongs to an image
        adv = attack(tuned.detached().encode_image, batch.images, rows, indices=batch.indices, loss=contrast)
        features = tuned.encode_image(adv)
        terms = {"adv_contrast": contrast(features, rows).mean()}
        if not self.feature_weight and not self.logit_weight:
            return terms
        with torch.no_grad():
            original = normalize(self.original(backbone, batch.classes).encode_image(adv), dim=-1)
        z, clean = normalize(features, dim=-1), normalize(tuned.encode_image(batch.images), dim=-1)
        if self.feature_weight:
            far = (z - original).norm(dim=1) + (z - clean).norm(dim=1)
            terms["features"] = self.feature_weight * far.mean()
        if self.logit_weight:
            p, p0, pc = (scale * each @ u.T for each in (z, original, clean))
            terms["captions_kl"] = self.logit_weight * (kl_each(p0, p) + kl_each(pc, p)).mean()
        return terms


METHOD = AdvFLYP
