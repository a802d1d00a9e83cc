"""The ascent of APGD on any loss: steps that halve by themselves, for each image on its own."""

from collections.abc import Callable
from dataclasses import dataclass, fields
from typing import Literal

import torch
from torch import Tensor

from ironclip.core.tensors import per_image, project, steepest, value_and_slope
from ironclip.core.types import Images

MOMENTUM = 0.75
FirstLoss = Literal["start", "zero"]
Observe = Callable[[Tensor, Tensor, Tensor, Tensor], None]
"""(rows, points, outputs, values) of every point that was looked at."""


def checkpoints(steps: int) -> list[int]:
    """Numbers of iterations after which the step size is reconsidered: windows of 22 %, each 3 % shorter, never below 6 %."""
    window, shorter, least = max(int(0.22 * steps), 1), max(int(0.03 * steps), 1), max(int(0.06 * steps), 1)
    ends = [window]
    while ends[-1] + max(window - shorter, least) <= steps:
        window = max(window - shorter, least)
        ends.append(ends[-1] + window)
    return [end for end in ends if end <= steps]


@dataclass
class _Climbers:
    """Where each row stands: its point, the one before, the best one, and what the next checkpoint needs to know."""

    rows: Tensor
    adv: Tensor
    before: Tensor
    slope: Tensor
    step: Tensor
    value: Tensor
    best: Tensor
    best_slope: Tensor
    best_value: Tensor
    rises: Tensor
    best_then: Tensor
    halved: Tensor

    def of_rows(self, chosen: Tensor) -> "_Climbers":
        return _Climbers(*[getattr(self, field.name)[chosen] for field in fields(self)])


def climb(
    function: Images,
    loss: Callable[[Tensor, Tensor], Tensor],
    start: Tensor,
    images: Tensor,
    *,
    eps: float,
    steps: int,
    kind: str,
    observe: Observe,
    going: Callable[[Tensor], Tensor] | None = None,
    rho: float = 0.75,
    first_loss: FirstLoss = "start",
    eot: int = 1,
    names: Tensor | None = None,
) -> None:
    """Auto-PGD (arXiv 2003.01690, algorithm 1) from `start`; results go to `observe`.

    Args:
        loss: (outputs, rows) -> [len(rows)] values to raise; `rows` are positions in the batch.
        going: rows -> which of them to follow further; the others leave the batch.
        rho: share of rising steps in a window at or below which the step is halved.
        first_loss: what the loss after the first step is compared with: the start's, as in the paper, or 0, as in the
            released code (an unset value; at the first checkpoint only).
        eot: gradients averaged in each step, for a random function.
        names: [B] dataset positions, for error messages.
    """

    def look(rows: Tensor, points: Tensor) -> tuple[Tensor, Tensor]:
        looks = []
        for _ in range(eot):
            labelled = None if names is None else names[rows]
            outputs, values, slope = value_and_slope(function, lambda outputs: loss(outputs, rows), points, labelled)
            looks.append((values, slope))
        values, slope = looks[0] if eot == 1 else (torch.stack(part).mean(0) for part in zip(*looks, strict=True))
        observe(rows, points, outputs, values)
        return values, slope

    rows = torch.arange(len(images), device=images.device)
    value, slope = look(rows, start)
    last = value if first_loss == "start" else torch.zeros_like(value)
    none, halved = torch.zeros_like(value), torch.ones_like(value, dtype=torch.bool)
    at = _Climbers(rows, start, start, slope, none + 2 * eps, last, start, slope, value, none, value, halved)
    ends = checkpoints(steps)
    for done in range(1, steps + 1):
        if going is not None and not (still := going(at.rows)).all():
            at = at.of_rows(still)
        if not len(at.rows):
            return
        centre = images[at.rows]
        ahead = project(at.adv + per_image(at.step, at.adv) * steepest(at.slope, kind), centre, eps, kind)
        if done > 1:
            ahead = project(at.adv + MOMENTUM * (ahead - at.adv) + (1 - MOMENTUM) * (at.adv - at.before), centre, eps, kind)
        at.before, at.adv = at.adv, ahead
        value, at.slope = look(at.rows, at.adv)
        at.rises = at.rises + (value > at.value)
        at.value = value
        better = value > at.best_value
        at.best = torch.where(per_image(better, at.adv), at.adv, at.best)
        at.best_slope = torch.where(per_image(better, at.adv), at.slope, at.best_slope)
        at.best_value = torch.where(better, value, at.best_value)
        if done in ends:
            place = ends.index(done)
            window = done - (ends[place - 1] if place else 0)
            halve = (at.rises <= rho * window) | (~at.halved & (at.best_then >= at.best_value))
            at.step = torch.where(halve, at.step / 2, at.step)
            at.adv = torch.where(per_image(halve, at.adv), at.best, at.adv)
            at.slope = torch.where(per_image(halve, at.adv), at.best_slope, at.slope)
            at.halved, at.best_then, at.rises = halve, at.best_value, torch.zeros_like(at.rises)
