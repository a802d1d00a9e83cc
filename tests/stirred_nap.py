"""A NAP defence with learned tensors that are not zero."""

import torch
from torch import nn

from ironclip.backbones import assemble
from ironclip.defenses.nap import NAP


def count(defense: nn.Module) -> int:
    return sum(p.numel() for p in defense.parameters())


def classifier(defense, backbone, classes, **options):
    return assemble(backbone, classes, defense.adaptation(backbone, classes), **options)


def drawn(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def stirred(backbone, classes, **options) -> NAP:
    """A NAP whose refiners and prompts are far from their start."""
    defense = NAP(backbone, classes, generator=drawn(), **options)
    for parameter in defense.parameters():
        parameter.data += 0.1 * torch.randn(parameter.shape, generator=drawn(parameter.numel()))
    return defense
