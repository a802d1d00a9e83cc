"""Diagnostics of the gradient itself: is it there (D1), and is it that of the function (D13)."""

import torch
from torch import Tensor

from ironclip.audit.lab import Lab
from ironclip.audit.results import Level, Verdict
from ironclip.losses import cross_entropy_each, margin_each
from ironclip.types import Images, Loss

SCALE = 2.0**12
LOSSES: dict[str, Loss] = {"ce": cross_entropy_each, "margin": margin_each}
STEPS = (1e-3, 1e-2)
"""Lengths of the finite differences, in radii; at the smaller one rounding of float32 can hide a good gradient."""


def slopes(lab: Lab, loss: Loss, images: Tensor, *, scale: float = 1.0) -> Tensor:
    """[B, ...] gradients of the scaled loss of `attacked`, NaN included; zeros where nothing depends on the images."""
    found = []
    for at in range(0, len(images), lab.batch_size):
        rows = slice(at, at + lab.batch_size)
        leaf = images[rows].detach().clone().requires_grad_()
        with torch.enable_grad():
            value = scale * loss(lab.attacked(leaf), lab.labels[rows]).sum()
            slope = torch.autograd.grad(value, leaf, allow_unused=True)[0] if value.requires_grad else None
        found.append(torch.zeros_like(leaf) if slope is None else slope.detach())
    return torch.cat(found)


def dead_gradients(lab: Lab) -> Verdict:
    """D1: share of images whose pixel gradient at a random start is all zero or not finite, for cross-entropy and margin."""
    start = lab.random_start()
    numbers: dict[str, float] = {}
    dead = sparse = torch.zeros(len(lab), dtype=torch.bool, device=start.device)
    for name, loss in LOSSES.items():
        flat = slopes(lab, loss, start).flatten(1)
        gone = (flat == 0).all(1) | ~flat.isfinite().all(1)
        numbers[f"dead, {name}"] = float(gone.double().mean())
        dead, sparse = dead | gone, sparse | ((flat == 0).double().mean(1) > 0.5)
        scaled = slopes(lab, loss, start, scale=SCALE).flatten(1)
        if lab.draws == 1:
            numbers[f"signs changed by a loss scale, {name}"] = float((flat.sign() != scaled.sign()).double().mean())
    changed = max((value for name, value in numbers.items() if name.startswith("signs")), default=0.0)
    share, thin = float(dead.double().mean()), float(sparse.double().mean())
    numbers["more than half of the pixels zero"] = thin
    if share > 0:
        level, text = "fail", f"{share:.0%} of the images have no usable gradient: attacks stand still there"
    elif changed > 0.05:
        level, text = "warn", f"{changed:.0%} of the signs depend on the scale of the loss: precision is too low"
    elif thin > 0:
        level, text = "warn", f"on {thin:.0%} of the images more than half of the pixels have a gradient of exactly zero"
    else:
        level, text = "pass", "every image has a gradient"
    return Verdict.model_validate(
        {"id": "D1", "title": "dead gradients", "level": level, "value": share, "text": text, "numbers": numbers,
         "threshold": "any image all zero or not finite; warn: > 5 % of signs change under a loss scale of 4096"}
    )  # fmt: skip


def finite_differences(lab: Lab) -> Verdict:
    """D13: along the sign of the gradient, the function rises as the gradient says, within 20 % on the median image.

    Taken at a random start, for the margin loss, at 1e-3 and 1e-2 of the radius; the better of the two counts.
    """
    if lab.eps == 0 or lab.draws > 1:
        why = "radius 0" if lab.eps == 0 else "a random classifier has no fixed value to differentiate"
        return Verdict(id="D13", title="finite differences", level="not applicable", text=why)
    start = lab.random_start()
    slope = slopes(lab, margin_each, start)
    direction = slope.sign()
    predicted = slope.abs().flatten(1).sum(1)
    numbers = {}
    for step in STEPS:
        length = step * lab.eps
        rise = _margins(lab, lab.attacked, start + length * direction) - _margins(lab, lab.attacked, start - length * direction)
        off = (rise / (2 * length) - predicted).abs() / predicted.clamp_min(1e-12)
        off = torch.where(predicted == 0, torch.full_like(off, torch.inf), off)
        numbers[f"relative error at {step:g} eps"] = float(off.nan_to_num(1e9, posinf=1e9).median())
    value = min(numbers.values())
    level: Level = "fail" if value > 0.2 else "warn" if value > 0.05 else "pass"  # smooth models stay below 0.01
    text = (
        "the backward pass is not the derivative of the forward pass (rounding, straight-through, detach): use BPDA or scores"
        if level != "pass"
        else "the gradient is the derivative of the function"
    )
    return Verdict(
        id="D13", title="finite differences", level=level, value=value,
        threshold="median relative error > 20 %; warn: > 5 %", text=text, numbers=numbers,
    )  # fmt: skip


def _margins(lab: Lab, function: Images, images: Tensor) -> Tensor:
    return margin_each(lab.logits(images, function), lab.labels)
