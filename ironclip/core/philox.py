"""Random words by counting, the same on every device: Philox 4x64-10.

Source: Salmon et al., "Parallel random numbers: as easy as 1, 2, 3" (SC 2011). A word depends on its key and its number alone, so
each device makes the words that it needs. On the CPU numpy makes them; elsewhere 64-bit integer tensors do, with the same bits.
"""

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

ROUNDS = 10
MULTIPLIERS = (0xD2E7470EE14C6C93, 0xCA5A826395121157)
STEPS = (0x9E3779B97F4A7C15, 0xBB67AE8584CAA73B)
"""What the two halves of the key grow by from round to round."""
LOW = 0xFFFFFFFF


def uniform(keys: Sequence[int], count: int, device: torch.device | str = "cpu") -> Tensor:
    """[len(keys), count] float32, uniform in [-1, 1) in steps of 2^-23, each row from its own key of at most 63 bits."""
    if torch.device(device).type == "cpu":
        rows = np.empty((len(keys), count), np.float32)
        for key, row in zip(keys, rows, strict=True):
            np.random.Generator(np.random.Philox(key=key)).random(dtype=np.float32, out=row)
        return torch.from_numpy(rows).mul_(2).sub_(1)
    return uniform_on_tensors(keys, count, device)


def uniform_on_tensors(keys: Sequence[int], count: int, device: torch.device | str) -> Tensor:
    """The numbers of `uniform` with the same bits, from integer tensors on any device."""
    words = random_words(keys, -(-count // 8), device)
    halves = torch.stack([words, words >> 32], dim=-1).flatten(1)[:, :count]  # numpy takes the lower half of a word first
    return ((halves >> 8) & 0xFFFFFF).float().mul_(2**-23).sub_(1)


def random_words(keys: Sequence[int], blocks: int, device: torch.device | str) -> Tensor:
    """[len(keys), 4 * blocks] int64: the bits of the words that numpy's `Philox(key=key)` gives, whose counter starts at 1."""
    first = torch.tensor(keys).to(device)[:, None]
    count = torch.arange(1, blocks + 1, device=device).expand(len(keys), -1)
    zero = torch.zeros_like(count)
    a, b, c, d = count, zero, zero, zero
    for number in range(ROUNDS):
        high_a, low_a = _product(MULTIPLIERS[0], a)
        high_c, low_c = _product(MULTIPLIERS[1], c)
        one, two = first + _signed(STEPS[0] * number), _signed(STEPS[1] * number)
        a, b, c, d = high_c ^ b ^ one, low_c, high_a ^ d ^ two, low_a
    return torch.stack([a, b, c, d], dim=-1).flatten(1)


def _product(factor: int, values: Tensor) -> tuple[Tensor, Tensor]:
    """The upper and the lower 64 bits of factor * values, both taken without a sign, from products of 32 bits."""
    high, low = factor >> 32, factor & LOW
    upper, lower = (values >> 32) & LOW, values & LOW
    first = lower * low
    middle = upper * low + ((first >> 32) & LOW)
    other = lower * high + (middle & LOW)
    return upper * high + ((middle >> 32) & LOW) + ((other >> 32) & LOW), values * _signed(factor)


def _signed(number: int) -> int:
    """The 64 lowest bits as a signed integer."""
    return (number + 2**63) % 2**64 - 2**63
