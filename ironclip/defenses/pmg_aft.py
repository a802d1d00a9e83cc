"""PMG-AFT: TeCoA guided by the original model's prediction of the adversarial image and the tuned model's of the clean image.

Source: arXiv 2401.04350; official code serendipity1122/Pre-trained-Model-Guided-Fine-Tuning-for-Zero-Shot-Adversarial-Robustness
(PMG_AFT.py). Objective: cross-entropy of adversarial images + KL(original on adversarial || tuned on adversarial) + KL(tuned on
clean || tuned on adversarial) [paper] [code].

The code sums the KL terms over the batch and averages the cross-entropy, so that they weigh B times more: `kl_reduction="sum"`
does the same, the default averages all. It normalises pixels with ImageNet's constants, in training and testing:
`normalisation="imagenet"`. The second target is not held constant, in the code and here. The inner attack is that of `tecoa`.

Equations, p the prediction of the tuned model and p_ori that of the original, over the training classes:

    L = CE(p(x'), y) + KL(p_ori(x') || p(x')) + KL(p(x) || p(x'))
"""

from collections.abc import Sequence
from typing import Any, Literal

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

from ironclip.core.losses import kl_each
from ironclip.core.options import check_choice, check_flags, check_number
from ironclip.core.types import Adaptation, Attack, Backbone, BackboneSpec, Batch, Images
from ironclip.defenses._finetune import FineTuning, Fixed

IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


class PMG(FineTuning):
    """Pre-trained-model-guided adversarial fine-tuning.

    Args:
        guide_weight: weight of the KL from the original's prediction on the adversarial image.
        clean_weight: weight of the KL from the tuned model's own prediction on the clean image.
        detach_clean: hold that prediction constant.
        kl_reduction: "batchmean", or "sum" over the batch [code].
        normalisation: "clip", or "imagenet": pixels reach either model normalised with ImageNet's constants [code].
    """

    def __init__(
        self,
        backbone: Backbone,
        classes: Sequence[str],
        *,
        guide_weight: float = 1.0,
        clean_weight: float = 1.0,
        detach_clean: bool = False,
        kl_reduction: Literal["batchmean", "sum"] = "batchmean",
        normalisation: Literal["clip", "imagenet"] = "clip",
        **shared: Any,
    ) -> None:
        check_choice("normalisation", normalisation, ("clip", "imagenet"))
        pixels = (_as_if_imagenet(backbone.spec),) if normalisation == "imagenet" else ()
        super().__init__(backbone, classes, Fixed(pixels=pixels), **shared)
        check_number("guide_weight", guide_weight, 0)
        check_number("clean_weight", clean_weight, 0)
        check_flags(detach_clean=detach_clean)
        check_choice("kl_reduction", kl_reduction, ("batchmean", "sum"))
        self.guide_weight, self.clean_weight, self.detach_clean = guide_weight, clean_weight, detach_clean
        self.kl_reduction = kl_reduction

    def loss(
        self, backbone: Backbone, batch: Batch, attack: Attack, *, adaptation: Adaptation | None = None
    ) -> dict[str, Tensor]:
        tuned = self.classifier(backbone, batch.classes, adaptation)
        adv = attack(tuned.detached(), batch.images, batch.labels, indices=batch.indices)
        with torch.no_grad():
            guide = self.original(backbone, batch.classes)(adv)
        moved, clean = tuned(adv), tuned(batch.images)
        over = 1 if self.kl_reduction == "sum" else len(batch)
        return {
            "adv_ce": cross_entropy(moved, batch.labels),
            "guide_kl": self.guide_weight * kl_each(moved, guide).sum() / over,
            "clean_kl": self.clean_weight * kl_each(moved, clean.detach() if self.detach_clean else clean).sum() / over,
        }


def _as_if_imagenet(spec: BackboneSpec) -> Images:
    """Images such that the backbone's own normalisation gives what ImageNet's constants would have given."""

    def shifted(images: Tensor) -> Tensor:
        mean, std, own_mean, own_std = (
            images.new_tensor(values).view(3, 1, 1) for values in (IMAGENET_MEAN, IMAGENET_STD, spec.mean, spec.std)
        )
        return (images - mean) / std * own_std + own_mean

    return shifted


METHOD = PMG
