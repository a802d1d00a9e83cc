"""A tiny model behind the service, and images."""

import io

import numpy as np
import pytest
import torch
from PIL import Image

from ironclip.backbones import assemble
from ironclip.backbones.tiny import tiny_backbone
from ironclip.core.types import Adaptation
from ironclip.serve.model import DEFENDED, UNDEFENDED, Served

CLASSES = ("cat", "dog", "school bus")


def png(seed: int = 0, size: tuple[int, int] = (40, 36)) -> bytes:
    """An image of noise as a PNG file."""
    pixels = np.random.default_rng(seed).integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)
    stream = io.BytesIO()
    Image.fromarray(pixels).save(stream, format="PNG")
    return stream.getvalue()


def served() -> Served:
    backbone = tiny_backbone()
    with torch.no_grad():
        defended = assemble(backbone, CLASSES, Adaptation(templates=("a blurry image of one {}.",)))
        plain = assemble(backbone, CLASSES)
    for module in (defended, plain):
        module.eval().requires_grad_(False)
    example = torch.rand(3, 32, 32, generator=torch.Generator().manual_seed(3))
    facts = {"method": "tiny", "classes": list(CLASSES)}
    return Served(CLASSES, 32, {DEFENDED: defended, UNDEFENDED: plain}, facts, examples=(("cat", example),))


@pytest.fixture(scope="session")
def model() -> Served:
    return served()
