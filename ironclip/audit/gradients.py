"""The gradient of a loss with respect to the images of a lab."""

import torch
from torch import Tensor

from ironclip.audit.lab import Lab
from ironclip.core.types import Loss


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
