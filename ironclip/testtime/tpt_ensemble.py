"""TPT-Ensemble: the mean prediction over random views, without tuning unless asked for. [inferred]

Source: the row "Ensemble" (R-TPT's tables) or "TPT-Ensemble" (A-TPT's); its averaging rule is not published. Here the start
prompt and the mean of the softmax vectors of all AugMix views; the options are the other readings.

Equations, o_v the logits of view v of V:

    "prob":  log 1/V sum_v softmax(o_v),  "logit":  1/V sum_v o_v
"""

import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ironclip.core.options import check_choice
from ironclip.testtime._parts import Parts, Tuned, confident, equal_shares, image_and_crops
from ironclip.testtime._prompts import marginal_entropy, picked
from ironclip.testtime._tuning import TestTimePromptTuning


@dataclass(frozen=True)
class MeanVote:
    """The mean over views; the options of the method say of what and over which."""

    reduce: str
    over: str

    def answer(self, tuned: Tuned) -> Tensor:
        logits = tuned.logits if self.over == "all" else picked(tuned.logits, tuned.selected)
        if self.reduce == "logit":
            return logits.mean(1)
        return logits.log_softmax(-1).logsumexp(1) - math.log(logits.shape[1])

    def shares(self, tuned: Tuned) -> Tensor:
        if self.over == "confident":
            return equal_shares(tuned)
        return torch.full_like(tuned.logits[..., 0], 1 / tuned.logits.shape[1])


class TPTEnsemble(TestTimePromptTuning):
    """The reference of the family: its views and no step.

    Args:
        reduce: "prob": the mean of the softmax vectors (its logarithm is returned); "logit": the mean of the logits.
        over: "all" views, or the "confident" ones that `select` keeps.
        steps: 0: the start prompt [inferred]; 1: TPT's tuned prompt.
    """

    def __init__(self, *, reduce: str = "prob", over: str = "all", steps: int = 0, **options: Any) -> None:
        super().__init__(steps=steps, **options)
        check_choice("reduce", reduce, ("prob", "logit"))
        check_choice("over", over, ("all", "confident"))
        self.reduce, self.over = reduce, over

    def parts(self) -> Parts:
        return Parts(
            views=image_and_crops(self.views, augmix=self.augmix),
            select=confident(self.select),
            objective=lambda seen: marginal_entropy(seen.logits),
            vote=MeanVote(self.reduce, self.over),
        )


METHOD = TPTEnsemble
