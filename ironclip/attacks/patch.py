"""A patch at the worst place: ascent on the pixels of a square, which moves to where the loss is larger.

Source: Brown et al. 2017 (arXiv 1712.09665) for patches; Rao et al. 2020 (arXiv 2005.02313) for the search over places: every
few steps the square may move by a stride to a neighbouring place, if the loss is larger there (their AP-FullLO). Deviation:
the first places are those with the largest sum of |gradient| at the clean image, one for each restart, without overlap where
there is room; theirs are random [inferred]. Every image has its own patch (no universal patch), so that per-image accuracy is
a worst case. The radius is the share of the image's area that the square may cover; inside it pixels are free in [0, 1].
"""

import math
from dataclasses import dataclass
from typing import Any, ClassVar, get_args

import torch
import torch.nn.functional as F
from torch import Tensor

from ironclip.attacks import inputs
from ironclip.attacks._goal import Best, Mode, clean_logits, scores
from ironclip.attacks._options import AttackOptions
from ironclip.core.errors import DataError, UsageError
from ironclip.core.losses import ATTACK_LOSSES, margin_each
from ironclip.core.options import check_choice, check_whole
from ironclip.core.tensors import keyed_uniform, per_image, value_and_slope
from ironclip.core.threat import Norm
from ironclip.core.types import Images

STEP = 0.05


@dataclass(frozen=True)
class Patch(AttackOptions):
    """Images that differ inside one square each: misclassified points, else those with the largest margin.

    Args:
        eps: share of the area that the square may cover; its side is rounded down to pixels.
        steps: sign steps of each run.
        step_size: default 0.05.
        restarts: runs, each from another place.
        every: steps between two moves of the square; 0: it never moves.
        loss: "ce", "margin" or "dlr".
        mode: "compact": an image leaves once a point is misclassified. "full": every image, every step.
        eval_mode: run a module in eval mode; False keeps the caller's mode.
        seed: with the index and the restart, the key of each patch's first pixels.
    """

    norms: ClassVar[tuple[str, ...]] = ("patch",)

    eps: float
    steps: int = 100
    step_size: float | None = None
    restarts: int = 2
    every: int = 10
    loss: str = "ce"
    norm: Norm = "patch"
    mode: Mode = "compact"
    eval_mode: bool = True
    seed: int = 0

    def __post_init__(self) -> None:
        super().__post_init__()
        check_choice("loss", self.loss, tuple(ATTACK_LOSSES))
        check_choice("mode", self.mode, get_args(Mode))
        check_whole("every", self.every, 0)

    @property
    def derived(self) -> dict[str, Any]:
        """Constants that follow from the options."""
        return {"step_size": STEP if self.step_size is None else self.step_size, "side": f"floor(sqrt({self.eps:.6g} H W))"}

    def perturb(self, function: Images, images: Tensor, labels: Tensor, positions: Tensor) -> Tensor:
        """See `AttackOptions.__call__`; images are [B, C, H, W].

        Raises:
            UsageError: the share is too small for one pixel.
        """
        if images.ndim != 4:
            raise DataError(f"a patch needs images [B, C, H, W]; got shape {tuple(images.shape)}")
        height, width = images.shape[-2:]
        side = min(math.floor(math.sqrt(self.eps * height * width) + 1e-6), height, width)
        if self.eps == 0:
            return images
        if side < 1:
            raise UsageError(f"a patch of {self.eps:g} of {width} x {height} pixels is less than one pixel; give a larger eps")
        loss, step = ATTACK_LOSSES[self.loss], self.derived["step_size"]
        best, everyone = Best(images, labels, False), torch.arange(len(images), device=images.device)

        def look(rows: Tensor, adv: Tensor) -> tuple[Tensor, Tensor]:
            outputs, values, slope = value_and_slope(function, lambda outputs: loss(outputs, labels[rows]), adv, positions[rows])
            best.offer(rows, positions[rows], adv, outputs, margin_each(outputs, labels[rows]))
            return values, slope

        with inputs.borrowed(function, self.eval_mode):
            outputs = clean_logits(function, images, labels, positions)
            best.offer(everyone, positions, images, outputs, margin_each(outputs, labels))
            sensitive = value_and_slope(function, lambda outputs: loss(outputs, labels), images, positions)[2]
            for restart, corners in enumerate(first_corners(sensitive, side, self.restarts)):
                rows = everyone[~best.fooled] if self.mode == "compact" else everyone
                corner = corners[rows]
                drawn = keyed_uniform(
                    (images.shape[1], side, side), self.seed, positions[rows].tolist(), restart, device=images.device
                )
                content = (drawn.to(images) + 1) / 2
                for done in range(self.steps):
                    if not len(rows):
                        break
                    _, slope = look(rows, pasted(images[rows], content, corner))
                    content = (content + step * cut(slope, corner, side).sign()).clamp(0, 1)
                    if self.every and (done + 1) % self.every == 0:
                        corner = self._moved(function, images[rows], labels[rows], content, corner, max(1, side // 2))
                    if self.mode == "compact":
                        left = ~best.fooled[rows]
                        rows, content, corner = rows[left], content[left], corner[left]
                if len(rows):
                    adv = pasted(images[rows], content, corner)
                    outputs = scores(function, adv)
                    best.offer(rows, positions[rows], adv, outputs, margin_each(outputs, labels[rows]))
        return best.adv

    def _moved(self, function: Images, images: Tensor, labels: Tensor, content: Tensor, corner: Tensor, stride: int) -> Tensor:
        """[B, 2] the neighbouring corner, a stride away or where it is, at which the loss is largest."""
        side = content.shape[-1]
        room = torch.tensor([images.shape[-2] - side, images.shape[-1] - side], device=corner.device)
        chosen, highest = corner, torch.full_like(images[:, 0, 0, 0], -torch.inf)
        for down, across in ((0, 0), (-stride, 0), (stride, 0), (0, -stride), (0, stride)):
            there = (corner + torch.tensor([down, across], device=corner.device)).clamp_min(0).minimum(room)
            values = ATTACK_LOSSES[self.loss](scores(function, pasted(images, content, there)), labels)
            higher = values > highest
            chosen, highest = torch.where(higher[:, None], there, chosen), torch.where(higher, values, highest)
        return chosen


def first_corners(slope: Tensor, side: int, count: int) -> list[Tensor]:
    """`count` times [B, 2] corners (row, column): the squares with the largest sum of |gradient|, without overlap where there is
    room."""
    sums = F.avg_pool2d(slope.abs().sum(1, keepdim=True), side, stride=1)[:, 0]
    down, across = (torch.arange(size, device=slope.device) for size in sums.shape[1:])
    free = torch.ones_like(sums, dtype=torch.bool)
    found = []
    for _ in range(count):
        left = torch.where(per_image(free.flatten(1).any(1), sums) & ~free, -1.0, sums.to(torch.float32))
        place = left.flatten(1).argmax(1)
        corner = torch.stack([place // sums.shape[2], place % sums.shape[2]], 1)
        found.append(corner)
        near_rows = (down[None] - corner[:, :1]).abs() < side
        near_columns = (across[None] - corner[:, 1:]).abs() < side
        free = free & ~(near_rows[:, :, None] & near_columns[:, None, :])
    return found


def pasted(images: Tensor, content: Tensor, corner: Tensor) -> Tensor:
    """Images [B, C, H, W] with content [B, C, s, s] at the corners [B, 2]."""
    found = images.clone()
    batch, down, across = _window(corner, content.shape[-1])
    found[batch, :, down, across] = content.permute(0, 2, 3, 1)
    return found


def cut(images: Tensor, corner: Tensor, side: int) -> Tensor:
    """[B, C, s, s] what lies at the corners."""
    batch, down, across = _window(corner, side)
    return images[batch, :, down, across].permute(0, 3, 1, 2)


def _window(corner: Tensor, side: int) -> tuple[Tensor, Tensor, Tensor]:
    along = torch.arange(side, device=corner.device)
    batch = torch.arange(len(corner), device=corner.device)[:, None, None]
    return batch, corner[:, :1, None] + along[None, :, None], corner[:, 1:, None] + along[None, None, :]


ATTACK = Patch
