"""Input diversity: each step looks at the image resized and padded at random, so that the result fools other models, too.

Source: Xie et al. 2019 (arXiv 1803.06978); constants as in DIFGSM of Harry24k/adversarial-attacks-pytorch [code]: with
probability 0.5 resize to 90 .. 100 % of the side, bilinear, and pad with zeros at a random place; no random start, decay 0,
last iterate. There one size is drawn for a batch; here one for each image, so that no image depends on the others of its batch
[deviation]. Step eps / 4 [inferred]; the code that made the images of TAPT takes 1/255, 100 steps.
"""

from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from ironclip.attacks import inputs
from ironclip.attacks._goal import Goal, LossName, scores
from ironclip.attacks._options import AttackOptions
from ironclip.attacks.mim import accumulated, begin
from ironclip.core.options import check_number
from ironclip.core.tensors import ascend, generator, require_finite
from ironclip.core.threat import Norm
from ironclip.core.types import Images, Loss

DRAW = 7  # keeps these draws apart from those of random starts


@dataclass(frozen=True)
class DI(AttackOptions):
    """Images [B, C, H, W] in the ball and in [0, 1] that raise the loss of the function on resized and padded copies.

    Args:
        step_size: default eps / 4.
        decay: of the gradient's momentum, as in `MIM`.
        resize: smallest side over the image's side.
        probability: of a step that resizes.
        random_start: start uniformly in the ball instead of at the image.
        others: as in `PGD`; the last iterate is returned.
    """

    eps: float
    step_size: float | None = None
    steps: int = 100
    decay: float = 0.0
    resize: float = 0.9
    probability: float = 0.5
    random_start: bool = False
    loss: LossName | Loss = "ce"
    targeted: bool = False
    norm: Norm = "linf"
    eval_mode: bool = True
    seed: int = 0

    def __post_init__(self) -> None:
        super().__post_init__()
        check_number("decay", self.decay, 0)
        check_number("resize", self.resize, 0, 1, above=True)
        check_number("probability", self.probability, 0, 1)
        inputs.check_loss(self.loss, self.targeted, not self.random_start)

    @property
    def derived(self) -> dict[str, Any]:
        """Constants that follow from the options."""
        return {"step_size": self.eps / 4 if self.step_size is None else self.step_size}

    def perturb(self, function: Images, images: Tensor, labels: Tensor, positions: Tensor) -> Tensor:
        start = begin(images, self.eps, self.norm, None, self.seed, positions) if self.random_start else images
        everyone = torch.arange(len(images), device=images.device)
        with inputs.borrowed(function, self.eval_mode):
            goal = Goal(self.loss, labels, self.targeted)
            goal.clean = scores(function, images)
            require_finite("the loss", goal(everyone)(goal.clean).isfinite(), positions)  # even without a step
            draws = [generator(self.seed, int(index), DRAW) for index in positions.tolist()]

            def diverse(x: Tensor) -> Tensor:
                return function(
                    torch.cat([resized(one, self.resize, self.probability, draw) for one, draw in zip(x.split(1), draws)])
                )

            return ascend(
                diverse, goal(everyone), start, images, eps=self.eps, step_size=self.derived["step_size"], steps=self.steps,
                kind=self.norm, direction=accumulated(self.decay, self.norm), names=positions,
            )  # fmt: skip


def resized(image: Tensor, least: float, probability: float, draw: torch.Generator) -> Tensor:
    """One image [1, C, H, W] shrunk and padded to its own size at random, or as it is."""
    height, width = image.shape[-2:]
    chance, size, top, left = torch.rand(4, generator=draw, dtype=torch.float64).tolist()
    if chance >= probability:
        return image
    scale = least + (1 - least) * size
    h, w = max(1, int(scale * height)), max(1, int(scale * width))
    small = F.interpolate(image, size=(h, w), mode="bilinear", align_corners=False)
    y, x = int(top * (height - h + 1)), int(left * (width - w + 1))
    return F.pad(small, (x, width - w - x, y, height - h - y))


ATTACK = DI
