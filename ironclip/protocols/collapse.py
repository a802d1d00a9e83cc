"""What a model with a loss at chance level predicts: one class, all classes alike, or neither."""

import math
from collections.abc import Iterable

import torch

from ironclip.core.types import Batch, Classifier
from ironclip.records.collapse import Seen

SAME_ANSWER, FLAT, PICTURES = 0.95, 0.98, 256
"""Share of images with the same prediction; mean entropy divided by ln K; number of images. Thresholds are ours."""


@torch.no_grad()
def sight(classifier: Classifier, batches: Iterable[Batch]) -> Seen:
    """A summary of the predictions for the first clean training images."""
    found: list[torch.Tensor] = []
    for batch in batches:
        found.append(classifier(batch.images).double())
        if sum(map(len, found)) >= PICTURES:
            break
    logits = torch.cat(found)
    log = logits.log_softmax(1)
    if float(-(log.exp() * log).sum(1).mean()) > FLAT * math.log(logits.shape[1]):
        return "flat logits"
    if float(logits.argmax(1).bincount().max()) >= SAME_ANSWER * len(logits):
        return "constant answers"
    return "chance loss"
