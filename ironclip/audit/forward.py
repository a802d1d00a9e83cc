"""Calls of a classifier: how far their outputs differ, and what state the classifier holds."""

import torch
from torch import Tensor, nn

from ironclip.core.types import Classifier, Images

CALLS = 5
RANDOM = 1e-4


def spread(function: Images, images: Tensor, calls: int = CALLS) -> tuple[float, Tensor]:
    """(largest difference of unit-length logits between calls on the same images, [calls, B] predictions)."""
    with torch.no_grad():
        outputs = torch.stack([function(images).float() for _ in range(calls)])
    unit = nn.functional.normalize(outputs, dim=-1)
    return float((unit - unit[0]).abs().max()), outputs.argmax(-1)


def state(classifier: Classifier) -> dict[str, Tensor]:
    """Copies of all parameters and buffers, of a module or of the modules it holds."""
    if not isinstance(classifier, nn.Module):
        return {}
    held = [*classifier.named_parameters(), *classifier.named_buffers()]
    return {name: tensor.detach().clone() for name, tensor in held}
