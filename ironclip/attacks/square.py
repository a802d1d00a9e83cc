"""Square attack: random squares of +-eps, kept if they lower the margin of the true class; needs scores only.

Source: Andriushchenko et al. 2020 (arXiv 1912.00049); constants [code: fra31/auto-attack]. Deviations: every image has its own
squares and signs (the released code draws them once for the whole batch, so that results depend on the batch); squares reach
the last row and column, as in the paper (the released code draws corners below height - side, so they never do). The l2 form
is in `_square_l2`.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, get_args

import torch
from torch import Tensor

from ironclip.attacks import _square_l2, inputs
from ironclip.attacks._goal import Best, Mode, SearchDtype, clean_logits, coarse, confirmed, scores
from ironclip.attacks._options import AttackOptions
from ironclip.attacks._square_l2 import HALVINGS
from ironclip.core.errors import DataError, UsageError
from ironclip.core.losses import margin_each
from ironclip.core.options import check_choice, check_number
from ironclip.core.tensors import generator, project, require_finite
from ironclip.core.threat import Norm
from ironclip.core.types import Images


@dataclass(frozen=True)
class Square(AttackOptions):
    """Images in the ball and in [0, 1] with the largest margin that the queries found.

    Args:
        eps: radius in the unit of the images.
        queries: forward passes of each run, the start not counted.
        restarts: runs from fresh stripes.
        p_init: share of the image that the first squares cover; halved after 10, 50, 200, 500, 1000, 2000, 4000, 6000 and
            8000 queries, whatever their number.
        mode: "full": every image, every query. "compact": an image leaves once it is misclassified, which leaves the robust
            accuracy as it is if the function is deterministic and treats each image alone.
        eval_mode: run a module in eval mode; False keeps the caller's mode.
        seed: with the index and the restart, the key of each image's squares.
        search_dtype: "bfloat16": squares are kept or dropped by margins in that precision; as in `APGD`, a misclassified point
            counts only if it is one in float32 too [inferred].
    """

    gradients: ClassVar[bool] = False

    eps: float
    queries: int = 5000
    restarts: int = 1
    p_init: float = 0.8
    norm: Norm = "linf"
    mode: Mode = "full"
    eval_mode: bool = True
    seed: int = 0
    search_dtype: SearchDtype = "float32"

    def __post_init__(self) -> None:
        super().__post_init__()
        check_choice("mode", self.mode, get_args(Mode))
        check_choice("search_dtype", self.search_dtype, get_args(SearchDtype))
        check_number("p_init", self.p_init, 0, 1, above=True)

    def perturb(
        self, function: Images, images: Tensor, labels: Tensor, positions: Tensor, *, draws: "Draws | None" = None
    ) -> Tensor:
        """See `AttackOptions.__call__`.

        Args:
            function: images -> logits [B, K]; no gradient is asked for.
            images: [B, C, H, W] in [0, 1], float32 (float64 for reference runs).
            draws: in place of those of the first restart (l-infinity).
        """
        if images.ndim != 4:
            raise DataError(f"squares need images [B, C, H, W]; got shape {tuple(images.shape)}")
        if draws is not None and self.norm != "linf":
            raise UsageError("draws= are those of the l-infinity form")
        if draws is not None and draws.corners.shape != (len(images), self.queries, 2):
            raise DataError(f"expected draws for {self.queries} queries of each of {len(images)} images")
        everyone = torch.arange(len(images), device=images.device)
        size = _square_l2.side if self.norm == "l2" else side
        sides = [size(query, self.p_init, *images.shape[-2:]) for query in range(self.queries)]
        with inputs.borrowed(function, self.eval_mode):
            clean = clean_logits(function, images, labels, positions)
            best = Best(images, labels, False)
            if self.mode == "compact":
                best.fooled = clean.argmax(1) != labels
            for restart in range(self.restarts):
                rows = everyone if self.mode == "full" else everyone[~best.fooled]
                if not len(rows):
                    break
                drawn: Any
                if draws is not None and restart == 0:
                    drawn = draws.of_rows(rows)
                elif self.norm == "l2":
                    drawn = _square_l2.draw(images[rows], positions[rows], self.queries, self.seed, restart)
                else:
                    drawn = draw(images[rows], positions[rows], sides, self.seed, restart)
                run, _ = search(
                    coarse(function, self.search_dtype), images[rows], labels[rows], positions[rows], drawn, sides, self.eps,
                    norm=self.norm, early=self.mode == "compact", confirm=None if self.search_dtype == "float32" else function,
                )  # fmt: skip
                best.take(rows, run.adv, run.values, run.fooled)
        return best.adv


@dataclass(frozen=True)
class Draws:
    """Everything random: stripes [B, C, 1, W] and signs [B, Q, C] of +-1, corners [B, Q, 2] (top row, left column)."""

    stripes: Tensor
    corners: Tensor
    signs: Tensor

    def of_rows(self, rows: Tensor) -> "Draws":
        return Draws(self.stripes[rows], self.corners[rows], self.signs[rows])


def side(query: int, p_init: float, height: int, width: int) -> int:
    """Side in pixels of the square of this query, counted from 0."""
    share = p_init / 2 ** sum(query > passed for passed in HALVINGS)
    return min(max(round(math.sqrt(share * height * width)), 1), height, width)


def draw(images: Tensor, positions: Tensor, sides: Sequence[int], seed: int, restart: int) -> Draws:
    """The draws of each image from its own generator; those for fewer queries are a part of those for more."""
    channels, height, width = images.shape[1:]
    stripes, numbers = [], []
    for position in positions.tolist():
        own = generator(seed, position, restart)
        stripes.append(torch.rand(channels, 1, width, generator=own))
        numbers.append(torch.rand(len(sides), 2 + channels, generator=own))
    drawn, room = torch.stack(numbers), torch.tensor([[height - side + 1, width - side + 1] for side in sides])
    corners = (drawn[..., :2] * room).long()
    signs, starts = ((part < 0.5).to(images) * 2 - 1 for part in (drawn[..., 2:], torch.stack(stripes)))
    return Draws(starts, corners.to(images.device), signs)


def search(
    function: Images,
    images: Tensor,
    labels: Tensor,
    names: Tensor,
    draws: Any,
    sides: Sequence[int],
    eps: float,
    *,
    norm: Norm = "linf",
    early: bool,
    confirm: Images | None = None,
) -> tuple[Best, Tensor]:
    """One run: the best point of each image, and how many queries were spent on it, the start included.

    Args:
        draws: of the form of this norm.
        early: drop an image once it is misclassified.
        confirm: decides which points are misclassified, where `function` is a coarser one.
    """
    check_choice("norm", norm, ("linf", "l2"))
    best, spent = Best(images, labels, False), torch.zeros_like(labels)
    rows = torch.arange(len(images), device=images.device)
    down, across = (torch.arange(size, device=images.device) for size in images.shape[-2:])

    def query(points: Tensor) -> None:
        points = project(points, images[rows], eps, norm)
        outputs = scores(function, points)
        require_finite("the output", outputs.isfinite().all(1), names[rows])
        outputs = confirmed(confirm, points, outputs, labels[rows])
        best.offer(rows, names[rows], points, outputs, margin_each(outputs, labels[rows]))
        spent[rows] += 1

    query(images + (_square_l2.first(images, draws, eps) if norm == "l2" else eps * draws.stripes))
    for number, length in enumerate(sides):
        if early:
            rows = rows[~best.fooled[rows]]
        if not len(rows):
            break
        if norm == "l2":
            query(images[rows] + _square_l2.propose(best.adv[rows] - images[rows], draws.queries[rows, number], length, eps))
            continue
        top, left = draws.corners[rows, number, :, None].unbind(1)
        inside_rows, inside_columns = ((place >= edge) & (place < edge + length) for place, edge in ((down, top), (across, left)))
        window = (inside_rows[:, None, :, None] & inside_columns[:, None, None, :]).to(images)
        query(best.adv[rows] + 2 * eps * draws.signs[rows, number, :, None, None] * window)
    return best, spent


ATTACK = Square
