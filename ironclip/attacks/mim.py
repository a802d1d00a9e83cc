"""Momentum iterative method: steps along the sign of an accumulated gradient, which transfers to other models.

Source: Dong et al. 2018 (arXiv 1710.06081): g <- decay * g + gradient / ||gradient||_1, decay 1, step eps / steps, from the
image itself, last iterate. Meant for images that another model will classify, so every image is perturbed.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, get_args

import torch
from torch import Tensor

from ironclip.attacks import inputs
from ironclip.attacks._goal import Best, Goal, LossName, scores
from ironclip.attacks._options import AttackOptions
from ironclip.attacks.pgd import Keep
from ironclip.core.options import check_choice, check_number
from ironclip.core.tensors import ascend, keyed_uniform, per_image, project, steepest
from ironclip.core.threat import Norm
from ironclip.core.types import Images, Loss


@dataclass(frozen=True)
class MIM(AttackOptions):
    """Images in the ball and in [0, 1] that raise the loss of the function, and often that of others.

    Args:
        step_size: default eps / steps.
        decay: of the accumulated gradient; 0: none is kept.
        random_start: start uniformly in the ball instead of at the image.
        others: as in `PGD`.
    """

    eps: float
    step_size: float | None = None
    steps: int = 10
    decay: float = 1.0
    random_start: bool = False
    keep: Keep = "last"
    loss: LossName | Loss = "ce"
    targeted: bool = False
    norm: Norm = "linf"
    eval_mode: bool = True
    seed: int = 0

    def __post_init__(self) -> None:
        super().__post_init__()
        check_number("decay", self.decay, 0)
        check_choice("keep", self.keep, get_args(Keep))
        inputs.check_loss(self.loss, self.targeted, not self.random_start)

    @property
    def derived(self) -> dict[str, Any]:
        """Constants that follow from the options."""
        return {"step_size": self.eps / max(self.steps, 1) if self.step_size is None else self.step_size}

    def perturb(
        self, function: Images, images: Tensor, labels: Tensor, positions: Tensor, *, noise: Tensor | None = None
    ) -> Tensor:
        start = begin(images, self.eps, self.norm, noise, self.seed, positions) if self.random_start else images
        everyone = torch.arange(len(images), device=images.device)
        best = Best(images, None if callable(self.loss) or self.loss == "kl" else labels, self.targeted)
        with inputs.borrowed(function, self.eval_mode):
            goal = Goal(self.loss, labels, self.targeted)
            clean = scores(function, images)
            goal.clean = clean
            values = goal(everyone)(clean)
            best.offer(everyone, positions, images, clean, values)

            def observe(seen: Tensor, outputs: Tensor, values: Tensor) -> None:
                best.offer(everyone, positions, seen, outputs, values)

            adv = ascend(
                function, goal(everyone), start, images, eps=self.eps, step_size=self.derived["step_size"], steps=self.steps,
                kind=self.norm, observe=observe if self.keep == "best" else None,
                direction=accumulated(self.decay, self.norm), names=positions,
            )  # fmt: skip
            if self.keep == "last":
                return adv
            outputs = scores(function, adv)
            best.offer(everyone, positions, adv, outputs, goal(everyone)(outputs))
        return best.adv


def begin(images: Tensor, eps: float, norm: Norm, noise: Tensor | None, seed: int, positions: Tensor) -> Tensor:
    """A uniform start in the ball and in [0, 1]."""
    drawn = keyed_uniform(images.shape[1:], seed, positions.tolist(), device=images.device).to(images) if noise is None else noise
    return project(images + eps * drawn, images, eps, norm)


def accumulated(decay: float, norm: Norm) -> Callable[[Tensor], Tensor]:
    """gradient -> direction of the gradients so far, each scaled to unit l1 length per image."""
    memory: list[Tensor] = []

    def direction(slope: Tensor) -> Tensor:
        scaled = slope / per_image(slope.abs().flatten(1).sum(1).clamp_min(1e-30), slope)
        memory[:] = [scaled + decay * memory[0] if memory else scaled]
        return steepest(memory[0], norm)

    return direction


ATTACK = MIM
