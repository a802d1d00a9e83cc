"""The l2 form of Square: the change's length moves between windows.

Source: Andriushchenko et al. 2020 (arXiv 1912.00049), constants [code: fra31/auto-attack]. Deviations: as in `square`, every
image has its own draws, and windows reach the last row and column; windows and tiles are made smaller
for images below five pixels per side.
"""

from dataclasses import dataclass
from functools import cache

import torch
from torch import Tensor

from ironclip.core.tensors import generator, norm, per_image

HALVINGS = (10, 50, 200, 500, 1000, 2000, 4000, 6000, 8000)
"""Queries after which windows, and the squares of `square`, halve their area."""
TILES = 5


def side(query: int, p_init: float, height: int, width: int) -> int:
    """Odd side in pixels of the windows of this query, at least 3 where the image has them."""
    share = p_init / 2 ** sum(query > passed for passed in HALVINGS)
    wanted, most = max(round((share * height * width) ** 0.5), 3) // 2 * 2 + 1, min(height, width)
    return min(wanted, most - (most + 1) % 2)


@cache
def waves(length: int) -> Tensor:
    """[length, length] of unit length: a hill above, a valley below."""
    half = length // 2
    both = torch.cat([_hill(half, length), -_hill(length - half, length)])
    return both / both.norm()


def _hill(height: int, width: int) -> Tensor:
    """[height, width] of unit length: nested rectangles around the middle, the k-th of weight 1 / k^2."""
    hill = torch.zeros(height, width)
    for k in range(max(height, width) // 2 + 1):
        rows, columns = (slice(max(size // 2 - k, 0), size // 2 + k + 1) for size in (height, width))
        hill[rows, columns] += 1 / (k + 1) ** 2
    return hill / hill.norm().clamp_min(1e-12)


@dataclass(frozen=True)
class Draws:
    """Everything random, uniform in [0, 1): start [B, C + 1, 5, 5], and queries [B, Q, 5 + C]."""

    start: Tensor
    queries: Tensor

    def of_rows(self, rows: Tensor) -> "Draws":
        return Draws(self.start[rows], self.queries[rows])


def draw(images: Tensor, positions: Tensor, queries: int, seed: int, restart: int) -> Draws:
    """The draws of each image from its own generator; those for fewer queries are a part of those for more."""
    channels = images.shape[1]
    starts, numbers = [], []
    for position in positions.tolist():
        own = generator(seed, position, restart)
        starts.append(torch.rand(channels + 1, TILES, TILES, generator=own))
        numbers.append(torch.rand(queries, 5 + channels, generator=own))
    return Draws(torch.stack(starts).to(images), torch.stack(numbers).to(images))


def first(images: Tensor, draws: Draws, eps: float) -> Tensor:
    """[B, C, H, W] waves of random sign and orientation on tiles of a fifth of the image, of length eps together."""
    height, width = images.shape[-2:]
    length = max(min(height, width) // TILES, 1)
    delta, signs = torch.zeros_like(images), _signs(draws.start[:, :-1])
    rows, columns = (min(TILES, size // length) for size in (height, width))
    top, left = (height - rows * length) // 2, (width - columns * length) // 2
    for row in range(rows):
        for column in range(columns):
            tile = _turned(length, draws.start[:, -1, row, column], images) * signs[:, :, row, column, None, None]
            here = slice(top + row * length, top + (row + 1) * length)
            delta[:, :, here, left + column * length : left + (column + 1) * length] = tile
    return _scaled(delta, eps)


def propose(delta: Tensor, numbers: Tensor, length: int, eps: float) -> Tensor:
    """[R, C, H, W] of length eps: one window is emptied, another gets its length, in the direction of waves added to its own.

    Args:
        delta: [R, C, H, W] the best so far minus the image.
        numbers: [R, 5 + C] uniform draws: two corners, the orientation, a sign for each channel.
    """
    room = delta.new_tensor([delta.shape[2] - length + 1, delta.shape[3] - length + 1])
    into, out_of = (_window((numbers[:, at : at + 2] * room).long(), length, delta) for at in (0, 2))
    old = delta[into].unflatten(-1, (length, length))
    pattern = _turned(length, numbers[:, 4], delta) * _signs(numbers[:, 5:])[:, :, None, None]
    fresh = pattern + old / (_lengths(old) + 1e-12)
    both = delta.clone()
    both[into] = both[out_of] = 0
    spare = (eps**2 - norm(delta, "l2") ** 2).clamp_min(0) / delta.shape[1]
    moved = norm(delta - both, "l2") ** 2
    fresh = fresh / (_lengths(fresh) + 1e-12) * per_image((spare + moved).sqrt(), fresh)
    delta = delta.clone()
    delta[out_of] = 0
    delta[into] = fresh.flatten(-2)
    return _scaled(delta, eps)


def _window(corners: Tensor, length: int, like: Tensor) -> tuple[Tensor, ...]:
    """Index of the window below and right of each corner [R, 2]: like[index] is [R, C, length * length]."""
    steps = torch.arange(length, device=like.device)
    rows = (corners[:, 0, None] + steps)[:, :, None].expand(-1, -1, length).flatten(1)
    columns = (corners[:, 1, None] + steps)[:, None].expand(-1, length, -1).flatten(1)
    image = torch.arange(len(like), device=like.device)[:, None, None]
    channel = torch.arange(like.shape[1], device=like.device)[None, :, None]
    return image, channel, rows[:, None], columns[:, None]


def _turned(length: int, drawn: Tensor, like: Tensor) -> Tensor:
    pattern = waves(length).to(like)
    return torch.where(drawn[:, None, None] > 0.5, pattern.T, pattern)[:, None]


def _signs(drawn: Tensor) -> Tensor:
    return (drawn < 0.5).to(drawn) * 2 - 1


def _lengths(windows: Tensor) -> Tensor:
    return windows.square().sum((-2, -1), keepdim=True).sqrt()


def _scaled(delta: Tensor, eps: float) -> Tensor:
    return delta * per_image(eps / norm(delta, "l2").clamp_min(1e-12), delta)
