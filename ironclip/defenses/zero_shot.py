"""Zero-shot classification: the backbone as it is, with hand-written prompts. Learns nothing.

Source: CLIP (arXiv 2103.00020), prompt ensembles as there: the direction of the mean of the unit text features.

Equations, t_k the unit mean of the unit text features of class k over its templates:

    p(k | x) = softmax_k(s cos(f(x), t_k))
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from ironclip.backbones import DEFAULT_TEMPLATE
from ironclip.backbones.prompts import fill
from ironclip.core.options import check_templates
from ironclip.core.types import Adaptation, Attack, Backbone, Batch, Defense, check_classes


class ZeroShot(Defense):
    """The first row of every table.

    Args:
        templates: prompts with `{}` for the class name; several are averaged.
    """

    learns = False

    def __init__(
        self,
        backbone: Backbone,
        classes: Sequence[str],
        *,
        templates: Sequence[str] = (DEFAULT_TEMPLATE,),
        generator: torch.Generator | None = None,
    ) -> None:
        super().__init__()
        classes = check_classes(classes)
        self.templates = check_templates(templates)
        for template in self.templates:
            backbone.tokenize(fill(template, classes))  # fails here, not later, where a prompt does not fit

    def adaptation(self, backbone: Backbone, classes: Sequence[str]) -> Adaptation:
        return Adaptation(templates=self.templates)

    def loss(
        self, backbone: Backbone, batch: Batch, attack: Attack, *, adaptation: Adaptation | None = None
    ) -> dict[str, Tensor]:
        return {}


METHOD = ZeroShot
