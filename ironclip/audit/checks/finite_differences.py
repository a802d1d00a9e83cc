"""Finite differences along the gradient's sign, along random directions, and where the gradient is exactly zero.

The function changes as its gradient says, along the gradient's sign and along random directions.

Relative error of the gradient of the margin at a random start, on the median image; over the lengths `STEPS` the best counts.
Rounding noise is measured, and forgiven up to what the precision explains in which the model multiplies. If only the longest
difference exceeds the noise, it is compared with the mean gradient along it, because the model is not linear over that distance.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from ironclip.audit.diagnostic import Diagnostic
from ironclip.audit.differences import AUDIBLE, changes, directions, no_fixed_gradient, point_and_slope, relative_error, rounding
from ironclip.audit.lab import Lab
from ironclip.audit.results import Finding, Level

STEPS = (1e-3, 1e-2, 1e-1, 0.5)
"""Lengths of the differences, in radii. Rounding hides a good gradient at the small ones, curvature at the large ones."""
FAIL, WARN = 0.2, 0.03


def finite_differences(lab: Lab) -> Finding:
    unable = no_fixed_gradient(lab)
    if unable is not None:
        return unable
    point, slope = point_and_slope(lab, STEPS[-1])
    noise, precision = rounding(lab, point, slope)
    random = directions(lab)
    ways = {"gradient": [slope.sign()], "random": random, "zero-gradient": [way * (slope == 0) for way in random[:2]]}
    numbers: dict[str, float] = {"rounding noise": float(noise.median())}
    errors: dict[str, float] = {}
    for name, along in ways.items():
        compare = _silent_pixels if name == "zero-gradient" else relative_error
        found = {}
        for step in STEPS:
            error = compare(lab, point, slope, along, step * lab.pixel, noise)
            if error.isnan().double().mean() <= 0.5:
                found[step] = float(error[~error.isnan()].median())
                numbers[f"relative error at {step:g} eps, {name}"] = found[step]
        if list(found) == [STEPS[-1]] and found[STEPS[-1]] > WARN and name != "zero-gradient":
            error = relative_error(lab, point, slope, along, STEPS[-1] * lab.pixel, noise, bent=True)
            found[STEPS[-1]] = float(error[~error.isnan()].median())
            numbers[f"relative error at {STEPS[-1]:g} eps, {name}, gradients along the way"] = found[STEPS[-1]]
        if found:
            errors[name] = min(found.values())
    if not errors:
        text = f"the model computes in {precision}: no difference exceeds its rounding noise"
        return Finding(level="not applicable", text=text, numbers=numbers)
    value = max(errors.values())
    level: Level = "fail" if value > FAIL else "warn" if value > WARN else "pass"  # smooth models stay below 0.01
    where = max(errors, key=lambda name: errors[name])
    text = (
        f"along {where} directions the backward pass is not the derivative of the forward pass "
        "(rounding, straight-through, detach): use BPDA or scores"
        if level != "pass"
        else f"the gradient is the derivative of the function along {' and '.join(errors)} directions ({precision})"
    )
    return Finding(
        level=level, value=value, text=text, numbers=numbers,
        threshold=f"median relative error > {FAIL:.0%}; warn: > {WARN:.0%}",
    )  # fmt: skip


def _silent_pixels(lab: Lab, point: Tensor, slope: Tensor, along: Sequence[Tensor], length: float, noise: Tensor) -> Tensor:
    """[B] change along pixels whose gradient is exactly zero, over that of as many average pixels; NaN where they are few."""
    share = (slope == 0).flatten(1).double().mean(1)
    usual = 2 * length * slope.flatten(1).norm(dim=1) * share.sqrt()
    known = (share > 0.05) & (usual > AUDIBLE * noise)
    if known.double().mean() < 0.5:
        return torch.full_like(usual, torch.nan)
    real, _ = changes(lab, point, slope, along, length)
    excess = (real.square().mean(0) - noise.square()).clamp_min(0).sqrt()
    return torch.where(known, excess / usual.clamp_min(1e-30), torch.nan)


CHECK = Diagnostic(13, "finite differences", finite_differences, alarm="fail: off by > 20 % on the median image; warn: > 3 %")
