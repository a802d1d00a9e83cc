"""C-TPT: TPT with class features spread out, for calibrated predictions.

Source: ICLR 2024, hee-suk-yoon/C-TPT. The loss is TPT's minus `weight` times the mean distance of the class features to their
centroid; 50 in the fine-grained script, 20 in the one for distribution shifts, 0 in the code's defaults [code].

Equations, t_k the text feature of class k, p the mean prediction over the confident views of TPT:

    L = H(p) - lambda 1/K sum_k ||t_k - 1/K sum_j t_j||
"""

from typing import Any

from ironclip.core.options import check_number
from ironclip.testtime._parts import ImageAlone, Parts, confident, image_and_crops
from ironclip.testtime._prompts import dispersion, marginal_entropy
from ironclip.testtime._tuning import TestTimePromptTuning


class CTPT(TestTimePromptTuning):
    """Marginal entropy minus dispersion; one joint step.

    Args:
        weight: of the dispersion, lambda.
    """

    def __init__(self, *, weight: float = 50.0, **options: Any) -> None:
        super().__init__(**options)
        check_number("weight", weight, 0)
        self.weight = weight

    def parts(self) -> Parts:
        return Parts(
            views=image_and_crops(self.views, augmix=self.augmix),
            select=confident(self.select),
            objective=lambda seen: marginal_entropy(seen.logits) - self.weight * dispersion(seen.text),
            vote=ImageAlone(),
        )


METHOD = CTPT
