"""Diagnostics that compare the gradient with differences of the function: over tiny steps (D13) and over a step of PGD (D18).

Along the sign of the returned gradient alone, a part of the derivative that is not returned stays invisible. So both
checks take random directions v too, each pixel +1 or -1. For such directions E[(g.v - f'.v)^2] = |g - f'|^2: the errors add
up to that of the whole gradient. Some directions move a half, a channel or a box of the picture only.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from ironclip.audit.gradients import slopes
from ironclip.audit.lab import Lab
from ironclip.audit.results import Level, Verdict
from ironclip.audit.watching import precision_of
from ironclip.core.losses import margin_each
from ironclip.core.tensors import keyed_uniform

STEPS = (1e-3, 1e-2, 1e-1, 0.5)
"""Lengths of the differences, in radii. Rounding hides a good gradient at the small ones, curvature at the large ones."""
PART = 0.25
"""Length of PGD's step in radii."""
FAIL, WARN = 0.2, 0.03
SIMPSON = {0.0: 2, 0.25: 4, 0.5: 2, 0.75: 4, 1.0: 1}
AUDIBLE = 10.0
"""A difference counts where it exceeds the rounding noise by this factor."""


def finite_differences(lab: Lab) -> Verdict:
    """D13: the function changes as its gradient says, along the gradient's sign and along random directions.

    Relative error of the gradient of the margin at a random start, on the median image; over the lengths `STEPS` the best
    counts. Rounding noise is measured, and forgiven up to what the precision explains in which the model multiplies. Where the
    longest difference alone exceeds the noise, it is compared with the gradients along it, for over so long a way models bend.
    """
    idle = _idle(lab, "D13", "finite differences")
    if idle is not None:
        return idle
    point, slope = _point_and_slope(lab, STEPS[-1])
    noise, precision = _rounding(lab, point, slope)
    random = directions(lab)
    ways = {"gradient": [slope.sign()], "random": random, "zero-gradient": [way * (slope == 0) for way in random[:2]]}
    numbers: dict[str, float] = {"rounding noise": float(noise.median())}
    errors: dict[str, float] = {}
    for name, along in ways.items():
        compare = _silent_pixels if name == "zero-gradient" else _relative_error
        found = {}
        for step in STEPS:
            error = compare(lab, point, slope, along, step * lab.pixel, noise)
            if error.isnan().double().mean() <= 0.5:
                found[step] = float(error[~error.isnan()].median())
                numbers[f"relative error at {step:g} eps, {name}"] = found[step]
        if list(found) == [STEPS[-1]] and found[STEPS[-1]] > WARN and name != "zero-gradient":
            error = _relative_error(lab, point, slope, along, STEPS[-1] * lab.pixel, noise, bent=True)
            found[STEPS[-1]] = float(error[~error.isnan()].median())
            numbers[f"relative error at {STEPS[-1]:g} eps, {name}, gradients along the way"] = found[STEPS[-1]]
        if found:
            errors[name] = min(found.values())
    if not errors:
        text = f"the model computes in {precision}: no difference exceeds its rounding noise"
        return Verdict(id="D13", title="finite differences", level="not applicable", text=text, numbers=numbers)
    value = max(errors.values())
    level: Level = "fail" if value > FAIL else "warn" if value > WARN else "pass"  # smooth models stay below 0.01
    where = max(errors, key=lambda name: errors[name])
    text = (
        f"along {where} directions the backward pass is not the derivative of the forward pass "
        "(rounding, straight-through, detach): use BPDA or scores"
        if level != "pass"
        else f"the gradient is the derivative of the function along {' and '.join(errors)} directions ({precision})"
    )
    return Verdict(
        id="D13", title="finite differences", level=level, value=value, text=text, numbers=numbers,
        threshold=f"median relative error > {FAIL:.0%}; warn: > {WARN:.0%}",
    )  # fmt: skip


def one_step(lab: Lab) -> Verdict:
    """D18: over a step of PGD (a quarter of the radius) along random directions, the gradient still foretells the change.

    Cosine between predicted and measured changes of the margin, over all directions and images. A function that is smooth
    but steep at a finer scale than the attack's step has an exact gradient that tells the attack nothing.
    """
    idle = _idle(lab, "D18", "gradient over a step of PGD")
    if idle is not None:
        return idle
    point, slope = _point_and_slope(lab, PART)
    noise, precision = _rounding(lab, point, slope)
    real, predicted = _changes(lab, point, slope, directions(lab), PART * lab.pixel)
    loud = real.norm(dim=0) > AUDIBLE * noise * len(real) ** 0.5
    if loud.double().mean() < 0.5:
        text = f"the model computes in {precision}: no change over a step exceeds its rounding noise"
        return Verdict(id="D18", title="gradient over a step of PGD", level="not applicable", text=text)
    real, predicted = (part / real.norm(dim=0).clamp_min(1e-30) for part in (real, predicted))
    cosines = torch.nn.functional.cosine_similarity(real[:, loud], predicted[:, loud], dim=0)
    value = float(cosines.median())
    level: Level = "fail" if value < 0.5 else "warn" if value < 0.8 else "pass"  # smooth models lie above 0.95
    text = (
        "the gradient tells little about a step of the attack: the function is rougher than the step (quantised or steep)"
        if level != "pass"
        else "the gradient foretells the change over a step of the attack"
    )
    return Verdict(
        id="D18", title="gradient over a step of PGD", level=level, value=value, text=text,
        threshold="median cosine of predicted and measured changes over eps / 4 along random directions < 0.5; warn: < 0.8",
        numbers={"cosine, lowest tenth": float(cosines.quantile(0.1))},
    )  # fmt: skip


def directions(lab: Lab) -> list[Tensor]:
    """Random directions of +1 and -1, keyed by image: the whole picture, its halves, each channel, a random half, boxes."""
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
    return keyed_uniform(lab.images.shape[1:], lab.seed, lab.indices.tolist(), restart).to(lab.images)


def _point_and_slope(lab: Lab, room: float) -> tuple[Tensor, Tensor]:
    """A random start that keeps `room` radii to the ends of [0, 1], and the gradient of the margin there."""
    length = room * lab.pixel
    point = lab.random_start().clamp(length, 1 - length)
    return point, slopes(lab, margin_each, point).nan_to_num(0, 0, 0)


def _changes(
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


def _relative_error(
    lab: Lab, point: Tensor, slope: Tensor, along: Sequence[Tensor], length: float, noise: Tensor, *, bent: bool = False
) -> Tensor:
    """[B] |real - predicted| beyond the noise over the larger of the two; 1 without a gradient, NaN below the noise."""
    real, predicted = _changes(lab, point, slope, along, length, bent=bent)
    size = torch.maximum(real.norm(dim=0), predicted.norm(dim=0))
    excess = ((real - predicted).square().sum(0) - len(real) * noise.square()).clamp_min(0).sqrt()
    error = torch.where(size > AUDIBLE * noise * len(real) ** 0.5, excess / size.clamp_min(1e-30), torch.nan)
    return torch.where((predicted == 0).all(0), 1.0, error)


def _silent_pixels(lab: Lab, point: Tensor, slope: Tensor, along: Sequence[Tensor], length: float, noise: Tensor) -> Tensor:
    """[B] change along pixels whose gradient is exactly zero, over that of as many average pixels; NaN where they are few."""
    share = (slope == 0).flatten(1).double().mean(1)
    usual = 2 * length * slope.flatten(1).norm(dim=1) * share.sqrt()
    known = (share > 0.05) & (usual > AUDIBLE * noise)
    if known.double().mean() < 0.5:
        return torch.full_like(usual, torch.nan)
    real, _ = _changes(lab, point, slope, along, length)
    excess = (real.square().mean(0) - noise.square()).clamp_min(0).sqrt()
    return torch.where(known, excess / usual.clamp_min(1e-30), torch.nan)


def _rounding(lab: Lab, point: Tensor, slope: Tensor) -> tuple[Tensor, str]:
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


def _idle(lab: Lab, name: str, title: str) -> Verdict | None:
    if lab.eps > 0 and lab.draws == 1:
        return None
    why = "radius 0" if lab.eps == 0 else "a random classifier has no fixed value to differentiate"
    return Verdict(id=name, title=title, level="not applicable", text=why)
