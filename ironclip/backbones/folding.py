"""Changed weights written into the frozen ones: an ordinary open_clip checkpoint without extra cost at inference."""

import math

import torch
from torch import Tensor

from ironclip.backbones.adapter import ClipBackbone
from ironclip.core.errors import UsageError
from ironclip.core.merging import resolve_weights
from ironclip.core.types import Adaptation

BEYOND = ("pixels", "image_edits", "context", "text_edits", "head")
"""Parts of an adaptation that cannot be written as weights. Hand-written templates are prompts and stay with the caller."""


def folded(backbone: ClipBackbone, adaptation: Adaptation, *, custom_text: bool = False) -> dict[str, Tensor]:
    """The open_clip state dict of the adapted backbone: masks multiplied in, replaced weights in their place.

    Args:
        adaptation: only `image_weights` and `text_weights` may be filled, besides `templates`.
        custom_text: names as in open_clip's `CustomTextCLIP` ("text.transformer...") instead of its `CLIP`.

    Returns:
        Copies, detached; neither the backbone nor the adaptation is touched, so the original weights stay at hand.

    Raises:
        UsageError: the adaptation holds something that is no weight, or names a weight the towers do not have.
    """
    if left := [part for part in BEYOND if getattr(adaptation, part)]:
        raise UsageError(f"only weights can be folded into a checkpoint; this adaptation also holds {', '.join(left)}")
    prefix = "text." if custom_text else ""
    found: dict[str, Tensor] = {}
    sides = (
        ("visual.", backbone.image.net, adaptation.image_weights, backbone.image_weight),
        (prefix, backbone.text.net, adaptation.text_weights, backbone.text_weight),
    )
    with torch.no_grad():
        for start, net, changes, weight in sides:
            for name, tensor in {**net.state_dict(), **resolve_weights(changes, weight)}.items():
                found[f"{start}{name}"] = tensor.detach().clone()
    spec = backbone.spec
    found["logit_scale"] = torch.tensor(math.log(spec.logit_scale))
    if spec.logit_bias is not None:
        found["logit_bias"] = torch.tensor(spec.logit_bias)
    return found
