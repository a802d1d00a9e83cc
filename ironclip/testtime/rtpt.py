"""R-TPT: per image, lower the entropy of each confident view, then let views vote by how many others are near.

Source: arXiv 2504.11195, TomSheng21/R-TPT (`rtpt.py`). Pointwise entropy drops from TPT's objective the term that makes views
agree, which under attack drags clean views to attacked ones. Deviations: every image starts fresh, also for the attack (released:
the attack meets the prompt of the image before); a view is never its own neighbour (released: rounding decides, `legacy_mask`);
clean and attacked views both come from the model's crop (released: clean ones from the file).

Equations, V' the confident views, p_v the prediction of view v, N_v its n nearest other views, tau the temperature:

    L = 1/|V'| sum_{v in V'} H(p_v)
    w_v = softmax_v(1/n sum_{u in N_v} cos(f_v, f_u) / tau)
    answer: sum_v w_v o_v with the prompt after the step
"""

from typing import Any

from ironclip.core.options import check_flags, check_number, check_whole
from ironclip.testtime._parts import LogitVote, Parts, confident, image_and_crops, reliability
from ironclip.testtime._prompts import entropy
from ironclip.testtime._tuning import TestTimePromptTuning


class RTPT(TestTimePromptTuning):
    """Mean entropy of single views; the answer is the sum of all views' tuned logits, weighted by reliability.

    Args:
        neighbours: number of nearest other views that weigh a view; at most V - 1 are used.
        temperature: of the softmax over their mean cosine.
        legacy_mask: leave out similarities of at least 1 instead of the view itself, as released.
    """

    def __init__(self, *, neighbours: int = 20, temperature: float = 0.01, legacy_mask: bool = False, **options: Any) -> None:
        super().__init__(**options)
        check_whole("neighbours", neighbours, 1)
        check_number("temperature", temperature, 0, above=True)
        check_flags(legacy_mask=legacy_mask)
        self.neighbours, self.temperature, self.legacy_mask = neighbours, temperature, legacy_mask

    def parts(self) -> Parts:
        return Parts(
            views=image_and_crops(self.views, augmix=self.augmix),
            select=confident(self.select),
            objective=lambda seen: entropy(seen.logits).mean(-1),
            vote=LogitVote(reliability(self.neighbours, self.temperature, self.legacy_mask)),
        )


METHOD = RTPT
