"""Expectation over transformation: the mean output of a random classifier over draws, attacked in place of one draw.

Source: Athalye et al. 2018 (arXiv 1707.07397); 20 draws as in the "rand" version of AutoAttack [code: fra31/auto-attack].
AutoAttack averages the gradients of the loss of each draw; here the outputs are averaged, so that any attack can be
wrapped; for a loss linear in the outputs that is the same [deviation].
"""

from dataclasses import dataclass
from typing import Literal, get_args

import torch
from torch import Tensor, nn

from ironclip.core.options import check_choice, check_whole
from ironclip.core.permits import full
from ironclip.core.types import Attack, Images, Loss

Over = Literal["logits", "probabilities"]


class EOT(nn.Module):
    """images [B, ...] -> mean outputs [B, K] over `draws` calls of a random function.

    Args:
        function: draws its randomness anew in each call. A defence that fixes its seed by the image is not random to an
            attacker, and needs no EOT.
        over: "logits": their mean. "probabilities": log of the mean softmax, the prediction of the ensemble.

    Raises:
        UsageError: no draw, or another kind of mean.
    """

    def __init__(self, function: Images, draws: int = 20, *, over: Over = "logits") -> None:
        super().__init__()
        check_whole("draws", draws, 1)
        check_choice("over", over, get_args(Over))
        self.function, self.draws, self.over = function, draws, over
        if hasattr(function, "classes"):
            self.classes: tuple[str, ...] = tuple(function.classes)

    def forward(self, images: Tensor) -> Tensor:
        outputs = torch.stack([self.function(images) for _ in range(self.draws)])
        if self.over == "logits":
            return outputs.mean(0)
        return outputs.log_softmax(-1).logsumexp(0) - torch.tensor(self.draws).log().item()


@dataclass(frozen=True)
class Averaged:
    """An attack on the mean of `draws` calls of the attacked function.

    The mean itself is random, so one success on it does not end the attack: the inner attack runs in mode "full".
    """

    inner: Attack
    draws: int = 20
    over: Over = "logits"

    def __post_init__(self) -> None:
        check_whole("draws", self.draws, 1)
        check_choice("over", self.over, get_args(Over))
        object.__setattr__(self, "inner", full(self.inner))

    def __call__(
        self, function: Images, images: Tensor, labels: Tensor, *, indices: Tensor | None = None, loss: Loss | None = None
    ) -> Tensor:
        return self.inner(EOT(function, self.draws, over=self.over), images, labels, indices=indices, loss=loss)
