"""What the kinds of the zoo are made of: wrapped networks, false backward passes, transforms of images."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn


class Around(nn.Module):
    """A network with a rule around it: rule(network, images) -> logits."""

    def __init__(self, network: nn.Module, rule: Callable[[nn.Module, Tensor], Tensor]) -> None:
        super().__init__()
        self.network, self.rule = network, rule

    def forward(self, images: Tensor) -> Tensor:
        return self.rule(self.network, images)


class FalseBackward(torch.autograd.Function):
    """The identity whose gradient is changed by a function."""

    @staticmethod
    def forward(ctx: Any, images: Tensor, change: Callable[[Tensor], Tensor]) -> Tensor:
        ctx.change = change
        return images.clone()

    @staticmethod
    def backward(ctx: Any, slope: Tensor) -> tuple[Tensor, None]:
        return ctx.change(slope), None


def straight_through(seen: Tensor, given: Tensor) -> Tensor:
    """`seen` in the forward pass, the gradient of `given`."""
    return given + (seen - given).detach()


def rounded(images: Tensor, levels: int) -> Tensor:
    return (images * levels).round() / levels


def thermometer(images: Tensor, levels: int, steepness: float | None) -> Tensor:
    """Mean over the levels of [pixel > level], by a sigmoid where a steepness is given."""
    places = (torch.arange(levels) + 0.5) / levels
    steps = [(images > p).float() if steepness is None else torch.sigmoid(steepness * (images - p)) for p in places]
    return torch.stack(steps).mean(0)


def cosine_coded(images: Tensor, step: float) -> Tensor:
    """Blocks of 8 x 8 pixels through the discrete cosine transform, rounded to multiples of `step` (as JPEG does)."""
    n = torch.arange(8.0)
    basis = torch.cos((2 * n[None] + 1) * n[:, None] * torch.pi / 16) * (0.25**0.5)
    basis[0] *= 0.5**0.5
    height, width = images.shape[-2:]
    blocks = images.reshape(*images.shape[:2], height // 8, 8, width // 8, 8)
    coded = torch.einsum("ki,bchiwj,lj->bchkwl", basis, blocks, basis)
    coded = (coded / step).round() * step
    return torch.einsum("ki,bchkwl,lj->bchiwj", basis, coded, basis).reshape(images.shape).clamp(0, 1)


def median(images: Tensor) -> Tensor:
    """The median of each 3 x 3 window."""
    padded = nn.functional.pad(images, (1, 1, 1, 1), mode="replicate")
    return padded.unfold(2, 3, 1).unfold(3, 3, 1).flatten(4).median(-1).values


def blurred(images: Tensor) -> Tensor:
    return nn.functional.avg_pool2d(nn.functional.pad(images, (1, 1, 1, 1), mode="replicate"), 3, stride=1)


def off_grid(images: Tensor) -> Tensor:
    """[B] whether some pixel is no multiple of 1/255."""
    return (rounded(images, 255) - images).abs().flatten(1).amax(1) > 1e-5


def content_seeds(images: Tensor) -> list[int]:
    """A number for each image that any change of it changes."""
    weights = torch.linspace(1, 2, images[0].numel(), dtype=torch.float64)
    return [int(v * 1e9) % 2**31 for v in (images.detach().flatten(1).double() * weights).sum(1)]


def content_noise(images: Tensor) -> Tensor:
    """Gaussian noise drawn from the images' own content."""
    drawn = [torch.randn(images.shape[1:], generator=torch.Generator().manual_seed(seed)) for seed in content_seeds(images)]
    return torch.stack(drawn)
