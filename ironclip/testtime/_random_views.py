"""Random views of images as tensors: resized crops with flips, and AugMix; on any device, differentiable in the pixels.

Source: the views of TomSheng21/R-TPT (`data/datautils.py`, `data/augmix_ops.py`), AugMix at severity 1 (arXiv 1912.02781). All
random numbers of a view are one row of uniforms from a generator keyed by (image key, number of the view), so a view depends
neither on the batch nor on how many others are drawn. Deviations: the source is the model's own crop, not the file; nothing is
rounded to 8 bits between the steps, except inside the operations that count grey levels.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from ironclip.core.tensors import doubled, generator

SCALE, RATIO, TRIES = (0.08, 1.0), (3 / 4, 4 / 3), 10
CHAINS, DEPTH = 3, 3
OPS = (
    "autocontrast", "equalize", "posterize", "solarize", "rotate", "shear_x", "shear_y", "translate_x", "translate_y",
)  # fmt: skip
UNIFORMS = 4 * TRIES + 1 + CHAINS + 1 + CHAINS + 3 * CHAINS * DEPTH


@dataclass(frozen=True)
class Views:
    """V random views per image.

    Args:
        base: [B, V, 3, S, S] flipped crops.
        mix: [B, V, 3, S, S] AugMix's mixture of chains, before the skip connection; the base itself without AugMix.
        keep: [B, V] weight of the base in AugMix's skip connection.
    """

    base: Tensor
    mix: Tensor
    keep: Tensor

    @property
    def blended(self) -> Tensor:
        """[B, V, 3, S, S] keep * base + (1 - keep) * mix, AugMix's result."""
        keep = self.keep[..., None, None, None]
        return keep * self.base + (1 - keep) * self.mix


def random_views(images: Tensor, keys: Sequence[int], count: int, *, augmix: bool = True, crop: bool = True) -> Views:
    """`count` views of each of the images [B, 3, S, S] in [0, 1]; keys [B] seed them. Without `crop` a base is the whole image,
    mirrored or not."""
    draws = uniforms(keys, count)
    crops, flip, weights, keep, chains = draws.split([4 * TRIES, 1, CHAINS, 1, CHAINS + 3 * CHAINS * DEPTH], dim=-1)
    boxes = crop_boxes(images.shape[-1], images.shape[-2], crops.unflatten(-1, (TRIES, 4)))
    if not crop:
        boxes = torch.tensor([0, 0, images.shape[-1], images.shape[-2]]).expand_as(boxes)
    base = crops_of(images, boxes, flip[..., 0] < 0.5)
    keep = keep[..., 0].to(images)
    if not augmix:
        return Views(base, base, torch.ones_like(keep))
    exponential = -torch.log1p(-weights)
    weights = (exponential / exponential.sum(-1, keepdim=True)).to(images)
    mixed = mixture(base.flatten(0, 1), weights.flatten(0, 1), chains.flatten(0, 1))
    return Views(base, mixed.view_as(base), keep)


def uniforms(keys: Sequence[int], count: int) -> Tensor:
    """[B, V, UNIFORMS] in [0, 1), each row from its own generator (image key, view), in float64 on the CPU."""
    rows = [
        torch.rand(UNIFORMS, generator=generator(key, view), dtype=torch.float64) for key in keys for view in range(1, count + 1)
    ]
    return torch.stack(rows).view(len(keys), count, UNIFORMS) if rows else torch.empty(len(keys), count, UNIFORMS)


def crop_boxes(width: int, height: int, draws: Tensor, *, area: tuple[float, float] = SCALE) -> Tensor:
    """[..., 4] left, top, width, height in pixels: of the tries [..., T, 4] the first that fits, else the largest central part.

    Source: torchvision's RandomResizedCrop, ratio 3/4 to 4/3.

    Args:
        area: smallest and largest share of the area; default: 8 to 100 %.
    """
    size, shape, left, top = draws.unbind(-1)
    pixels = width * height * (area[0] + size * (area[1] - area[0]))
    aspect = torch.exp(math.log(RATIO[0]) + shape * math.log(RATIO[1] / RATIO[0]))
    w, h = (pixels * aspect).sqrt().round(), (pixels / aspect).sqrt().round()
    fits = (w > 0) & (w <= width) & (h > 0) & (h <= height)
    boxes = torch.stack([(left * (width - w + 1)).floor(), (top * (height - h + 1)).floor(), w, h], dim=-1)
    first = fits.int().argmax(-1)[..., None, None].expand(*boxes.shape[:-2], 1, 4)
    chosen = boxes.gather(-2, first).squeeze(-2)
    wide, high = max(min(width, round(height * RATIO[1])), 1), max(min(height, round(width / RATIO[0])), 1)
    central = torch.tensor([(width - wide) // 2, (height - high) // 2, wide, high], dtype=draws.dtype)
    return torch.where(fits.any(-1, keepdim=True), chosen, central).long()


def crops_of(images: Tensor, boxes: Tensor, flip: Tensor) -> Tensor:
    """[B, V, 3, S, S]: the boxes [B, V, 4] of images [B, 3, S, S] resized as PIL does it (bilinear, antialiased), some mirrored.

    Args:
        flip: [B, V] bool.
    """
    side = images.shape[-1]
    left, top, width, height = boxes.to(images).unbind(-1)
    across = resampling(left, width, side, images.shape[-1])
    across = torch.where(flip.to(images.device)[..., None, None], across.flip(-2), across)
    down = resampling(top, height, side, images.shape[-2])
    rows = torch.einsum("bvsh,bchw->bvcsw", down, images)
    return torch.einsum("bvcsw,bvtw->bvcst", rows, across)


def resampling(start: Tensor, length: Tensor, out: int, size: int) -> Tensor:
    """[..., out, size] weights that resize the part [start, start + length) of `size` pixels to `out`, by a triangle filter."""
    scale = (length / out)[..., None, None]
    at = start[..., None, None] + (torch.arange(out, device=start.device).to(start)[:, None] + 0.5) * scale
    pixel = torch.arange(size, device=start.device).to(start) + 0.5
    inside = (pixel > start[..., None, None]) & (pixel < (start + length)[..., None, None])
    weights = (1 - (pixel - at).abs() / scale.clamp_min(1)).clamp_min(0) * inside
    return weights / weights.sum(-1, keepdim=True)


def mixture(images: Tensor, weights: Tensor, draws: Tensor) -> Tensor:
    """[N, 3, S, S]: AugMix's weighted sum of three chains of one to three operations, all starting from the image.

    Args:
        images: [N, 3, S, S].
        weights: [N, CHAINS], sum 1.
        draws: [N, CHAINS + 3 * CHAINS * DEPTH] uniforms: depth of each chain, then operation, level and sign of each step.
    """
    depth, steps = draws.split([CHAINS, 3 * CHAINS * DEPTH], dim=-1)
    depth = 1 + (depth * DEPTH).long()
    which, level, sign = steps.unflatten(-1, (3, CHAINS, DEPTH)).unbind(-3)
    which, level, sign = (which * len(OPS)).long(), 0.1 + 0.9 * level, torch.where(sign < 0.5, -1.0, 1.0)
    mixed = torch.zeros_like(images)
    for chain in range(CHAINS):
        current = images
        for step in range(DEPTH):
            rows = (depth[:, chain] > step).nonzero().flatten()
            place = rows.to(images.device)
            changed = apply_ops(current[place], which[rows, chain, step], level[rows, chain, step], sign[rows, chain, step])
            current = current.index_copy(0, place, changed)
        mixed = mixed + weights[:, chain, None, None, None] * current
    return mixed


def apply_ops(images: Tensor, which: Tensor, level: Tensor, sign: Tensor) -> Tensor:
    """[N, 3, S, S]: to each image the operation `OPS[which]` at its level in [0.1, 1) and sign, as AugMix's severity 1 has it.

    The four that count grey levels are piecewise constant. Their backward pass is that of the smooth function under the levels:
    minus one where solarize inverts, the stretch of autocontrast, the identity for the others, which rise.
    """
    flat = {"autocontrast": autocontrast, "equalize": equalize, "posterize": posterize}
    parts, places = [], []
    for number, name in enumerate(OPS[:4]):
        rows = (which == number).nonzero().flatten()
        if len(rows):
            chosen = images[rows.to(images.device)]
            step = (25.6 * level[rows]).long().to(images.device)
            op: Callable[[Tensor], Tensor] = flat.get(name, lambda grey, step=step: solarize(grey, 256 - step))  # type: ignore[misc]
            changed = op((chosen.detach() * 255).round().clamp(0, 255)) / 255
            parts.append(
                _with_slope(changed, chosen, SLOPES[name](chosen.detach(), 256 - step)) if chosen.requires_grad else changed
            )
            places.append(rows)
    rows = (which >= 4).nonzero().flatten()
    if len(rows):
        parts.append(warp(images[rows.to(images.device)], matrices(which[rows], level[rows], sign[rows], images.shape[-1])))
        places.append(rows)
    return torch.cat(parts)[torch.cat(places).argsort().to(images.device)] if parts else images


def _with_slope(value: Tensor, images: Tensor, slope: Tensor) -> Tensor:
    """value, whose gradient is `slope` times the images."""
    rise = slope * images
    return rise + (value - rise).detach()


def _inverted(images: Tensor, threshold: Tensor) -> Tensor:
    """The derivative of `solarize`, of images in [0, 1] at a threshold [N] in grey levels."""
    below = (images * 255).round() < threshold[:, None, None, None]
    return torch.where(below, 1.0, -1.0).to(images)


def _stretch(images: Tensor, threshold: Tensor) -> Tensor:
    """The derivative of `autocontrast`."""
    low, high = images.amin((2, 3), keepdim=True), images.amax((2, 3), keepdim=True)
    return torch.where(high > low, 1 / (high - low).clamp_min(1 / 255), 1.0).to(images)


def _rising(images: Tensor, threshold: Tensor) -> Tensor:
    return torch.ones_like(images)


SLOPES = {"autocontrast": _stretch, "equalize": _rising, "posterize": _rising, "solarize": _inverted}
"""name of an operation that counts grey levels -> (images, threshold of solarize) -> derivative of what it does to a pixel."""


def posterize(grey: Tensor, bits: int = 4) -> Tensor:
    """Grey levels [N, 3, S, S] in 0 .. 255 with all but the highest bits cleared (always 4 at severity 1)."""
    step = 2 ** (8 - bits)
    return (grey / step).floor() * step


def solarize(grey: Tensor, threshold: Tensor) -> Tensor:
    """Grey levels at or above the threshold [N] inverted."""
    return torch.where(grey < threshold[:, None, None, None], grey, 255 - grey)


def autocontrast(grey: Tensor) -> Tensor:
    """Grey levels of each channel stretched to 0 .. 255; a constant channel stays."""
    wide = doubled(grey)
    low, high = wide.amin((2, 3), keepdim=True), wide.amax((2, 3), keepdim=True)
    scale = 255 / (high - low).clamp_min(1)
    stretched = (wide * scale - low * scale).trunc().clamp(0, 255)
    return torch.where(high > low, stretched, wide).to(grey)


def equalize(grey: Tensor) -> Tensor:
    """Grey levels of each channel with an equalised histogram, as PIL rounds it."""
    flat = grey.long().flatten(2).flatten(0, 1)
    counts = torch.zeros(len(flat), 256, dtype=torch.long, device=grey.device).scatter_add_(1, flat, torch.ones_like(flat))
    last = counts.gather(1, flat.amax(1, keepdim=True))
    step = (flat.shape[1] - last) // 255
    table = ((counts.cumsum(1) - counts + step // 2) // step.clamp_min(1)).clamp_max(255)
    return torch.where(step > 0, table.gather(1, flat), flat).view_as(grey).to(grey)


def matrices(which: Tensor, level: Tensor, sign: Tensor, side: int) -> Tensor:
    """[N, 2, 3] output pixel -> input pixel, for the geometric operations of `OPS`."""
    zero, one = torch.zeros_like(level), torch.ones_like(level)
    angle = -sign * (3 * level).floor() * math.pi / 180
    cos, sin, middle = angle.cos(), angle.sin(), side / 2
    shear, shift = sign * 0.03 * level, sign * (level * side / 30).floor()
    rotation = [cos, sin, middle * (1 - cos - sin), -sin, cos, middle * (1 + sin - cos)]
    rows = {
        "rotate": rotation,
        "shear_x": [one, shear, zero, zero, one, zero],
        "shear_y": [one, zero, zero, shear, one, zero],
        "translate_x": [one, zero, shift, zero, one, zero],
        "translate_y": [one, zero, zero, zero, one, shift],
    }
    every = torch.stack([torch.stack(rows[name], dim=-1) for name in OPS[4:]], dim=1)
    return every[torch.arange(len(which)), which - 4].unflatten(-1, (2, 3))


def warp(images: Tensor, inverse: Tensor) -> Tensor:
    """Images [N, 3, S, S] under output -> input maps [N, 2, 3] in pixels, bilinear; black where the input ends."""
    side = images.shape[-1]
    centers = torch.arange(side, dtype=inverse.dtype) + 0.5
    y, x = torch.meshgrid(centers, centers, indexing="ij")
    points = torch.einsum("nij,hwj->nhwi", inverse, torch.stack([x, y, torch.ones_like(x)], dim=-1)).to(images)
    inside = ((points >= 0) & (points < side)).all(-1)[:, None]
    sampled = F.grid_sample(images, 2 * points / side - 1, mode="bilinear", padding_mode="border", align_corners=False)
    return sampled * inside
