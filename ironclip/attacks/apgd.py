"""Auto-PGD: gradient ascent with momentum and automatic step sizes; untargeted, or towards several classes.

Source: Croce & Hein 2020 (arXiv 2003.01690); constants [code: fra31/auto-attack]. Deviations: with targets, all of them are
run at once and an image leaves when any of them breaks it (the released code takes one after the other, with the same result
per image); starts are drawn per image; the first loss is compared with the start's (`first_loss="zero"`: as released, with
an unset 0); below 10 classes there are K - 1 targets, below 4 classes the losses fall back (see `loss`) [inferred].
"""

from dataclasses import dataclass
from typing import Any, ClassVar, get_args

import torch
from torch import Tensor

from ironclip.attacks import inputs
from ironclip.attacks._climb import FirstLoss, climb
from ironclip.attacks._climb_l1 import climb_l1
from ironclip.attacks._goal import Best, LossName, Mode, Part, SearchDtype, clean_logits, coarse, ranked_targets, scores
from ironclip.attacks._options import AttackOptions
from ironclip.core import tensors
from ironclip.core.errors import UsageError
from ironclip.core.options import check_choice, check_number
from ironclip.core.tensors import keyed_uniform, per_image, project
from ironclip.core.threat import Norm
from ironclip.core.types import Images, Loss


@dataclass(frozen=True)
class APGD(AttackOptions):
    """Images in the ball and in [0, 1] that raise the loss of the function.

    Args:
        eps: radius in the unit of the images; the first step is 2 eps. In l1 (arXiv 2103.01208) it is eps, along the largest
            entries of the gradient, and the radius falls from 3 eps over 2 eps to eps (see `climb_l1`).
        steps: iterations of each run; one gradient each, and one at the start.
        restarts: runs from fresh starts.
        loss: "ce", "dlr" (the margin for two classes), "margin", "kl" (without labels), or (outputs, labels) -> [B].
        targets: 0: away from the label. n: one run towards each of the min(n, K - 1) classes that follow in the clean logits,
            with the targeted form of "ce", "margin" or "dlr" (three classes: over z(1) - z(3); two: the margin).
        mode: "full": every image, every step; the point of highest loss, misclassified ones first ("kl" and loss functions: the
            highest loss alone; with targets the highest margin), counting the clean image and the starts. "compact": an image
            leaves once one of its points is misclassified, which leaves the robust accuracy as it is if the function is
            deterministic and treats each image alone.
        rho: share of rising steps in a window at or below which the step is halved.
        first_loss: see `climb`; "zero" reproduces the released code.
        eot: gradients averaged in each step, for a random function.
        eval_mode: run a module in eval mode; False keeps the caller's mode.
        seed: with the index, the restart and the target, the key of each image's start.
        search_dtype: "bfloat16": the ascent follows the function in that precision. A point that is misclassified there counts
            only if it is in float32 too; otherwise the search for that image goes on [inferred]. Needs a labelled loss.
    """

    norms: ClassVar[tuple[str, ...]] = ("linf", "l2", "l1")

    eps: float
    steps: int = 100
    restarts: int = 1
    loss: LossName | Loss = "ce"
    targets: int = 0
    norm: Norm = "linf"
    mode: Mode = "full"
    rho: float = 0.75
    first_loss: FirstLoss = "start"
    eot: int = 1
    eval_mode: bool = True
    seed: int = 0
    search_dtype: SearchDtype = "float32"

    def __post_init__(self) -> None:
        super().__post_init__()
        inputs.check_loss(self.loss, False, False)
        check_choice("mode", self.mode, get_args(Mode))
        check_choice("first_loss", self.first_loss, get_args(FirstLoss))
        check_choice("search_dtype", self.search_dtype, get_args(SearchDtype))
        check_number("rho", self.rho, 0, 1)
        labelled = not callable(self.loss) and self.loss != "kl"
        if self.targets and not labelled:
            raise UsageError('targets need loss "ce", "margin" or "dlr"')
        if self.search_dtype != "float32" and not labelled:
            raise UsageError('search_dtype="bfloat16" confirms misclassified points: it needs loss "ce", "margin" or "dlr"')
        if self.mode == "compact" and not labelled:
            raise UsageError('mode="compact" drops misclassified images: it needs loss "ce", "margin" or "dlr"')

    @property
    def derived(self) -> dict[str, Any]:
        """Constants that follow from the options."""
        named = {"targets": f"min({self.targets}, classes - 1)"} if self.targets else {}
        if self.norm == "l1":
            return {"first_step": self.eps, "radii": [3 * self.eps, 2 * self.eps, self.eps], **named}
        return {"first_step": 2 * self.eps, **named}

    def perturb(
        self, function: Images, images: Tensor, labels: Tensor, positions: Tensor, *, noise: Tensor | None = None
    ) -> Tensor:
        """See `AttackOptions.__call__`.

        Args:
            function: images -> logits [B, K] (any outputs if `loss` is a function); a module's parameters are frozen meanwhile.
            noise: [B, ...] direction of the start, in place of the draws of the first restart.
        """
        everyone = torch.arange(len(images), device=images.device)
        with inputs.borrowed(function, self.eval_mode):
            clean = scores(function, images) if callable(self.loss) else clean_logits(function, images, labels, positions)
            loss = "margin" if self.loss == "dlr" and clean.shape[1] < 3 else self.loss
            wanted = ranked_targets(clean, labels, self.targets) if self.targets else None
            count = 1 if wanted is None else len(wanted)
            search = coarse(function, self.search_dtype)
            confirm = None if search is function else function
            best = Best(images, None if callable(self.loss) or self.loss == "kl" else labels, False)
            part = Part(images, labels, positions, clean, None if wanted is None else wanted[:1], loss)
            part.observe(everyone, images, clean, part.values(clean, everyone))
            best.take(everyone, *part.found(0))
            for restart in range(self.restarts):
                rows = everyone if self.mode == "full" else everyone[~best.fooled]
                if not len(rows):
                    break
                for some in rows.split(max(1, len(images) // count)):
                    aims = None if wanted is None else wanted[:, some]
                    part = Part(images[some], labels[some], positions[some], clean[some], aims, loss, confirm)
                    given = noise[some] if noise is not None and restart == 0 else None
                    keys = range(1, count + 1) if self.targets else [0]
                    starts = [
                        start(images[some], self.eps, self.norm, given, self.seed, positions[some], key * 2**20 + restart)
                        for key in keys
                    ]
                    ascent = climb_l1 if self.norm == "l1" else climb
                    ascent(
                        search, part.values, torch.cat(starts), part.images, eps=self.eps, steps=self.steps, kind=self.norm,
                        observe=part.observe, going=part.going if self.mode == "compact" else None, rho=self.rho,
                        first_loss=self.first_loss, eot=self.eot, names=part.names,
                    )  # fmt: skip
                    for target in range(count):
                        best.take(some, *part.found(target))
        return best.adv


def start(images: Tensor, eps: float, norm: Norm, noise: Tensor | None, seed: int, positions: Tensor, restart: int) -> Tensor:
    """Points in a random direction from the images, at distance eps in `norm`, clipped to [0, 1].

    Args:
        noise: [B, ...] given direction; default: uniform in the cube for l-infinity, in the sphere for l2; for l1 the point
            of ball and box that is nearest to a Gaussian step [code: fra31/auto-attack].
    """
    if noise is None:
        noise = keyed_uniform(images.shape[1:], seed, positions.tolist(), restart, device=images.device).to(images)
        if norm != "linf":
            noise = torch.erfinv(noise.clamp(-1 + 1e-6, 1 - 1e-6))
    if norm == "l1":
        return project(images + noise, images, eps, norm)
    length = per_image(tensors.norm(noise, norm).clamp_min(1e-12), noise)
    return project(images + eps * noise / length, images, eps, norm)


ATTACK = APGD
