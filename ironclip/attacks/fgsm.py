"""Fast gradient sign method: one step along the sign of the gradient.

Source: Goodfellow et al. 2015 (arXiv 1412.6572); random start Wong et al. 2020 (arXiv 2001.03994), for training only. A
sanity check, never a claim of robustness.
"""

from dataclasses import dataclass
from typing import Any

from torch import Tensor

from ironclip.attacks import inputs
from ironclip.attacks._goal import LossName
from ironclip.attacks._options import AttackOptions
from ironclip.attacks.pgd import PGD
from ironclip.core.threat import Norm
from ironclip.core.types import Images, Loss


@dataclass(frozen=True)
class FGSM(AttackOptions):
    """Images one step of length eps up the loss: pgd with one step, no start and the last iterate.

    Args:
        step_size: default eps, or 1.25 eps after a random start (uniform in the ball).
        others: as in `PGD`.
    """

    eps: float
    step_size: float | None = None
    random_start: bool = False
    loss: LossName | Loss = "ce"
    targeted: bool = False
    norm: Norm = "linf"
    eval_mode: bool = True
    seed: int = 0

    def __post_init__(self) -> None:
        super().__post_init__()
        inputs.check_loss(self.loss, self.targeted, not self.random_start)

    @property
    def derived(self) -> dict[str, Any]:
        """Constants that follow from the options."""
        default = 1.25 * self.eps if self.random_start else self.eps
        return {"step_size": default if self.step_size is None else self.step_size}

    def perturb(
        self, function: Images, images: Tensor, labels: Tensor, positions: Tensor, *, noise: Tensor | None = None
    ) -> Tensor:
        step = PGD(
            self.eps, self.derived["step_size"] or None,  # no radius, no step: the default of PGD is 0 as well
            steps=1, start="uniform" if self.random_start else "zero", keep="last", loss=self.loss, targeted=self.targeted,
            norm=self.norm, eval_mode=self.eval_mode, seed=self.seed,
        )  # fmt: skip
        return step.perturb(function, images, labels, positions, noise=noise)


ATTACK = FGSM
