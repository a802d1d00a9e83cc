"""Comp-TGA: TGA-ZSR with maps that are high where an image agrees with its class's text and not with the text of "not" that
class.

Source: arXiv 2603.18598; official code zhyblue424/TGA-ZSR (Comp-TGA.py, attention_map.py). Loss, inner attack and deviations are
those of `tga_zsr`; the released code draws the same start noise for every batch after the first, here each has its own.

Equations, g the tokens of the patches, c the text feature of the true class, n that of the same prompt with "not"; a and b are
scaled to [0, 1] per image and enlarged to the image's size before they are multiplied [code]:

    a = g c,  b = g n,  A = a (1 - b)
"""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from ironclip.backbones import AdaptedClassifier
from ironclip.core.options import check_templates
from ironclip.core.types import Adaptation, Backbone
from ironclip.defenses._finetune import Original
from ironclip.defenses.tga_zsr import TGA, logits_and_maps


class CompTGA(TGA):
    """Complementary text-guided attention.

    Args:
        alpha, beta: weights of the maps' distances, see `tga_zsr.TGA`.
        negation: prompt that says "not" the class, with {} for its name.
    """

    def __init__(
        self,
        backbone: Backbone,
        classes: Sequence[str],
        *,
        alpha: float = 0.1,
        beta: float = 0.07,
        negation: str = "This is not a photo of a {}",
        **shared: Any,
    ) -> None:
        super().__init__(backbone, classes, alpha=alpha, beta=beta, **shared)
        self._negated = Original(Adaptation(templates=check_templates(negation)))
        self._negated(backbone, tuple(classes))  # fails here, not in the first step, where a prompt does not fit

    def seen(self, classifier: AdaptedClassifier, images: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        negated = self._negated(classifier.backbone, classifier.classes).text_features
        texts = torch.stack([classifier.text_features[labels], negated[labels]], dim=1)
        logits, maps = logits_and_maps(classifier, images, texts, self.tga_norm)
        return logits, maps[:, 0] * (1 - maps[:, 1])


METHOD = CompTGA
