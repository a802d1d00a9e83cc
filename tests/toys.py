"""Tiny models and images on which an attack's answer is known or quickly found."""

import torch
from torch import Tensor, nn

from ironclip.attacks import build


def linear(classes: int = 5, pixels: int = 48, seed: int = 0, dtype: torch.dtype = torch.float32) -> nn.Sequential:
    """Logits W x + b of flattened images."""
    model = nn.Sequential(nn.Flatten(), nn.Linear(pixels, classes))
    return _drawn(model, seed).to(dtype).eval()


class Rowwise(nn.Module):
    """A linear model that adds up each image by itself: no matrix product whose rounding depends on the batch."""

    def __init__(self, classes: int, pixels: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(classes, pixels))

    def forward(self, images: Tensor) -> Tensor:
        return torch.stack([(images.flatten(1) * row).sum(1) for row in self.weight], dim=1)


def rowwise(classes: int = 5, pixels: int = 48, seed: int = 0, dtype: torch.dtype = torch.float32) -> Rowwise:
    """Logits W x, bitwise the same for an image in any batch."""
    model = Rowwise(classes, pixels)
    _drawn(model, seed)
    return model.to(dtype).eval()


def convnet(classes: int = 5, seed: int = 0, dtype: torch.dtype = torch.float32) -> nn.Sequential:
    """A small smooth network with batch norm and dropout, so that a change of mode shows."""
    center = nn.BatchNorm2d(3)
    center.running_mean = torch.full((3,), 0.5)
    model = nn.Sequential(
        center, nn.Conv2d(3, 8, 3, padding=1), nn.GELU(), nn.AvgPool2d(2), nn.Flatten(), nn.Dropout(0.5), nn.Linear(32, classes)
    )
    return _drawn(model, seed, gain=3.0).to(dtype).eval()


def pictures(count: int = 12, seed: int = 1, dtype: torch.dtype = torch.float32) -> Tensor:
    """[B, 3, 4, 4] images in [0, 1]; about a third of the pixels lie at 0 or 1."""
    drawn = torch.rand(count, 3, 4, 4, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    return (drawn * 1.5 - 0.25).clamp(0, 1).to(dtype)


def predicted(model: nn.Module, images: Tensor) -> Tensor:
    """[B] classes the model sees, a natural choice of labels: every image is right at first."""
    with torch.no_grad():
        return model(images).argmax(1)


def _drawn(model: nn.Module, seed: int, gain: float = 1.0) -> nn.Module:
    """Gaussian weights of variance gain^2 / fan-in and small biases; norms keep their unit start."""
    generator = torch.Generator().manual_seed(seed)
    norms = {id(p) for module in model.modules() if isinstance(module, nn.BatchNorm2d) for p in module.parameters()}
    for parameter in model.parameters():
        if id(parameter) not in norms:
            scale = gain / parameter[0].numel() ** 0.5 if parameter.ndim > 1 else 0.1
            nn.init.normal_(parameter, std=scale, generator=generator)
    return model


def scene(count: int = 30, classes: int = 5, seed: int = 0) -> tuple[nn.Module, Tensor, Tensor]:
    """A convolutional model, images, and labels of which every seventh is wrong."""
    model, images = convnet(classes, seed=seed), pictures(count)
    labels = predicted(model, images)
    labels[::7] = (labels[::7] + 1) % classes
    return model, images, labels


def right(model: nn.Module, images: Tensor, labels: Tensor) -> Tensor:
    return predicted(model, images) == labels


class Named(nn.Module):
    """The model with class names, as an evaluation wants it."""

    def __init__(self, model: nn.Module, classes: int = 5) -> None:
        super().__init__()
        self.model, self.classes = model, tuple("abcdefghij"[:classes])

    def forward(self, images: Tensor) -> Tensor:
        return self.model(images)


def _called(name):
    """The attack of this name with its options and the draws that replace its own in one call."""

    def attack(function, images, labels, *, indices=None, noise=None, **options):
        given = {} if noise is None else {"noise": noise}
        return build(name, **options)(function, images, labels, indices=indices, **given)

    return attack


pgd, mim, fgsm = map(_called, ("pgd", "mim", "fgsm"))
