"""A fixed pair of images whose logits a checkpoint can state, so that a wrong activation or a damaged file shows on loading."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from ironclip.core.errors import CheckpointError
from ironclip.core.types import Backbone

TOLERANCE = 0.02


def probe_images(resolution: int) -> Tensor:
    """[2, 3, R, R] in [0, 1]: waves of two lengths, the same on every machine (no random stream)."""
    line = torch.linspace(0, 1, resolution)
    y, x = torch.meshgrid(line, line, indexing="ij")
    channels = [0.5 + 0.5 * torch.sin(6.28 * (rate * (x + turn * y)) + turn) for rate in (2.0, 5.0) for turn in (0.0, 0.7, 1.9)]
    return torch.stack(channels).view(2, 3, resolution, resolution)


@torch.no_grad()
def probe_logits(backbone: Backbone, texts: Sequence[str]) -> Tensor:
    """[2, K] scaled cosines of the probe images and these texts."""
    images = backbone.encode_image(probe_images(backbone.spec.resolution).to(backbone.device))
    words = backbone.encode_text(backbone.embed_text(texts))
    return backbone.spec.logit_scale * F.normalize(images, dim=-1) @ F.normalize(words, dim=-1).T


def make_probe(
    backbone: Backbone, texts: Sequence[str] = ("a photo of a cat.", "a satellite photo of a forest.")
) -> dict[str, Any]:
    """The probe of these weights, to be stored as JSON beside them."""
    return {"texts": list(texts), "logits": [[round(float(x), 5) for x in row] for row in probe_logits(backbone, texts)]}


def check_probe(backbone: Backbone, probe: Mapping[str, Any], path: object) -> None:
    """Compare with the stated logits.

    Raises:
        CheckpointError: they differ by more than 0.02.
    """
    expected = torch.tensor(probe["logits"])
    got = probe_logits(backbone, probe["texts"]).cpu().float()
    if got.shape != expected.shape or not (worst := (got - expected).abs().max()) <= TOLERANCE:
        off = "their number" if got.shape != expected.shape else f"up to {float(worst):.3g}"
        raise CheckpointError(
            f"{path}: the probe logits are off by {off} with activation {backbone.spec.activation}: "
            "wrong activation or damaged weights"
        )
