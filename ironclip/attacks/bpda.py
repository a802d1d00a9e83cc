"""Backward pass differentiable approximation: the value of the true function, the gradient of a smooth substitute.

Source: Athalye et al. 2018 (arXiv 1802.00420). The identity stands in for quantisation, vector quantisation (straight-through)
and JPEG; an average for random resizing; a soft assignment for a codebook.
"""

from typing import Any

import torch
from torch import Tensor, nn

from ironclip.core.errors import UsageError
from ironclip.core.types import Images


class BPDA(nn.Module):
    """x -> true(x), whose gradient is that of substitute(x). Attack it in place of `true`.

    Args:
        true: any function of tensors; it is called without gradients.
        substitute: smooth, with outputs of the same shape; default: the identity.
    """

    def __init__(self, true: Images, substitute: Images | None = None) -> None:
        super().__init__()
        self.true, self.substitute = true, substitute or nn.Identity()
        if hasattr(true, "classes"):
            self.classes: tuple[str, ...] = tuple(true.classes)

    def forward(self, x: Tensor) -> Tensor:
        smooth = self.substitute(x)
        with torch.no_grad():
            value = self.true(x.detach())
        # Not smooth + (true - smooth): where the two differ in size, that sum would round the value of the true function.
        return _Value.apply(smooth, value)


class _Value(torch.autograd.Function):
    """(carrier, value) -> value; the gradient goes to the carrier as it is."""

    @staticmethod
    def forward(ctx: Any, carrier: Tensor, value: Tensor) -> Tensor:
        if carrier.shape != value.shape:
            raise UsageError(f"the substitute returns shape {tuple(carrier.shape)}, the true function {tuple(value.shape)}")
        return value.clone()

    @staticmethod
    def backward(ctx: Any, *slopes: Tensor) -> tuple[Tensor, None]:
        return slopes[0], None
