"""A zero-shot classifier on a tiny random CLIP, and images for it."""

import pytest
import torch

from ironclip.backbones import assemble
from ironclip.backbones.tiny import tiny_backbone


@pytest.fixture(scope="module")
def base():
    with torch.no_grad():
        return assemble(tiny_backbone(), ("cat", "golden retriever", "school bus", "tram"))


@pytest.fixture(scope="module")
def images():
    return torch.randint(256, (3, 3, 32, 32), generator=torch.Generator().manual_seed(1)) / 255
