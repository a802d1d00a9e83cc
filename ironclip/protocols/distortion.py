"""How far an attack moves the features of the defended model: the feature distortion score and related measures.

NAP-Tuning reports such a score (lower is better) without a formula that could be found, so the score is ours [inferred] and is
never set beside the printed one. The pair against the frozen model is FARE's (Table 14). A model whose features are constant
has a score of 0: read it beside clean accuracy.
"""

from collections.abc import Iterable
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from ironclip.backbones import AdaptedClassifier
from ironclip.core.errors import DataError, UsageError
from ironclip.core.memory import over
from ironclip.core.tensors import doubled, evaluating, frozen
from ironclip.core.types import Attack, Batch, ComparingHead, ImageOutput
from ironclip.loops.scoring import full_precision

PERTURBING = ("APGD", "CW", "DI", "FGSM", "Feature", "MIM", "PGD", "Square")
NAMES = ("distortion", "cosine", "clean_shift", "adversarial_shift")


def distortion(classifier: AdaptedClassifier, attack: Attack, batches: Iterable[Batch]) -> dict[str, float]:
    """Means over all images of, with f the features of the classifier and f0 those of its frozen backbone, not normalised:

        distortion         |f(x') - f(x)| / |f(x)|
        cosine             1 - cos(f(x'), f(x))
        clean_shift        |f(x) - f0(x)|^2
        adversarial_shift  |f(x') - f0(x)|^2

    and what the head compares, where it has features of its own (`ComparingHead`): for DEFEAT those of its shield.

    Args:
        classifier: images [B, 3, H, W] in [0, 1]; the images x' are made against it.
        attack: in a mode that perturbs every image, those misclassified included (see `perturbing`).

    Raises:
        DataError: no image.
    """
    backbone, head = classifier.backbone, classifier.head
    comparing = head if isinstance(head, ComparingHead) else None

    def output(images: Tensor) -> ImageOutput:
        trace = comparing.observer() if comparing else None
        return ImageOutput(classifier.encode_image(images, trace=trace), trace)

    def measured(batch: Batch) -> dict[str, Tensor]:
        batch = batch.to(backbone.device)
        adversarial = attack(classifier, batch.images, batch.labels, indices=batch.indices)
        with torch.no_grad():
            clean, moved = output(batch.images), output(adversarial)
            found = measures(clean.features, moved.features, backbone.encode_image(batch.images).float())
            own = comparing.compared(clean, moved) if comparing else {}
        return {**dict(zip(NAMES, found.unbind(1))), **own}

    with evaluating(classifier), frozen(classifier), full_precision():
        rows = list(over(batches, measured, backbone.device))
    if not rows:
        raise DataError("there is no image to measure the features of; the split is empty")
    return {name: float(torch.cat([row[name] for row in rows]).mean()) for name in rows[0]}


def measures(clean: Tensor, moved: Tensor, original: Tensor) -> Tensor:
    """[B, 4] the measures of `distortion` per image, from features f(x), f(x'), f0(x), each [B, E]."""
    clean, moved, original = doubled(clean), doubled(moved), doubled(original)
    relative = (moved - clean).norm(dim=1) / clean.norm(dim=1).clamp_min(1e-12)
    cosine = 1 - torch.cosine_similarity(moved, clean, dim=1, eps=1e-12)
    shifts = [(features - original).square().sum(1) for features in (clean, moved)]
    return torch.stack([relative, cosine, *shifts], dim=1)


def perturbing(attack: Attack) -> Attack:
    """The attack in its mode "full", so that the images of misclassified images are attacked as well.

    Raises:
        UsageError: an attack that leaves misclassified images as they are in every mode.
    """
    name = type(attack).__name__
    if name not in PERTURBING:
        raise UsageError(
            f"the feature distortion needs an attack that perturbs every image ({', '.join(PERTURBING)}); got {name}"
        )
    fields: Any = getattr(attack, "__dataclass_fields__", {})
    return replace(attack, mode="full") if "mode" in fields else attack  # type: ignore[type-var]
