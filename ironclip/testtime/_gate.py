"""Gates of test-time methods: the threshold of a score taken from clean images, and the smooth form an attacker
differentiates."""

from collections.abc import Callable, Iterable

import torch
import torch.nn.functional as F
from torch import Tensor

from ironclip.backbones import AdaptedClassifier
from ironclip.core.errors import UsageError
from ironclip.core.types import Batch, Classifier


def calibrated(
    score: Callable[[AdaptedClassifier, Tensor], Tensor], base: Classifier, batches: Iterable[Batch], share: float
) -> tuple[float, int]:
    """(threshold below which this share of clean images scores, how many images that was found on).

    Args:
        score: (base, images [B, 3, H, W]) -> [B].
        share: in [0, 1].

    Raises:
        UsageError: no image, or a base that is not made by assemble.
    """
    if not isinstance(base, AdaptedClassifier):
        raise UsageError(f"a threshold is calibrated on a classifier made by assemble; got {type(base).__name__}")
    with torch.no_grad():
        found = [score(base, batch.images.to(base.backbone.device, base.backbone.dtype)) for batch in batches]
    if not found:
        raise UsageError("the threshold is to be calibrated, but there are no clean training images; state it instead")
    scores = torch.cat(found).cpu().double()
    return float(scores.quantile(share)), len(scores)


def sloping(lean: Tensor, inside: Tensor, outside: Tensor) -> Tensor:
    """[B, K] log probabilities of a mixture: of `inside` with the weight sigmoid(lean [B]), of `outside` with the rest.

    The steeper `lean` is in the images, the nearer this is to a gate that takes `inside` where lean > 0.

    Args:
        inside, outside: [B, K] logits of the two branches.
    """
    lean = lean[:, None]
    return torch.logaddexp(F.logsigmoid(lean) + inside.log_softmax(1), F.logsigmoid(-lean) + outside.log_softmax(1))
