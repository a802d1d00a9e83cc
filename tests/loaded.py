"""Architectures of toy size, their models and their files, for the tests of loading."""

import hashlib
import json
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import nn
from torch.testing import assert_close

from ironclip.backbones.wrapping import tokenizer_for

VIT = {
    "embed_dim": 32,
    "vision_cfg": {"image_size": 32, "layers": 2, "width": 64, "patch_size": 8},
    "text_cfg": {"context_length": 77, "vocab_size": 49408, "width": 64, "heads": 1, "layers": 2},
}
OTHER = {**VIT, "vision_cfg": {**VIT["vision_cfg"], "patch_size": 16}}
RESNET = {**VIT, "vision_cfg": {"image_size": 64, "layers": [1, 1, 1, 1], "width": 8}}
ARCHITECTURES = {"Tiny": VIT, "Tiny-quickgelu": {**VIT, "quick_gelu": True}, "TinyPatch16": OTHER, "TinyRN": RESNET}
TEXTS = ["a photo of a cat.", "a dog"]


def shaken(model: nn.Module) -> nn.Module:
    with torch.no_grad():
        for parameter in model.parameters():
            parameter += 0.2 * torch.randn_like(parameter) * parameter.abs().mean().clamp(min=0.05)
    return model.requires_grad_(False)


def write(path: Path, value: object) -> Path:
    if path.suffix == ".safetensors":
        save_file({name: tensor.contiguous() for name, tensor in value.items()}, path)
    else:
        torch.save(value, path)
    return path


def assert_same(backbone, model, tolerance: float = 1e-5) -> None:
    images = torch.rand(2, 3, backbone.spec.resolution, backbone.spec.resolution, generator=torch.Generator().manual_seed(0))
    normal = (images - torch.tensor(backbone.spec.mean).view(3, 1, 1)) / torch.tensor(backbone.spec.std).view(3, 1, 1)
    assert_close(backbone.encode_image(images), model.encode_image(normal), atol=tolerance, rtol=0)
    words = model.encode_text(tokenizer_for("", VIT)(TEXTS))
    assert_close(backbone.encode_text(backbone.embed_text(TEXTS)), words, atol=tolerance, rtol=0)


def base_note(path: Path, config: dict = RESNET, **more: object) -> Path:
    """A JSON description beside a weights file."""
    note = {
        "name": path.stem,
        "architecture": {**config, "quick_gelu": True},
        "sha256": hashlib.sha256(path.read_bytes()).hexdigest(),
    }
    path.with_suffix(".json").write_text(json.dumps({**note, **more}))
    return path
