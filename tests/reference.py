"""The backbone of the reference vectors behind our adapter; how a case is read stands in `parity`."""

from pathlib import Path

import torch
from open_clip.tokenizer import SimpleTokenizer
from parity import parity_clip

from ironclip.backbones.adapter import ClipBackbone
from ironclip.backbones.text import TextTower
from ironclip.backbones.vit import VitTower


def reference_backbone(folder: Path, dtype: torch.dtype = torch.float64) -> ClipBackbone:
    """The tiny CLIP of the reference vectors; token rows that no stored prompt needs are NaN.

    Args:
        folder: the parity folder.
    """
    model = parity_clip(folder, dtype)
    return ClipBackbone(
        VitTower(model.visual),
        TextTower(model),
        SimpleTokenizer(),
        name="reference",
        logit_scale=float(model.logit_scale.detach().exp()),
        activation="quick_gelu",
        sha256="reference",
    )
