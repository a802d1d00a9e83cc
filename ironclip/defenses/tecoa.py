"""TeCoA: fine-tune the image tower on adversarial images against the text features of the class names.

Source: arXiv 2212.07016; official code cvlab-columbia/ZSRobust4FoundationModel (finetuning.py). Objective: cross-entropy of
adversarial images over the training classes [paper] [code]. Deviations from the code: the inner attack runs in float32 and
differentiates pixels alone (there half precision with unscaled losses, whose small gradients become zero, and gradients that add
to the weights' gradients); the last epoch is kept (there the best on other data sets' test images).

Equations, theta the image tower, t_k the text feature of class k:

    min_theta CE(s cos(f_theta(x'), t), y),  x' = argmax_{||x' - x|| <= eps} CE(s cos(f_theta(x'), t), y)
"""

from collections.abc import Sequence
from typing import Any

from torch import Tensor
from torch.nn.functional import cross_entropy

from ironclip.core.options import check_number
from ironclip.core.types import Adaptation, Attack, Backbone, Batch
from ironclip.defenses._finetune import FineTuning, Fixed


class TeCoA(FineTuning):
    """Text-guided contrastive adversarial fine-tuning; the other options are those of every fine-tuning method.

    Args:
        text_tune: weights of the text tower that are learned, named as `tune` names those of the image tower; None: none.
        adv_weight: w in (1 - w) CE(clean) + w CE(adversarial); 1 is the paper's, 0 is fine-tuning on clean images.
    """

    def __init__(
        self,
        backbone: Backbone,
        classes: Sequence[str],
        *,
        text_tune: str | Sequence[str] | None = None,
        adv_weight: float = 1.0,
        **shared: Any,
    ) -> None:
        super().__init__(backbone, classes, Fixed(text_tune=text_tune), **shared)
        check_number("adv_weight", adv_weight, 0, 1)
        self.adv_weight = adv_weight

    def loss(
        self, backbone: Backbone, batch: Batch, attack: Attack, *, adaptation: Adaptation | None = None
    ) -> dict[str, Tensor]:
        tuned, weight = self.classifier(backbone, batch.classes, adaptation), self.adv_weight
        terms = {}
        if weight:
            adv = attack(tuned.detached(), batch.images, batch.labels, indices=batch.indices)
            terms["adv_ce"] = weight * cross_entropy(tuned(adv), batch.labels)
        if weight < 1:
            terms["clean_ce"] = (1 - weight) * cross_entropy(tuned(batch.images), batch.labels)
        return terms


METHOD = TeCoA
