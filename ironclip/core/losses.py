"""One function per loss term. Attack losses give one value per image, training terms a mean."""

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from ironclip.core.errors import UsageError


def cross_entropy_each(logits: Tensor, labels: Tensor) -> Tensor:
    """[B] cross-entropy in nats of logits [B, K] against labels [B]."""
    return F.cross_entropy(logits, labels, reduction="none")


def margin_each(logits: Tensor, labels: Tensor) -> Tensor:
    """[B] largest wrong logit minus the true one: positive where misclassified (Carlini & Wagner, arXiv 1608.04644)."""
    true = logits.gather(1, labels[:, None]).squeeze(1)
    wrong = logits.scatter(1, labels[:, None], -torch.inf).amax(1)
    return wrong - true


def dlr_each(logits: Tensor, labels: Tensor) -> Tensor:
    """[B] difference-of-logits-ratio loss (arXiv 2003.01690); invariant to scale and shift of the logits.

    Raises:
        UsageError: fewer than three classes.
    """
    if logits.shape[1] < 3:
        raise UsageError(f"the DLR loss needs at least 3 classes; got {logits.shape[1]}. Use the margin loss")
    top = logits.topk(3, dim=1).values
    return margin_each(logits, labels) / (top[:, 0] - top[:, 2] + 1e-12)


def targeted_dlr_each(logits: Tensor, labels: Tensor, targets: Tensor) -> Tensor:
    """[B] targeted DLR loss (arXiv 2003.01690): target minus true logit, over z(1) - (z(3) + z(4)) / 2 of the sorted ones.

    Three classes: over z(1) - z(3); two: the difference alone. Both are ours; the published loss needs four classes.
    """
    pick = torch.stack([labels, targets], dim=1)
    true, wanted = logits.gather(1, pick).unbind(1)
    if logits.shape[1] < 3:
        return wanted - true
    top = logits.topk(min(4, logits.shape[1]), dim=1).values
    return (wanted - true) / (top[:, 0] - top[:, 2:].mean(1) + 1e-12)


def kl_each(logits: Tensor, target: Tensor) -> Tensor:
    """[B] KL(softmax(target) || softmax(logits)) in nats; target [B, K] logits are a constant if detached."""
    return F.kl_div(logits.log_softmax(1), target.log_softmax(1), reduction="none", log_target=True).sum(1)


def js_each(logits: Tensor, other: Tensor) -> Tensor:
    """[B] Jensen-Shannon divergence between the softmaxes of logits [B, K] in nats; 0 to ln 2, symmetric."""
    first, second = logits.log_softmax(1), other.log_softmax(1)
    middle = torch.stack([first, second]).logsumexp(0) - math.log(2)
    return ((first.exp() * (first - middle)).sum(1) + (second.exp() * (second - middle)).sum(1)) / 2


def kl_to_clean(adv: Tensor, clean: Tensor) -> Tensor:
    """Mean KL divergence from the clean prediction to the adversarial one.

    Source: the robustness term of TRADES (arXiv 1901.08573). Gradients flow through both arguments; detach `clean` for
    the fixed-target variant.

    Args:
        adv: [B, K] logits of perturbed images.
        clean: [B, K] logits of the same images unperturbed.

    Returns:
        Scalar in nats.

    Raises:
        ValueError: the two batches differ in shape.
    """
    if adv.shape != clean.shape:
        raise ValueError(f"adv and clean are logits of the same images; got shapes {tuple(adv.shape)} and {tuple(clean.shape)}")
    return kl_each(adv, clean).mean()


def squared_distance_each(features: Tensor, target: Tensor) -> Tensor:
    """[B] squared Euclidean distance between rows (FARE, arXiv 2402.12336)."""
    return (features - target).square().flatten(1).sum(1)


ATTACK_LOSSES = {"ce": cross_entropy_each, "margin": margin_each, "dlr": dlr_each}
