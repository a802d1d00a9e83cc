"""The gradient compared with differences of the function, over tiny steps or over a step of PGD.

A part of the derivative that the returned gradient lacks is invisible along the sign of that gradient. So both
checks take random directions v too, each pixel +1 or -1. For such directions E[(g.v - f'.v)^2] = |g - f'|^2: the errors add
up to that of the whole gradient. Some directions move a half, a channel or a box of the image only.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from ironclip.audit.diagnostic import idle
from ironclip.audit.gradients import slopes
from ironclip.audit.lab import Lab
from ironclip.audit.results import Finding
from ironclip.audit.watching import precision_of
from ironclip.core.losses import margin_each
from ironclip.core.tensors import keyed_uniform

SIMPSON = {0.0: 2, 0.25: 4, 0.5: 2, 0.75: 4, 1.0: 1}
AUDIBLE = 10.0
"""A difference counts where it exceeds the rounding noise by this factor."""


def directions(lab: Lab) -> list[Tensor]:
    """Random directions of +1 and -1, keyed by image: the whole image, its halves, each channel, a random half, boxes."""
    height, width = lab.images.shape[-2:]
    masks = [torch.ones_like(lab.images[0]) for _ in range(2)]
    for rows, columns in (
        (slice(0, height // 2), slice(None)), (slice(height // 2, None), slice(None)),
        (slice(None), slice(0, width // 2)), (slice(None), slice(width // 2, None)),
        (slice(height // 4, height - height // 4), slice(width // 4, width - width // 4)),
    ):  # fmt: skip
        mask = torch.zeros_like(lab.images[0])
        mask[:, rows, columns] = 1
        masks.append(mask)
    for channel in range(lab.images.shape[1]):
        mask = torch.zeros_like(lab.images[0])
        mask[channel] = 1
        masks.append(mask)
    return [_noise(lab, 2000 + number).sign() * mask for number, mask in enumerate(masks)]


def _noise(lab: Lab, restart: int) -> Tensor:
    return keyed_uniform(lab.images.shape[1:], lab.seed, lab.indices.tolist(), restart, device=lab.images.device).to(lab.images)


def point_and_slope(lab: Lab, room: float) -> tuple[Tensor, Tensor]:
    """A random start that keeps `room` radii to the ends of [0, 1], and the gradient of the margin there."""
    length = room * lab.pixel
    point = lab.random_start().clamp(length, 1 - length)
    return point, slopes(lab, margin_each, point).nan_to_num(0, 0, 0)


def changes(
    lab: Lab, point: Tensor, slope: Tensor, along: Sequence[Tensor], length: float, *, bent: bool = False
) -> tuple[Tensor, Tensor]:
    """([V, B] changes of the margin from -length to +length along each direction, [V, B] those that the gradient predicts).

    Args:
        bent: take the mean gradient over the way instead of the one at its middle.
    """
    real, predicted = [], []
    for way in along:
        real.append(_margins(lab, point + length * way) - _margins(lab, point - length * way))
        mean = _mean_slope(lab, point, slope, length * way) if bent else slope
        predicted.append(2 * length * (mean * way).flatten(1).sum(1))
    return torch.stack(real), torch.stack(predicted)


def _mean_slope(lab: Lab, point: Tensor, slope: Tensor, reach: Tensor) -> Tensor:
    """The mean gradient from point - reach to point + reach, by Simpson's rule with nine points."""
    total = SIMPSON[0] * slope
    for at, weight in SIMPSON.items():
        for end in (point + at * reach, point - at * reach) if at else ():
            total = total + weight * slopes(lab, margin_each, end).nan_to_num(0, 0, 0)
    return total / 24


def relative_error(
    lab: Lab, point: Tensor, slope: Tensor, along: Sequence[Tensor], length: float, noise: Tensor, *, bent: bool = False
) -> Tensor:
    """[B] |real - predicted| beyond the noise over the larger of the two; 1 without a gradient, NaN below the noise."""
    real, predicted = changes(lab, point, slope, along, length, bent=bent)
    size = torch.maximum(real.norm(dim=0), predicted.norm(dim=0))
    excess = ((real - predicted).square().sum(0) - len(real) * noise.square()).clamp_min(0).sqrt()
    error = torch.where(size > AUDIBLE * noise * len(real) ** 0.5, excess / size.clamp_min(1e-30), torch.nan)
    return torch.where((predicted == 0).all(0), 1.0, error)


def rounding(lab: Lab, point: Tensor, slope: Tensor) -> tuple[Tensor, str]:
    """([B] noise of a change of the margin that rounding explains, name of the precision).

    Four units of the precision times the spread of the logits, for rounding inside adds up. In float32 and finer it is measured,
    as the deviation from the gradient's line over short random steps, and that bound is its upper end: a coarse function is not
    forgiven what its arithmetic does not explain.
    """
    dtype = precision_of(lab.attacked, point[:1])
    logits = lab.logits(point, lab.attacked)
    bound = 4 * torch.finfo(dtype).eps * (logits.amax(1) - logits.amin(1))
    name = str(dtype).removeprefix("torch.")
    if torch.finfo(dtype).eps > torch.finfo(torch.float32).eps:
        return bound, name
    still = _margins(lab, point)
    moves = [0.1 * lab.pixel * _noise(lab, 3000 + number) for number in range(4)]
    off = [_margins(lab, point + move) - still - (slope * move).flatten(1).sum(1) for move in moves]
    return torch.minimum(torch.stack(off).square().mean(0).sqrt(), bound), name


def _margins(lab: Lab, images: Tensor) -> Tensor:
    return margin_each(lab.logits(images, lab.attacked), lab.labels)


def no_fixed_gradient(lab: Lab) -> Finding | None:
    """What a check finds that compares gradients with differences, where it cannot: at radius 0 and on random classifiers."""
    if lab.eps > 0 and lab.draws == 1:
        return None
    return idle("radius 0" if lab.eps == 0 else "a random classifier has no fixed value to differentiate")
