"""A random CLIP of a few thousand weights (and a full vocabulary) for tests: no downloads, milliseconds per pass."""

import math
from typing import Any

import torch

from ironclip.backbones.adapter import ClipBackbone
from ironclip.backbones.text import TextTower
from ironclip.backbones.vit import VitTower


def tiny_clip(
    *,
    seed: int = 0,
    resolution: int = 32,
    patch: int = 8,
    layers: int = 2,
    width: int = 32,
    text_width: int = 32,
    embed_dim: int = 16,
    context_length: int = 77,
    quick_gelu: bool = True,
) -> Any:
    """A random `open_clip.model.CLIP` whose attention is peaked and whose gradients are far from zero."""
    from open_clip.model import CLIP

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = CLIP(
            embed_dim,
            {"image_size": resolution, "layers": layers, "width": width, "patch_size": patch, "head_width": 16},
            {"context_length": context_length, "vocab_size": 49408, "width": text_width, "heads": 2, "layers": layers},
            quick_gelu=quick_gelu,
            init_logit_scale=math.log(20.0),
        )
        for name, parameter in model.named_parameters():
            if "resblocks" in name and parameter.ndim == 2:
                torch.nn.init.normal_(parameter, std=1.5 * parameter.shape[1] ** -0.5)
            elif name.endswith("token_embedding.weight"):
                torch.nn.init.normal_(parameter, std=0.5)
    return model.eval()


def tiny_backbone(**sizes: Any) -> ClipBackbone:
    """`tiny_clip` behind the adapter."""
    from ironclip.backbones.wrapping import clip_tokenizer

    model = tiny_clip(**sizes)
    return ClipBackbone(
        VitTower(model.visual),
        TextTower(model),
        clip_tokenizer(model.context_length),
        name="tiny",
        logit_scale=float(model.logit_scale.detach().exp()),
        activation="quick_gelu" if sizes.get("quick_gelu", True) else "gelu",
        sha256="tiny",
    )
