"""C-TPT: TPT with class features spread out, for calibrated predictions.

Source: ICLR 2024, hee-suk-yoon/C-TPT. The loss is TPT's minus `weight` times the mean distance of the class features to their
centroid; 50 in the fine-grained script, 20 in the one for distribution shifts, 0 in the code's defaults [code].

Equations, t_k the text feature of class k, p the mean prediction over the confident views of TPT:

    L = H(p) - lambda 1/K sum_k ||t_k - 1/K sum_j t_j||
"""

from typing import Any

from torch import Tensor

from ironclip.core.options import check_number
from ironclip.testtime._prompts import dispersion, marginal_entropy
from ironclip.testtime._tuning import TestTimePromptTuning, Tuned


class CTPT(TestTimePromptTuning):
    """Marginal entropy minus dispersion; one joint step.

    Args:
        weight: of the dispersion, lambda.
    """

    def __init__(self, *, weight: float = 50.0, **options: Any) -> None:
        super().__init__(**options)
        check_number("weight", weight, 0)
        self.weight = weight

    def objective(self, logits: Tensor, text: Tensor) -> Tensor:
        return marginal_entropy(logits) - self.weight * dispersion(text)

    def answer(self, tuned: Tuned) -> Tensor:
        return tuned.logits[:, 0]


METHOD = CTPT
