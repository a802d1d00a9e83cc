"""Projected ascent on the margin of Carlini & Wagner: largest wrong logit minus the true one.

Source: margin Carlini & Wagner 2017 (arXiv 1608.04644). Variants in use, all with the update of PGD: without a hinge, from a
uniform start, keeping the best point (the default here) [inferred]; hinge 0, start "zero", last iterate, 100 steps of eps / 4
(APT, DEFEAT) [code]; hinge 50, uniform start, last iterate (TeCoA, TTC) [code]. Not the l2 attack of that paper, which
minimises a distance under another threat model.
"""

from dataclasses import dataclass, fields
from typing import Any, get_args

import torch
from torch import Tensor

from ironclip.attacks import inputs
from ironclip.attacks._goal import LossName, Mode, clean_logits
from ironclip.attacks._options import AttackOptions
from ironclip.attacks.pgd import PGD, Keep, Start
from ironclip.core.errors import UsageError
from ironclip.core.losses import margin_each
from ironclip.core.options import check_choice, check_number
from ironclip.core.threat import Norm
from ironclip.core.types import Images, Loss


@dataclass(frozen=True)
class CW(AttackOptions):
    """Images in the ball and in [0, 1] whose largest wrong logit exceeds the true one by as much as possible.

    Args:
        hinge: stop climbing where the margin exceeds this many logits (gradient zero there); None: never.
        others: as in `PGD`.
    """

    eps: float
    step_size: float | None = None
    steps: int = 100
    restarts: int = 1
    start: Start = "uniform"
    keep: Keep = "best"
    hinge: float | None = None
    norm: Norm = "linf"
    mode: Mode = "full"
    eval_mode: bool = True
    seed: int = 0

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.hinge is not None:
            check_number("hinge", self.hinge, 0)
            check_choice("mode", self.mode, get_args(Mode))
            if self.mode == "compact":
                raise UsageError('hinge= needs mode="full": the climb goes on after an image is misclassified')
        self._ascent("margin" if self.hinge is None else _Hinged(self.hinge))

    @property
    def derived(self) -> dict[str, Any]:
        """Constants that follow from the options."""
        return {"step_size": self.eps / 4 if self.step_size is None else self.step_size}

    def perturb(
        self, function: Images, images: Tensor, labels: Tensor, positions: Tensor, *, noise: Tensor | None = None
    ) -> Tensor:
        loss: LossName | Loss = "margin"
        if self.hinge is not None:
            with inputs.borrowed(function, self.eval_mode):
                clean_logits(function, images, labels, positions)
            loss = _Hinged(self.hinge)
        return self._ascent(loss).perturb(function, images, labels, positions, noise=noise)

    def _ascent(self, loss: LossName | Loss) -> PGD:
        shared = {field.name: getattr(self, field.name) for field in fields(self) if field.name != "hinge"}
        return PGD(loss=loss, **shared)


@dataclass(frozen=True)
class _Hinged:
    """min(margin, hinge) per image: the gradient is zero where the image is misclassified by more than the hinge.

    The value is highest where the image is misclassified, so the best point by value is a misclassified one if there is any.
    """

    hinge: float

    def __call__(self, outputs: Tensor, labels: Tensor) -> Tensor:
        return torch.clamp_max(margin_each(outputs, labels), self.hinge)


ATTACK = CW
