"""Convolutional image towers with their channels last in memory against channels first: features and the pixels' gradient.

Equality is asserted in float64, because in float32 rounding decides some of the signs at which a ReLU cuts.

python -m benchmarks.channels_last --rounds 3
"""

import sys
from collections.abc import Iterable
from functools import partial

import open_clip
import torch
from torch import Tensor

from benchmarks import harness
from ironclip.backbones import ClipBackbone
from ironclip.backbones.wrapping import build, tokenizer_for, wrap

TOWERS = ("RN50", "convnext_base", "MobileCLIP-S1")
"""One architecture of open_clip for each kind of convolutional tower: ResNet, ConvNeXt, FastViT."""


def backbone(name: str) -> ClipBackbone:
    """The architecture behind the adapter, with random weights of fixed seed."""
    config = open_clip.get_model_config(name)
    if config is None:
        raise ValueError(f"open_clip knows no architecture {name!r}")
    torch.manual_seed(0)
    return wrap(build(config, "gelu"), tokenizer_for(name, config), name=name, activation="gelu")


def attack_step(made: ClipBackbone, images: Tensor) -> tuple[Tensor, Tensor]:
    """(features, gradient of their squared sum to the pixels), as an inner attack computes them."""
    pixels = images.clone().requires_grad_()
    features = made.encode_image(pixels)
    return features.detach(), torch.autograd.grad(features.square().sum(), pixels)[0]


def compare(ours: tuple[Tensor, Tensor], plain: tuple[Tensor, Tensor], tolerance: float) -> dict[str, float]:
    """The deviations of two attack steps; AssertionError above the tolerance."""
    names = ("features", "gradient")
    return {name: harness.check(name, *values, tolerance) for name, values in zip(names, zip(ours, plain))}


def step(made: ClipBackbone, images: Tensor, memory: torch.memory_format) -> tuple[Tensor, Tensor]:
    """An attack step with the tower and the images in this order in memory."""
    made.image.to(memory_format=memory)
    return attack_step(made, images.contiguous(memory_format=memory))


def measure(made: ClipBackbone, size: int, rounds: int, tolerance: float = 1e-9) -> harness.Row:
    side = made.spec.resolution
    images = torch.rand(size, 3, side, side, generator=torch.Generator().manual_seed(1))
    row = harness.Row("channels last", f"{made.spec.name}, {side} px, B={size}")
    made.double()
    ours, plain = (step(made, images[:2].double(), memory) for memory in (torch.channels_last, torch.contiguous_format))
    row.deviations = compare(ours, plain, tolerance)
    made.float()
    paths = {
        "plain": partial(step, made, images, torch.contiguous_format),
        "ours": partial(step, made, images, torch.channels_last),
    }
    row.seconds = harness.seconds(paths, rounds)
    return row


def rows(quick: bool, rounds: int) -> Iterable[harness.Row]:
    for name in TOWERS[:1] if quick else TOWERS:
        yield measure(backbone(name), 2, rounds)


if __name__ == "__main__":
    sys.exit(harness.main(rows, __doc__ or ""))
