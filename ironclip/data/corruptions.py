"""Common corruptions of images at five severities, drawn from (seed, index, kind, severity) alone.

Source: Hendrycks & Dietterich 2019 (arXiv 1903.12261); kinds and constants [code: hendrycks/robustness, make_imagenet_c.py],
which are for 224 pixels: lengths are scaled with the side of the image. Deviations: `frost` needs photographs of frost and is
left out, so there are 14 kinds; `fog` adds octaves of noise instead of a diamond-square map, `glass_blur` moves every pixel at
random at once instead of swapping neighbours in turn, `motion_blur` is made of shifted copies [inferred]. So the numbers are not
those of ImageNet-C; compare them with each other.
"""

import io
import math
from collections.abc import Callable
from typing import Any

import numpy as np
from PIL import Image
from scipy import ndimage

from ironclip.core.tensors import key

Picture = np.ndarray[Any, np.dtype[np.float64]]
Draw = np.random.Generator
Corruption = Callable[[Picture, int, Draw], Picture]
SEVERITIES = (1, 2, 3, 4, 5)
SIDE = 224  # pixels per side for which the constants were chosen


def _scale(picture: Picture) -> float:
    return min(picture.shape[:2]) / SIDE


def _gaussian_noise(picture: Picture, level: int, draw: Draw) -> Picture:
    return picture + draw.normal(size=picture.shape, scale=(0.08, 0.12, 0.18, 0.26, 0.38)[level])


def _shot_noise(picture: Picture, level: int, draw: Draw) -> Picture:
    photons = (60, 25, 12, 5, 3)[level]
    return draw.poisson(picture * photons) / photons


def _impulse_noise(picture: Picture, level: int, draw: Draw) -> Picture:
    share = (0.03, 0.06, 0.09, 0.17, 0.27)[level]
    struck = draw.random(picture.shape)
    return np.where(struck < share / 2, 0.0, np.where(struck < share, 1.0, picture))


def _defocus_blur(picture: Picture, level: int, draw: Draw) -> Picture:
    radius = max((3, 4, 6, 8, 10)[level] * _scale(picture), 0.6)
    reach = math.ceil(radius)
    down, across = np.mgrid[-reach : reach + 1, -reach : reach + 1]
    disc = np.clip(radius + 0.5 - np.hypot(down, across), 0, 1)
    return np.stack([ndimage.convolve(channel, disc / disc.sum(), mode="reflect") for channel in np.moveaxis(picture, 2, 0)], 2)


def _blurred(picture: Picture, sigma: float) -> Picture:
    found: Picture = ndimage.gaussian_filter(picture, (sigma, sigma, 0), mode="reflect")
    return found


def _moved(picture: Picture, down: Picture, across: Picture) -> Picture:
    rows, columns = np.mgrid[: picture.shape[0], : picture.shape[1]]
    places = [rows + down, columns + across]
    channels = [ndimage.map_coordinates(channel, places, order=1, mode="reflect") for channel in np.moveaxis(picture, 2, 0)]
    return np.stack(channels, 2)


def _glass_blur(picture: Picture, level: int, draw: Draw) -> Picture:
    sigma, reach, times = ((0.7, 1, 2), (0.9, 2, 1), (1, 2, 3), (1.1, 3, 2), (1.5, 4, 2))[level]
    scale = _scale(picture)
    found = _blurred(picture, sigma * scale)
    for _ in range(times):
        far = max(reach * scale, 0.5)
        found = _moved(found, *(draw.uniform(-far, far, picture.shape[:2]) for _ in range(2)))
    return _blurred(found, sigma * scale)


def _streaked(picture: Picture, radius: float, sigma: float, angle: float) -> Picture:
    count = max(2, math.ceil(radius) + 1)
    steps = np.linspace(0, radius, count)
    weights = np.exp(-(steps**2) / (2 * max(sigma, 1e-6) ** 2))
    copies = [
        ndimage.shift(picture, (step * math.sin(angle), step * math.cos(angle), 0), order=1, mode="nearest") for step in steps
    ]
    found: Picture = np.tensordot(weights / weights.sum(), np.stack(copies), 1)
    return found


def _motion_blur(picture: Picture, level: int, draw: Draw) -> Picture:
    radius, sigma = ((10, 3), (15, 5), (15, 8), (15, 12), (20, 15))[level]
    scale = _scale(picture)
    return _streaked(picture, radius * scale, sigma * scale, math.radians(draw.uniform(-45, 45)))


def _zoomed(picture: Picture, factor: float) -> Picture:
    height, width = picture.shape[:2]
    rows, columns = np.mgrid[:height, :width]
    shrink = 1 / factor - 1
    return _moved(picture, (rows - (height - 1) / 2) * shrink, (columns - (width - 1) / 2) * shrink)


def _zoom_blur(picture: Picture, level: int, draw: Draw) -> Picture:
    end, step = ((1.11, 0.01), (1.16, 0.01), (1.21, 0.02), (1.26, 0.02), (1.31, 0.03))[level]
    factors = np.arange(1, end, step)
    return (picture + sum(_zoomed(picture, float(factor)) for factor in factors)) / (len(factors) + 1)


def _snow(picture: Picture, level: int, draw: Draw) -> Picture:
    mean, spread, zoom, least, radius, sigma, kept = (
        (0.1, 0.3, 3, 0.5, 10, 4, 0.8), (0.2, 0.3, 2, 0.5, 12, 4, 0.7), (0.55, 0.3, 4, 0.9, 12, 8, 0.7),
        (0.55, 0.3, 4.5, 0.85, 12, 8, 0.65), (0.55, 0.3, 2.5, 0.85, 12, 12, 0.55),
    )[level]  # fmt: skip
    scale = _scale(picture)
    layer = _zoomed(draw.normal(mean, spread, (*picture.shape[:2], 1)), max(1.0, zoom * scale))
    layer = np.where(layer < least, 0.0, np.clip(layer, 0, 1))
    layer = _streaked(layer, radius * scale, sigma * scale, math.radians(draw.uniform(-135, -45)))
    gray = picture @ np.array([0.299, 0.587, 0.114])
    paler = kept * picture + (1 - kept) * np.maximum(picture, gray[..., None] * 1.5 + 0.5)
    return paler + layer + layer[::-1, ::-1]


def _fog(picture: Picture, level: int, draw: Draw) -> Picture:
    amount, decay = ((1.5, 2), (2, 2), (2.5, 1.7), (2.5, 1.5), (3, 1.4))[level]
    height, width = picture.shape[:2]
    fog = np.zeros((height, width))
    for octave in range(1, max(2, int(math.log2(max(height, width))))):
        coarse = draw.random((2**octave + 1, 2**octave + 1))
        rows, columns = np.mgrid[0 : 2**octave : complex(height), 0 : 2**octave : complex(width)]
        fog += ndimage.map_coordinates(coarse, [rows, columns], order=1) / decay**octave
    fog = (fog - fog.min()) / max(np.ptp(fog), 1e-9)
    brightest = max(float(picture.max()), 1e-9)
    return (picture + amount * fog[..., None]) * brightest / (brightest + amount)


def _brightness(picture: Picture, level: int, draw: Draw) -> Picture:
    value = picture.max(2, keepdims=True)  # the V of HSV; colors keep their ratios
    brighter = np.clip(value + (0.1, 0.2, 0.3, 0.4, 0.5)[level], 0, 1)
    return np.where(value > 0, picture * brighter / np.maximum(value, 1e-9), brighter)


def _contrast(picture: Picture, level: int, draw: Draw) -> Picture:
    mean = picture.mean((0, 1), keepdims=True)
    return (picture - mean) * (0.4, 0.3, 0.2, 0.1, 0.05)[level] + mean


def _elastic_transform(picture: Picture, level: int, draw: Draw) -> Picture:
    strength, sigma, jitter = ((2, 0.7, 0.1), (2, 0.08, 0.2), (0.05, 0.01, 0.02), (0.07, 0.01, 0.02), (0.12, 0.01, 0.02))[level]
    side = min(picture.shape[:2])
    height, width = picture.shape[:2]
    center = np.array([height, width]) / 2
    affine = np.eye(2) + draw.uniform(-jitter, jitter, (2, 2))
    places = np.mgrid[:height, :width].reshape(2, -1) - center[:, None]
    turned = (affine @ places - places).reshape(2, height, width)
    waves = [
        ndimage.gaussian_filter(draw.uniform(-1, 1, (height, width)), sigma * side, mode="reflect", truncate=3) for _ in range(2)
    ]
    return _moved(picture, turned[0] + strength * side * waves[0], turned[1] + strength * side * waves[1])


def _pixelate(picture: Picture, level: int, draw: Draw) -> Picture:
    share = (0.6, 0.5, 0.4, 0.3, 0.25)[level]
    whole = Image.fromarray(_bytes(picture))
    small = whole.resize((max(1, int(whole.width * share)), max(1, int(whole.height * share))), Image.Resampling.BOX)
    return np.asarray(small.resize(whole.size, Image.Resampling.NEAREST), dtype=np.float64) / 255


def _jpeg_compression(picture: Picture, level: int, draw: Draw) -> Picture:
    file = io.BytesIO()
    Image.fromarray(_bytes(picture)).save(file, "JPEG", quality=(25, 18, 15, 10, 7)[level])
    return np.asarray(Image.open(file), dtype=np.float64) / 255


def _bytes(picture: Picture) -> np.ndarray[Any, np.dtype[np.uint8]]:
    return np.round(np.clip(picture, 0, 1) * 255).astype(np.uint8)


CORRUPTIONS: dict[str, Corruption] = {
    "gaussian_noise": _gaussian_noise, "shot_noise": _shot_noise, "impulse_noise": _impulse_noise,
    "defocus_blur": _defocus_blur, "glass_blur": _glass_blur, "motion_blur": _motion_blur, "zoom_blur": _zoom_blur,
    "snow": _snow, "fog": _fog, "brightness": _brightness,
    "contrast": _contrast, "elastic_transform": _elastic_transform, "pixelate": _pixelate, "jpeg_compression": _jpeg_compression,
}  # fmt: skip


def corrupted(picture: Picture, kind: str, severity: int, *, index: int, seed: int = 0) -> Picture:
    """The image [H, W, 3] in [0, 1] with this corruption, in 8 bits per channel.

    Args:
        kind: a name in `CORRUPTIONS`. severity: 1 to 5. index: position in the data set; with seed, kind and severity the key.
    """
    draw = np.random.default_rng(key(seed, index, list(CORRUPTIONS).index(kind), severity))
    found = CORRUPTIONS[kind](picture.astype(np.float64), severity - 1, draw)
    return _bytes(found).astype(np.float64) / 255
