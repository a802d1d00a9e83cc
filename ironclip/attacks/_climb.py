"""The ascent of APGD on any loss: the step size of each image is halved when progress stops."""

from collections.abc import Callable
from dataclasses import dataclass, fields
from typing import Literal, Self

import torch
from torch import Tensor

from ironclip.core.tensors import per_image, project, steepest, value_and_slope
from ironclip.core.types import Images

MOMENTUM = 0.75
FirstLoss = Literal["start", "zero"]
Observe = Callable[[Tensor, Tensor, Tensor, Tensor], None]
"""(rows, points, outputs, values) of every evaluated point."""


def checkpoints(steps: int) -> list[int]:
    """Numbers of iterations after which the step size is reconsidered: windows of 22 %, each 3 % shorter, never below 6 %."""
    window, shorter, least = max(int(0.22 * steps), 1), max(int(0.03 * steps), 1), max(int(0.06 * steps), 1)
    ends = [window]
    while ends[-1] + max(window - shorter, least) <= steps:
        window = max(window - shorter, least)
        ends.append(ends[-1] + window)
    return [end for end in ends if end <= steps]


@dataclass
class Climbers:
    """The state of each row: its point and gradient, step length, and the best point with its gradient and value."""

    rows: Tensor
    adv: Tensor
    slope: Tensor
    step: Tensor
    best: Tensor
    best_slope: Tensor
    best_value: Tensor

    def of_rows(self, chosen: Tensor) -> Self:
        return type(self)(*[getattr(self, field.name)[chosen] for field in fields(self)])

    def keep_best(self, value: Tensor) -> None:
        """Make the point the best one in the rows where its value [rows] is above all earlier values."""
        better = value > self.best_value
        self.best = torch.where(per_image(better, self.adv), self.adv, self.best)
        self.best_slope = torch.where(per_image(better, self.adv), self.slope, self.best_slope)
        self.best_value = torch.where(better, value, self.best_value)

    def go_back(self, where: Tensor) -> None:
        """Return to the best point in these rows [rows]."""
        self.adv = torch.where(per_image(where, self.adv), self.best, self.adv)
        self.slope = torch.where(per_image(where, self.adv), self.best_slope, self.slope)


@dataclass
class _Halving(Climbers):
    """Also the previous point, and the counts for the next checkpoint."""

    before: Tensor
    value: Tensor
    rises: Tensor
    best_then: Tensor
    halved: Tensor


def looking(
    function: Images,
    loss: Callable[[Tensor, Tensor], Tensor],
    observe: Observe | None,
    eot: int,
    names: Tensor | None,
) -> Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]:
    """(rows, points) -> values and gradients, means of `eot` calls; every evaluated point goes to `observe`. Arguments as of
    `climb`."""

    def look(rows: Tensor, points: Tensor) -> tuple[Tensor, Tensor]:
        looks = []
        for _ in range(eot):
            labelled = None if names is None else names[rows]
            outputs, values, slope = value_and_slope(function, lambda outputs: loss(outputs, rows), points, labelled)
            looks.append((values, slope))
        values, slope = looks[0] if eot == 1 else (torch.stack(part).mean(0) for part in zip(*looks, strict=True))
        if observe is not None:
            observe(rows, points, outputs, values)
        return values, slope

    return look


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
        going: rows -> those that continue; the others leave the batch.
        rho: share of rising steps in a window at or below which the step is halved.
        first_loss: the value that the loss after the first step is compared with: the start's, as in the paper, or 0, as in the
            released code (an unset value; at the first checkpoint only).
        eot: gradients averaged in each step, for a random function.
        names: [B] dataset positions, for error messages.
    """

    look = looking(function, loss, observe, eot, names)
    rows = torch.arange(len(images), device=images.device)
    value, slope = look(rows, start)
    last = value if first_loss == "start" else torch.zeros_like(value)
    none, halved = torch.zeros_like(value), torch.ones_like(value, dtype=torch.bool)
    at = _Halving(rows, start, slope, none + 2 * eps, start, slope, value, start, last, none, value, halved)
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
        at.keep_best(value)
        if done in ends:
            place = ends.index(done)
            window = done - (ends[place - 1] if place else 0)
            halve = (at.rises <= rho * window) | (~at.halved & (at.best_then >= at.best_value))
            at.step = torch.where(halve, at.step / 2, at.step)
            at.go_back(halve)
            at.halved, at.best_then, at.rises = halve, at.best_value, torch.zeros_like(at.rises)
