"""Fast gradient sign method: one step along the sign of the gradient.

Source: Goodfellow et al. 2015 (arXiv 1412.6572); random start Wong et al. 2020 (arXiv 2001.03994), for training only. A
sanity check, never a claim of robustness.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from ironclip.attacks import inputs
from ironclip.attacks._goal import LossName
from ironclip.attacks._options import AttackOptions
from ironclip.attacks.pgd import pgd
from ironclip.core.threat import Norm
from ironclip.core.types import Images, Loss


def fgsm(
    function: Images,
    images: Tensor,
    labels: Tensor,
    *,
    eps: float,
    step_size: float | None = None,
    random_start: bool = False,
    loss: LossName | Loss = "ce",
    targeted: bool = False,
    norm: Norm = "linf",
    eval_mode: bool = True,
    seed: int = 0,
    indices: Tensor | Sequence[int] | None = None,
    noise: Tensor | None = None,
) -> Tensor:
    """Images one step of length eps up the loss: pgd with one step, no start and the last iterate.

    Args:
        step_size: default eps, or 1.25 eps after a random start (uniform in the ball).
        others: as in `pgd`.

    Raises:
        UsageError, DataError, NonFinite: as `pgd`.
    """
    checked = FGSM(eps, step_size, random_start, loss, targeted, norm, eval_mode, seed)
    eps, step = checked.eps, checked.derived["step_size"] or None  # no radius, no step: the default of pgd is 0 as well
    return pgd(
        function, images, labels, eps=eps, step_size=step, steps=1, start="uniform" if random_start else "zero",
        keep="last", loss=loss, targeted=targeted, norm=norm, eval_mode=eval_mode, seed=seed, indices=indices, noise=noise,
    )  # fmt: skip


@dataclass(frozen=True)
class FGSM(AttackOptions, runs=fgsm):
    """`fgsm` with its options: an attack that can be printed, compared, stored and rebuilt."""

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
