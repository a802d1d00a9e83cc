"""What the prompt baselines share: their training objectives, and the defence that prompts and an objective make.

Source: lionel-w2/FAP (all images attacked, consistency terms) and xinwong/Multimodal-Adversarial-Prompt-Tuning (the second half
of a batch attacked).
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal, get_args

import torch
from torch import Tensor
from torch.nn.functional import cosine_similarity, cross_entropy, normalize

from ironclip.backbones import AdaptedClassifier, assemble
from ironclip.core.errors import UsageError
from ironclip.core.losses import kl_each
from ironclip.core.options import check_choice, check_number
from ironclip.core.types import Adaptation, Attack, Backbone, Batch, Defense, Loss, check_classes
from ironclip.defenses._coupled import CoupledPrompts
from ironclip.defenses._prompts import IndependentPrompts

Mix = Literal["full", "half", "clean"]
Term = Literal["ce", "kl", "cos", "mae", "mse"]


def cos_weight(adv: Tensor, clean: Tensor) -> Tensor:
    """[B] 1 + cosine of the image features of both views: in [0, 2]; minimising the product lowers it where the predictions
    disagree (FAP)."""
    return 1 + cosine_similarity(adv, clean)


def mae_weight(adv: Tensor, clean: Tensor) -> Tensor:
    """[B] one over the mean absolute difference of the unit features of both views."""
    return 1 / (normalize(adv, dim=1) - normalize(clean, dim=1)).abs().mean(1).clamp_min(1e-12)


def mse_weight(adv: Tensor, clean: Tensor) -> Tensor:
    """[B] one over the mean squared difference of the unit features of both views."""
    return 1 / (normalize(adv, dim=1) - normalize(clean, dim=1)).square().mean(1).clamp_min(1e-12)


UNIMODAL: dict[str, Callable[[Tensor, Tensor], Tensor]] = {"cos": cos_weight, "mae": mae_weight, "mse": mse_weight}
"""(adversarial features [B, E], clean ones) -> weight [B] of an image's KL divergence, differentiable."""


@dataclass(frozen=True)
class Objective:
    """The named loss terms of one step.

    With z, o the features and logits of the clean images and z', o' those of the attacked ones:

        ce:   weight * CE(o', y)
        kl:   CE(o, y) + weight * mean( KL(p(o) || p(o')) )                          TRADES
        cos:  CE(o, y) + weight * mean( KL(p(o) || p(o')) (1 + cos(z, z')) )         FAP
        mae, mse:  KL / K over the mean absolute (squared) difference of z and z' of unit length, in place of KL (1 + cos)

    Both branches receive gradients. The inner attack raises its own loss under "ce", and KL from the clean prediction under
    the others; its clean branch is that of the outer loss, computed once per step and held constant inside.

    Args:
        mix: under "ce", the attacked images of a batch: "full" all, "half" the second half (the first floor(B / 2) stay
            clean), "clean" none.
    """

    term: Term
    weight: float = 1.0
    mix: Mix = "full"

    def __post_init__(self) -> None:
        check_choice("term", self.term, get_args(Term))
        check_choice("mix", self.mix, get_args(Mix))
        check_number("weight", self.weight, 0, above=self.term == "ce")
        if self.term != "ce" and self.mix != "full":
            raise UsageError(f"term={self.term!r} compares both views of every image; mix={self.mix!r} needs term='ce'")

    def __call__(self, classifier: AdaptedClassifier, batch: Batch, attack: Attack) -> dict[str, Tensor]:
        if self.term == "ce":
            name = {"full": "adv_ce", "half": "half_ce", "clean": "clean_ce"}[self.mix]
            logits = classifier(mixed(classifier, batch, attack, self.mix))
            return {name: self.weight * cross_entropy(logits, batch.labels)}
        images, labels = batch.images, batch.labels
        features, clean = classifier.features_and_logits(images)
        adv = attack(classifier.detached(), images, labels, indices=batch.indices, loss=kl_from(clean, attack))
        adv_features, moved = classifier.features_and_logits(adv)
        divergence = kl_each(moved, clean)
        if self.term in UNIMODAL:
            divergence = divergence * UNIMODAL[self.term](adv_features, features)
        if self.term in ("mae", "mse"):
            divergence = divergence / clean.shape[1]
        return {"clean_ce": cross_entropy(clean, labels), "consistency_kl": self.weight * divergence.mean()}


def mixed(classifier: AdaptedClassifier, batch: Batch, attack: Attack, mix: Mix) -> Tensor:
    """The batch's images, all or the second half of them replaced by attacked ones."""
    images, size = batch.images, len(batch)
    first = {"full": 0, "half": size // 2, "clean": size}[mix]
    if first == size:
        return images
    adv = attack(classifier.detached(), images[first:], batch.labels[first:], indices=batch.indices[first:])
    return torch.cat([images[:first], adv])


def kl_from(clean: Tensor, attack: Attack) -> Loss:
    """The loss of an inner attack that moves away from the prediction of these clean logits [B, K].

    Raises:
        UsageError: the attack starts at the clean image, where this loss has no gradient.
    """
    if getattr(attack, "start", "") == "zero":
        raise UsageError(
            "an inner attack on KL needs a random start, it has no gradient at the clean image; set attack.start=uniform"
        )
    target = clean.detach()
    return lambda logits, labels: kl_each(logits, target)


class PromptTuning(Defense):
    """Learned prompts and a training objective; a method is one choice of both.

    Raises:
        UsageError: the prompts are too long for the context of the text tower.
    """

    def __init__(
        self,
        backbone: Backbone,
        classes: Sequence[str],
        prompts: IndependentPrompts | CoupledPrompts,
        objective: Callable[[AdaptedClassifier, Batch, Attack], dict[str, Tensor]],
    ) -> None:
        super().__init__()
        classes = check_classes(classes)
        self.prompts, self.objective = prompts.to(backbone.device, backbone.dtype), objective
        with torch.no_grad():  # fails here, not in the first step, if the prompts are too long
            assemble(backbone, classes, self.adaptation(backbone, classes))

    def adaptation(self, backbone: Backbone, classes: Sequence[str]) -> Adaptation:
        return self.prompts.adaptation()

    def loss(
        self, backbone: Backbone, batch: Batch, attack: Attack, *, adaptation: Adaptation | None = None
    ) -> dict[str, Tensor]:
        classifier = assemble(backbone, batch.classes, adaptation or self.adaptation(backbone, batch.classes))
        return self.objective(classifier, batch, attack)
