"""The views of DBD: crops, coarser grey levels, JPEG, noise and filters; what rounds has the identity as its backward pass.

Source: liuls2002/DBD (`dataset/transform_lib.py`). Random numbers of a view are keyed by (image key, number of the view).
Deviations: the source is the model's own crop, not the file; grey levels that leave the range are clipped (released: 256
becomes 0).
"""

import io
from collections.abc import Sequence

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

from ironclip.core.tensors import generator
from ironclip.testtime._random_views import TRIES, crop_boxes, crops_of

AREA = (0.5, 1.0)
QUALITIES = (50, 60, 75)
LEVEL = 32  # grey levels that 3 bits cannot tell apart
BINOMIAL = (1.0, 4.0, 6.0, 4.0, 1.0)  # OpenCV's kernel of size 5 with sigma 0
FIXED = 3 + len(QUALITIES) + 3  # views without a random number


def changed_views(images: Tensor, keys: Sequence[int], *, crops: int, noisy: int, sigma: float) -> Tensor:
    """[B, crops + 6 + noisy + 3, 3, S, S] changed copies of images [B, 3, S, S] in [0, 1], in the released order."""
    noise = torch.stack([_normal(images.shape[1:], key, crops, noisy) for key in keys]).to(images)
    parts = [cropped(images, keys, crops), coarse(images), jpeg(images), noised(images, noise, sigma), filtered(images)]
    return torch.cat(parts, dim=1)


def _normal(shape: Sequence[int], key: int, crops: int, noisy: int) -> Tensor:
    rows = [torch.randn(tuple(shape), generator=generator(key, 1 + crops + number)) for number in range(noisy)]
    return torch.stack(rows) if rows else torch.empty(0, *shape)


def cropped(images: Tensor, keys: Sequence[int], count: int) -> Tensor:
    """[B, count, 3, S, S] crops of at least half the area, resized; half of them mirrored."""
    if not count:
        return images[:, None][:, :0]
    rows = [
        torch.rand(4 * TRIES + 1, generator=generator(key, view), dtype=torch.float64)
        for key in keys
        for view in range(1, count + 1)
    ]
    draws = torch.stack(rows).view(len(keys), count, -1)
    boxes = crop_boxes(images.shape[-1], images.shape[-2], draws[..., :-1].unflatten(-1, (TRIES, 4)), area=AREA)
    return crops_of(images, boxes, draws[..., -1] < 0.5)


def coarse(images: Tensor) -> Tensor:
    """[B, 3, 3, S, S] grey levels of 3 bits: rounded down, to the nearest, and up."""
    steps = (images.detach() * 255).round() / LEVEL
    found = torch.stack([steps.floor(), steps.round(), steps.ceil()], dim=1)
    return straight(images[:, None], (found * LEVEL).clamp(0, 255) / 255)


def jpeg(images: Tensor) -> Tensor:
    """[B, 3, 3, S, S] after compression at the qualities 50, 60 and 75."""
    grey = (images.detach() * 255).round().clamp(0, 255).to("cpu", torch.uint8).permute(0, 2, 3, 1).numpy()
    found = torch.from_numpy(np.stack([[_compressed(row, quality) for quality in QUALITIES] for row in grey]))
    return straight(images[:, None], found.permute(0, 1, 4, 2, 3).to(images) / 255)


def _compressed(picture: np.ndarray, quality: int) -> np.ndarray:
    file = io.BytesIO()
    Image.fromarray(picture).save(file, "JPEG", quality=quality)
    return np.asarray(Image.open(file))


def noised(images: Tensor, noise: Tensor, sigma: float) -> Tensor:
    """[B, n, 3, S, S] images plus sigma times the noise [B, n, 3, S, S], clipped and cut off to whole grey levels."""
    smooth = (images[:, None] + sigma * noise).clamp(0, 1)
    return straight(smooth, (smooth.detach() * 255).floor() / 255)


def filtered(images: Tensor) -> Tensor:
    """[B, 3, 3, S, S] median, mean and binomial filter of 5 x 5 pixels, to the nearest grey level."""
    edge = F.pad(images, (2, 2, 2, 2), mode="replicate").unfold(2, 5, 1).unfold(3, 5, 1)
    kernel = torch.tensor(BINOMIAL).to(images) / 16
    parts = [edge.flatten(-2).median(-1).values, _smoothed(images, torch.full_like(kernel, 1 / 5)), _smoothed(images, kernel)]
    smooth = torch.stack(parts, dim=1)
    return straight(smooth, (smooth.detach() * 255 + 0.5).floor() / 255)


def _smoothed(images: Tensor, kernel: Tensor) -> Tensor:
    """Images filtered by the kernel [5] in both directions; borders are reflected without repeating the edge."""
    channels = images.shape[1]
    rows = kernel.view(1, 1, 5, 1).expand(channels, 1, 5, 1)
    padded = F.pad(images, (2, 2, 2, 2), mode="reflect")
    return F.conv2d(F.conv2d(padded, rows, groups=channels), rows.transpose(2, 3), groups=channels)


def straight(smooth: Tensor, value: Tensor) -> Tensor:
    """value, with the gradient of `smooth`, which broadcasts to its shape."""
    return smooth + (value - smooth).detach() if smooth.requires_grad else value
