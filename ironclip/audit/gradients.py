"""The gradient of a loss, and the diagnostic that asks whether it is there (D1)."""

import torch
from torch import Tensor

from ironclip.audit.lab import Lab
from ironclip.audit.results import Verdict
from ironclip.core.losses import cross_entropy_each, margin_each
from ironclip.core.types import Loss

SCALE = 2.0**12
LOSSES: dict[str, Loss] = {"ce": cross_entropy_each, "margin": margin_each}


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
