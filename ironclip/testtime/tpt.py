"""TPT: per image, tune the context words so that the mean prediction over confident views has low entropy.

Source: arXiv 2209.07511, azshue/TPT (`tpt_classification.py`). Not designed against attacks; a baseline. Deviations: float32
instead of half precision with a gradient scaler [code], which can skip the step; prompts cut at their end [exact].

Equations, V' the share rho of the views with the lowest entropy, v the context:

    p = 1/|V'| sum_{u in V'} p_v(. | u)
    v* = v - lr grad_v H(p)  (AdamW),  answer: p_{v*}(. | x)
"""

from ironclip.testtime._parts import ImageAlone, Parts, confident, image_and_crops
from ironclip.testtime._prompts import marginal_entropy
from ironclip.testtime._tuning import TestTimePromptTuning


class TPT(TestTimePromptTuning):
    """Marginal entropy; the answer is the image's own, with the tuned prompt."""

    def parts(self) -> Parts:
        return Parts(
            views=image_and_crops(self.views, augmix=self.augmix),
            select=confident(self.select),
            objective=lambda seen: marginal_entropy(seen.logits),
            vote=ImageAlone(),
        )


METHOD = TPT
