"""TPT: per image, tune the context words so that the mean prediction over confident views has low entropy.

Source: arXiv 2209.07511, azshue/TPT (`tpt_classification.py`). Not designed against attacks; a baseline. Deviations: float32
instead of half precision with a gradient scaler [code], which can skip the step; prompts cut at their end [exact].
"""

from torch import Tensor

from ironclip.testtime._prompts import marginal_entropy
from ironclip.testtime._tuning import TestTimePromptTuning, Tuned


class TPT(TestTimePromptTuning):
    """Marginal entropy; the answer is the image's own, with the tuned prompt."""

    def objective(self, logits: Tensor, text: Tensor) -> Tensor:
        return marginal_entropy(logits)

    def answer(self, tuned: Tuned) -> Tensor:
        return tuned.logits[:, 0]


METHOD = TPT
