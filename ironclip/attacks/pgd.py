"""Projected gradient ascent with sign (l-infinity) or normalised (l2) steps.

Source: Madry et al. 2018 (arXiv 1706.06083); margin loss Carlini & Wagner (arXiv 1608.04644); DLR loss Croce & Hein
(arXiv 2003.01690); KL loss TRADES (arXiv 1901.08573). The published codes return the last iterate of one run [code];
the default here keeps the best point [inferred], which a longer or repeated run can only improve.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal, get_args

import torch
from torch import Tensor

from ironclip.attacks import inputs
from ironclip.attacks._goal import Best, Goal, LossName, Mode, scores
from ironclip.attacks._options import AttackOptions
from ironclip.core.errors import UsageError
from ironclip.core.options import check_choice
from ironclip.core.tensors import ascend, keyed_uniform, project
from ironclip.core.threat import Norm
from ironclip.core.types import Images, Loss

Start = Literal["uniform", "zero", "one_sided", "gaussian"]
Keep = Literal["best", "last"]
Box = Literal["project", "forward"]
CHOICES = {"start": get_args(Start), "keep": get_args(Keep), "mode": get_args(Mode), "box": get_args(Box)}


def pgd(
    function: Images,
    images: Tensor,
    labels: Tensor,
    *,
    eps: float,
    step_size: float | None = None,
    steps: int = 100,
    restarts: int = 1,
    start: Start = "uniform",
    keep: Keep = "best",
    loss: LossName | Loss = "ce",
    targeted: bool = False,
    norm: Norm = "linf",
    mode: Mode = "full",
    box: Box = "project",
    eval_mode: bool = True,
    seed: int = 0,
    indices: Tensor | Sequence[int] | None = None,
    noise: Tensor | None = None,
) -> Tensor:
    """Images in the ball and in [0, 1] that raise the loss of the function.

    Args:
        function: images -> logits [B, K] (any outputs if `loss` is a function); a module's parameters are frozen meanwhile.
        images: [B, ...] in [0, 1], float32 (float64 for reference runs).
        labels: [B] true classes; the wanted classes if `targeted`.
        eps: radius in the unit of the images.
        step_size: length of a step; default eps / 4.
        restarts: runs from fresh starts; with `keep="last"` each image takes the run that ends with the highest loss.
        start: "uniform" eps * U(-1, 1) a pixel; "one_sided" eps * U(0, 1) (AdvPT); "gaussian" 0.001 * N(0, 1) (TPGD);
            "zero" the image itself. For l2 the start is scaled into the ball.
        keep: "best": per image a misclassified point before a correct one, then the highest loss, counting the clean
            image, the start and every iterate; under "kl" or a loss function the highest loss alone decides.
            "last": the last iterate, as in the published protocols.
        loss: "ce", "margin", "dlr", "kl" (from the clean prediction, without labels), or (outputs, labels) -> [B].
        targeted: lower the loss towards `labels` instead.
        mode: "full" perturbs every image; "compact" drops an image once one of its points is misclassified, which leaves
            the robust accuracy as it is if the function is deterministic and treats each image alone.
        box: "project": iterates stay in [0, 1]; "forward": they stay in the ball only and the function sees them clipped
            to [0, 1], start included (the inner attack of APT and DEFEAT [code]).
        eval_mode: run a module in eval mode; False keeps the caller's mode, for training.
        seed: with the index and the restart, the key of each image's start.
        indices: [B] positions in the data set; default 0 .. B-1.
        noise: [B, ...] in [-1, 1], given in place of the draw of the first restart.

    Raises:
        UsageError: an option that cannot be right, or a function that returns no logits.
        DataError: images outside [0, 1] or not float, labels that name no class.
        NonFinite: a loss or a gradient is NaN or infinite.
    """
    checked = PGD(eps, step_size, steps, restarts, start, keep, loss, targeted, norm, mode, box, eval_mode, seed)
    eps, step = checked.eps, checked.derived["step_size"]
    images = inputs.check_images(images)
    labels, positions = inputs.check_labels(labels, images), inputs.check_indices(indices, images)
    noise = inputs.check_noise(noise, images)
    if not len(images):
        return images
    climb = partial(ascend, function, eps=eps, step_size=step, kind=norm, box=box == "project")
    everyone = torch.arange(len(images), device=images.device)
    best = Best(images, None if keep == "last" or callable(loss) or loss == "kl" else labels, targeted)

    with inputs.borrowed(function, eval_mode):
        goal = Goal(loss, labels, targeted)
        if keep == "best" or loss == "kl":
            goal.clean = scores(function, images)
        if goal.clean is not None and keep == "best":
            best.offer(everyone, positions, images, goal.clean, goal(everyone)(goal.clean))
        for restart in range(restarts):
            rows = everyone if mode == "full" else everyone[~best.fooled]
            if not len(rows):
                break
            draw = noise[rows] if noise is not None and restart == 0 else None
            adv = _start(images[rows], start, eps, norm, box, draw, seed, positions[rows].tolist(), restart)
            for count in [steps] if mode == "full" else [1] * steps:
                observe = partial(best.offer, rows, positions[rows]) if keep == "best" else None
                adv = climb(goal(rows), adv, images[rows], steps=count, observe=observe, names=positions[rows])
                if mode == "compact":
                    going = ~best.fooled[rows]
                    rows, adv = rows[going], adv[going]
                if not len(rows):
                    break
            adv = adv.clamp(0, 1)
            if keep == "last" and restarts == 1:
                return adv
            if len(rows):
                outputs = scores(function, adv)
                best.offer(rows, positions[rows], adv, outputs, goal(rows)(outputs))
    return best.adv


@dataclass(frozen=True)
class PGD(AttackOptions, runs=pgd):
    """`pgd` with its options: an attack that can be printed, compared, stored and rebuilt."""

    eps: float
    step_size: float | None = None
    steps: int = 100
    restarts: int = 1
    start: Start = "uniform"
    keep: Keep = "best"
    loss: LossName | Loss = "ce"
    targeted: bool = False
    norm: Norm = "linf"
    mode: Mode = "full"
    box: Box = "project"
    eval_mode: bool = True
    seed: int = 0

    def __post_init__(self) -> None:
        super().__post_init__()
        for what, choices in CHOICES.items():
            check_choice(what, getattr(self, what), choices)
        inputs.check_loss(self.loss, self.targeted, self.start == "zero")
        if self.restarts > 1 and self.start == "zero":
            raise UsageError('restarts from start="zero" are all the same run; use another start or restarts=1')
        if self.mode == "compact" and (self.keep != "best" or callable(self.loss) or self.loss == "kl"):
            raise UsageError('mode="compact" drops misclassified images: it needs keep="best" and loss "ce", "margin" or "dlr"')

    @property
    def derived(self) -> dict[str, Any]:
        """Constants that follow from the options."""
        return {"step_size": self.eps / 4 if self.step_size is None else self.step_size}


def _start(
    images: Tensor, start: Start, eps: float, norm: Norm, box: Box, noise: Tensor | None, seed: int, indices: list[int],
    restart: int,
) -> Tensor:  # fmt: skip
    if start == "zero":
        return images
    if noise is None:
        noise = keyed_uniform(images.shape[1:], seed, indices, restart).to(images)
    if start == "one_sided":
        delta = eps * (noise + 1) / 2
    elif start == "gaussian":
        delta = 0.001 * 2**0.5 * torch.erfinv(noise.clamp(-1 + 1e-6, 1 - 1e-6))
    else:
        delta = eps * noise
    return project(images + delta, images, eps, norm, box=box == "project")
