"""Projected gradient ascent with sign (l-infinity) or normalised (l2) steps.

Source: Madry et al. 2018 (arXiv 1706.06083); margin loss Carlini & Wagner (arXiv 1608.04644); DLR loss Croce & Hein
(arXiv 2003.01690); KL loss TRADES (arXiv 1901.08573). The published codes return the last iterate of one run [code];
the default here keeps the best point [inferred], which a longer or repeated run can only improve.
"""

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


@dataclass(frozen=True)
class PGD(AttackOptions):
    """Images in the ball and in [0, 1] that raise the loss of the function.

    Args:
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
    """

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

    def perturb(
        self, function: Images, images: Tensor, labels: Tensor, positions: Tensor, *, noise: Tensor | None = None
    ) -> Tensor:
        """See `AttackOptions.__call__`.

        Args:
            function: images -> logits [B, K] (any outputs if `loss` is a function); a module's parameters are frozen meanwhile.
            labels: [B] true classes; the wanted classes if `targeted`.
            noise: [B, ...] in [-1, 1], given in place of the draw of the first restart.
        """
        climb = partial(
            ascend, function, eps=self.eps, step_size=self.derived["step_size"], kind=self.norm, box=self.box == "project"
        )
        everyone = torch.arange(len(images), device=images.device)
        best = Best(images, None if self.keep == "last" or callable(self.loss) or self.loss == "kl" else labels, self.targeted)

        with inputs.borrowed(function, self.eval_mode):
            goal = Goal(self.loss, labels, self.targeted)
            if self.keep == "best" or self.loss == "kl":
                goal.clean = scores(function, images)
            if goal.clean is not None and self.keep == "best":
                best.offer(everyone, positions, images, goal.clean, goal(everyone)(goal.clean))
            for restart in range(self.restarts):
                rows = everyone if self.mode == "full" else everyone[~best.fooled]
                if not len(rows):
                    break
                draw = noise[rows] if noise is not None and restart == 0 else None
                adv = self._start(images[rows], draw, positions[rows].tolist(), restart)
                for count in [self.steps] if self.mode == "full" else [1] * self.steps:
                    observe = partial(best.offer, rows, positions[rows]) if self.keep == "best" else None
                    adv = climb(goal(rows), adv, images[rows], steps=count, observe=observe, names=positions[rows])
                    if self.mode == "compact":
                        going = ~best.fooled[rows]
                        rows, adv = rows[going], adv[going]
                    if not len(rows):
                        break
                adv = adv.clamp(0, 1)
                if self.keep == "last" and self.restarts == 1:
                    return adv
                if len(rows):
                    outputs = scores(function, adv)
                    best.offer(rows, positions[rows], adv, outputs, goal(rows)(outputs))
        return best.adv

    def _start(self, images: Tensor, noise: Tensor | None, indices: list[int], restart: int) -> Tensor:
        if self.start == "zero":
            return images
        if noise is None:
            noise = keyed_uniform(images.shape[1:], self.seed, indices, restart, device=images.device).to(images)
        if self.start == "one_sided":
            delta = self.eps * (noise + 1) / 2
        elif self.start == "gaussian":
            delta = 0.001 * 2**0.5 * torch.erfinv(noise.clamp(-1 + 1e-6, 1 - 1e-6))
        else:
            delta = self.eps * noise
        return project(images + delta, images, self.eps, self.norm, box=self.box == "project")


ATTACK = PGD
