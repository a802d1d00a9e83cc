"""The backbone of the reference vectors behind our adapter; how a case is read stands in `parity`."""

import torch
from open_clip.tokenizer import SimpleTokenizer
from parity import activation, notes_of, parity_clip

from ironclip.backbones.adapter import ClipBackbone
from ironclip.backbones.text import TextTower
from ironclip.backbones.vit import VitTower


def reference_backbone(dtype: torch.dtype = torch.float64) -> ClipBackbone:
    """The tiny CLIP of the reference vectors; token rows that no stored prompt needs are NaN."""
    model, sizes = parity_clip(dtype), notes_of("clip")["constants"]
    return ClipBackbone(
        VitTower(model.visual),
        TextTower(model),
        SimpleTokenizer(context_length=sizes["context_length"]),
        name="reference",
        logit_scale=float(model.logit_scale.detach().exp()),
        activation=activation(),
        mean=sizes["pixel_mean"],
        std=sizes["pixel_std"],
        sha256="reference",
    )
