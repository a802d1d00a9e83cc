"""The ascent of APGD in l1: sparse steps inside ball and box; the number of changed pixels adapts, and the radius shrinks in
stages.

Source: Croce & Hein 2021 (arXiv 2103.01208), algorithm 1 and section 4; constants [code: fra31/auto-attack, autopgd_base.py].
A step goes along the signs of the largest entries of the gradient, is eps long in all, and is projected onto the ball and the
box together. At each checkpoint an image whose best point has become sparser (by more than a twentieth) starts again from that
point with the longest step; any other image's step is divided by 1.5, down to a tenth of eps. The share of entries that move is
that of the best point's changed entries over 1.5.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ironclip.attacks._climb import Climbers, Observe, looking
from ironclip.core.tensors import per_image, project
from ironclip.core.types import Images

RADII = (3.0, 2.0, 1.0)
"""Radii of the stages in units of eps; only points of the last stage count."""
PARTS = (0.3, 0.3, 0.4)
"""Shares of the steps per stage."""
FIRST_SHARE, SPARSER, FEWER, SHORTER, LEAST, WINDOW = 0.2, 0.95, 1.5, 1.5, 0.1, 0.04


@dataclass
class _Sparse(Climbers):
    """Also the share of entries that a step moves, and the number of entries that differ at the best point."""

    share: Tensor
    changed: Tensor


def climb_l1(
    function: Images,
    loss: Callable[[Tensor, Tensor], Tensor],
    start: Tensor,
    images: Tensor,
    *,
    eps: float,
    steps: int,
    observe: Observe,
    going: Callable[[Tensor], Tensor] | None = None,
    eot: int = 1,
    names: Tensor | None = None,
    **_: Any,
) -> None:
    """APGD in l1 from `start`; points inside the ball of radius eps go to `observe`. Arguments as of `_climb.climb`; kind, rho
    and first_loss are not used here."""
    rows = torch.arange(len(images), device=images.device)
    lengths = [int(part * steps) for part in PARTS[:-1]]
    adv = start
    for number, (times, length) in enumerate(zip(RADII, [*lengths, steps - sum(lengths)], strict=True)):
        last = number == len(RADII) - 1
        adv = project(adv, images, times * eps, "l1")
        adv = _stage(
            function, loss, adv, images, rows, times * eps, length, first=number == 0,
            observe=observe if last else None, going=going if last else None, eot=eot, names=names,
        )  # fmt: skip


def _stage(
    function: Images, loss: Callable[[Tensor, Tensor], Tensor], adv: Tensor, images: Tensor, rows: Tensor, eps: float, steps: int,
    *, first: bool, observe: Observe | None, going: Callable[[Tensor], Tensor] | None, eot: int, names: Tensor | None,
) -> Tensor:  # fmt: skip
    """The best point of each row after these steps at this radius; rows that stopped going keep theirs."""
    look = looking(function, loss, observe, eot, names)
    entries = images[0].numel()
    value, slope = look(rows, adv)
    changed = torch.full_like(value, entries) if first else _changed(adv - images)
    share = torch.full_like(value, FIRST_SHARE) if first else changed / entries / FEWER
    at = _Sparse(rows, adv, slope, torch.full_like(value, eps), adv, slope, value, share, changed)
    found = adv.clone()
    window = max(int(WINDOW * steps), 1)
    for done in range(1, steps + 1):
        if going is not None and not (still := going(at.rows)).all():
            at = at.of_rows(still)
        if not len(at.rows):
            break
        step = per_image(at.step, at.adv) * sparse(at.slope, at.share)
        at.adv = project(at.adv + step, images[at.rows], eps, "l1")
        value, at.slope = look(at.rows, at.adv)
        at.keep_best(value)
        found[at.rows] = at.best
        if done % window == 0:
            changed = _changed(at.best - images[at.rows])
            again = changed < SPARSER * at.changed
            at.step = torch.where(again, torch.full_like(at.step, eps), (at.step / SHORTER).clamp_min(LEAST * eps))
            at.share, at.changed = changed / entries / FEWER, changed
            at.go_back(again)
    return found


def sparse(slope: Tensor, share: Tensor) -> Tensor:
    """[B, ...] signs of the largest entries of each gradient, divided by their number: a direction of l1 length 1.

    Args:
        share: [B] of the entries that move, at least one.
    """
    size = slope.flatten(1).abs()
    count = size.shape[1]
    place = ((1 - share) * count).long().clamp(0, count - 1)
    least = size.sort(1).values.gather(1, place[:, None])
    signs = slope.flatten(1).sign() * (size >= least)
    return (signs / signs.abs().sum(1, keepdim=True).clamp_min(1e-10)).view_as(slope)


def _changed(delta: Tensor) -> Tensor:
    """[B] number of entries that are not 0."""
    return (delta != 0).flatten(1).sum(1).to(delta)
