"""The random crop and flip of few-shot training, drawn from a generator that is an argument."""

import math
from collections.abc import Sequence

import torch
from PIL import Image

AREA, RATIO = 0.08, (3 / 4, 4 / 3)
"""The smallest share of the image that a crop keeps, torchvision's, and the range of its width over its height."""


def random_resized_crop_flip(image: Image.Image, resolution: int, rng: torch.Generator, area: float = AREA) -> Image.Image:
    """A random part of the image, `resolution` pixels per side (bicubic, antialiased), mirrored half of the time.

    Source: torchvision's `RandomResizedCrop` (8 to 100 % of the area, ratio 3/4 to 4/3) and `RandomHorizontalFlip`: ten
    tries for a part that fits, then the largest central one; drawn from `rng` alone.

    Args:
        area: smallest share of the image that the part covers.
    """
    draws = torch.rand(11, 4, generator=rng).tolist()
    part = image.crop(crop_box(image.width, image.height, draws[:10], area))
    part = part.resize((resolution, resolution), Image.Resampling.BICUBIC)
    return part.transpose(Image.Transpose.FLIP_LEFT_RIGHT) if draws[10][0] < 0.5 else part


def crop_box(width: int, height: int, draws: Sequence[Sequence[float]], smallest: float = AREA) -> tuple[int, int, int, int]:
    """(left, top, right, bottom) of the first try that fits; draws: four numbers in [0, 1) for each try."""
    for size, shape, left, top in draws:
        area = width * height * (smallest + size * (1 - smallest))
        aspect = math.exp(math.log(RATIO[0]) + shape * math.log(RATIO[1] / RATIO[0]))
        w, h = round(math.sqrt(area * aspect)), round(math.sqrt(area / aspect))
        if 0 < w <= width and 0 < h <= height:
            x, y = int(left * (width - w + 1)), int(top * (height - h + 1))
            return x, y, x + w, y + h
    w, h = max(min(width, round(height * RATIO[1])), 1), max(min(height, round(width / RATIO[0])), 1)
    x, y = (width - w) // 2, (height - h) // 2
    return x, y, x + w, y + h
