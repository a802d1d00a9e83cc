"""Gradients of the pixels at a random start: the share of images on which all are zero or not finite.

For cross-entropy and for the margin.
"""

import torch

from ironclip.audit.diagnostic import Diagnostic
from ironclip.audit.gradients import slopes
from ironclip.audit.lab import Lab
from ironclip.audit.results import Finding
from ironclip.core.losses import cross_entropy_each, margin_each
from ironclip.core.types import Loss

SCALE = 2.0**12
LOSSES: dict[str, Loss] = {"ce": cross_entropy_each, "margin": margin_each}


def dead_gradients(lab: Lab) -> Finding:
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
    return Finding.model_validate(
        {"level": level, "value": share, "text": text, "numbers": numbers,
         "threshold": "any image all zero or not finite; warn: > 5 % of signs change under a loss scale of 4096"}
    )  # fmt: skip


CHECK = Diagnostic(
    1,
    "dead gradients",
    dead_gradients,
    alarm="fail: any image all zero or not finite; warn: > 5 % of signs change with a loss scale of 4096, or images with "
    "> 50 % zeros",
)
