"""Attacks one after the other: each meets the images that withstood all before it."""

from collections.abc import Iterable, Sequence

import torch
from torch import Tensor

from ironclip.attacks import inputs
from ironclip.attacks._goal import Best, Mode, clean_logits, scores
from ironclip.core.losses import margin_each
from ironclip.core.types import Attack, Images


def in_turn(
    members: Iterable[Attack],
    function: Images,
    images: Tensor,
    labels: Tensor,
    *,
    mode: Mode,
    eval_mode: bool,
    indices: Tensor | Sequence[int] | None = None,
) -> Tensor:
    """Images [B, ...]: misclassified ones where any member found one, else those of the largest margin.

    Args:
        mode: "compact": images that are broken, or wrong at first, meet no further member. "full": every member, every image.

    Raises:
        UsageError, DataError, NonFinite: as `APGD`.
    """
    images = inputs.check_images(images)
    labels, positions = inputs.check_labels(labels, images), inputs.check_indices(indices, images)
    if not len(images):
        return images
    everyone = torch.arange(len(images), device=images.device)
    with inputs.borrowed(function, eval_mode):
        best = Best(images, labels, False)
        best.fooled = (clean_logits(function, images, labels, positions).argmax(1) != labels) & (mode == "compact")
        for member in members:
            rows = everyone if mode == "full" else everyone[~best.fooled]
            if not len(rows):
                break
            adv = member(function, images[rows], labels[rows], indices=positions[rows])
            outputs = scores(function, adv)
            best.offer(rows, positions[rows], adv, outputs, margin_each(outputs, labels[rows]))
    return best.adv
