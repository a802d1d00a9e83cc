"""CAPT: consistency-guided adversarial prompt tuning with a frozen model as second teacher.

Source: arXiv 2405.11154, "Revisiting the Robust Generalization of Adversarial Prompt Tuning"; no official code was found, so
results are "our CAPT". [paper]: deep prompts in both towers, cross-entropy on clean images, a TRADES-like consistency of both
views, a second consistency with the frozen model's view of the clean image, and an adaptive weight alpha between the two.
[inferred], all options: the formula of alpha, the weight lambda, the direction of KL, which frozen model, prompt length, depth
and coupling, and the inner attack.

With p, p_adv the adapted model's predictions of both views and p_frz the frozen model's of the clean one:

    L = CE(clean) + lambda * mean( (1 - alpha) KL(p || p_adv) + alpha KL(p_frz || p_adv) )

Gradients flow through p and p_adv; alpha [B] and p_frz are constants. Logged: the mean of alpha as `alpha_cons`, its deviation,
smallest and largest value in a batch, and the cosine of image and text for the true class, clean and attacked (`alignment_*`).
"""

from collections.abc import Callable, Iterable, Sequence
from functools import partial
from typing import Literal

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

from ironclip.backbones import DEFAULT_TEMPLATE, AdaptedClassifier, ScaledCosine
from ironclip.core.errors import UsageError
from ironclip.core.losses import kl_each
from ironclip.core.options import check_choice, check_number
from ironclip.core.types import Attack, Backbone, Batch, check_classes
from ironclip.defenses._coupled import CoupledPrompts
from ironclip.defenses._families import PromptTuning, kl_from
from ironclip.defenses._frozen import SAME, FrozenClip
from ironclip.defenses._prompts import IndependentPrompts

EPSILON = 1e-8


def ratio(frozen: Tensor, tuned: Tensor, labels: Tensor) -> Tensor:
    """p_frz[y] / (p_frz[y] + p[y]): one half where both are equally confident in the true class, less where the tuned model is
    more confident."""
    theirs, ours = _of_truth(frozen, labels), _of_truth(tuned, labels)
    return theirs / (theirs + ours + EPSILON)


def frozen_conf(frozen: Tensor, tuned: Tensor, labels: Tensor) -> Tensor:
    """p_frz[y]: the frozen model's confidence in the true class alone."""
    return _of_truth(frozen, labels)


def ce_softmin(frozen: Tensor, tuned: Tensor, labels: Tensor) -> Tensor:
    """Softmin of both cross-entropies; the same function as `ratio` up to its guard."""
    losses = torch.stack([cross_entropy(logits, labels, reduction="none") for logits in (frozen, tuned)])
    return (-losses).softmax(0)[0]


def batch_acc(frozen: Tensor, tuned: Tensor, labels: Tensor) -> Tensor:
    """The frozen model's accuracy on this batch, the same for every image."""
    return (frozen.argmax(1) == labels).to(frozen.dtype).mean().expand(len(labels))


ALPHAS: dict[str, Callable[[Tensor, Tensor, Tensor], Tensor]] = {
    "ratio": ratio,
    "frozen_conf": frozen_conf,
    "ce_softmin": ce_softmin,
    "batch_acc": batch_acc,
}
"""(frozen logits [B, K], tuned logits [B, K], labels [B]) -> alpha [B] in [0, 1], both logits of clean images."""

KLS: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "ref||adv": lambda adv, reference: kl_each(adv, reference),
    "adv||ref": lambda adv, reference: kl_each(reference, adv),
}
"""(adversarial logits, reference logits) -> KL [B]."""

DESIGNS: dict[str, Callable[..., CoupledPrompts | IndependentPrompts]] = {
    "coupled": CoupledPrompts,
    "independent": IndependentPrompts,
    "text": partial(IndependentPrompts, sides="text"),
    "image": partial(IndependentPrompts, sides="image"),
}


class Consistency:
    """The named loss terms of one step; `numbers` holds alpha and the alignment of the last step.

    Args:
        guide: the frozen model, or None for none; the others as for `CAPT`.
    """

    def __init__(
        self, guide: FrozenClip | None, lam: float, alpha_mode: str, constant: float | None, kl: str, inner: str
    ) -> None:
        check_number("lam", lam, 0)
        for option, value, choices in (
            ("alpha_mode", alpha_mode, (*ALPHAS, "constant")),
            ("kl", kl, tuple(KLS)),
            ("inner", inner, ("ce", "kl")),
        ):
            check_choice(option, value, choices)
        if (constant is None) == (alpha_mode == "constant"):
            raise UsageError(f"alpha goes with alpha_mode='constant', and only with it; got {constant!r} and {alpha_mode!r}")
        if constant is not None:
            check_number("alpha", constant, 0, 1)
        if guide is None and alpha_mode != "ratio":
            raise UsageError("guide='none' has no frozen model to weigh; leave out alpha_mode and alpha")
        self.guide, self.lam, self.alpha_mode, self.constant = guide, lam, alpha_mode, constant
        self.divergence, self.inner = KLS[kl], inner
        self.numbers: dict[str, float] = {}

    def __call__(self, classifier: AdaptedClassifier, batch: Batch, attack: Attack) -> dict[str, Tensor]:
        images, labels = batch.images, batch.labels
        clean = classifier(images)
        terms = {"clean_ce": cross_entropy(clean, labels)}
        self.numbers = alignment("alignment_clean", classifier, clean, labels)
        if self.lam == 0:
            return terms
        rising = None if self.inner == "ce" else kl_from(clean, attack)
        adv = classifier(attack(classifier.detached(), images, labels, indices=batch.indices, loss=rising))
        self.numbers |= alignment("alignment_adv", classifier, adv, labels)
        if self.guide is None:
            return {**terms, "consistency_kl": self.lam * self.divergence(adv, clean).mean()}
        frozen = self.guide.logits(classifier.backbone, images, batch.classes)
        alpha = self.weigh(frozen, clean.detach(), labels)
        self.numbers |= {"alpha_cons": float(alpha.mean()), "alpha_std": float(alpha.std(correction=0))}
        self.numbers |= {"alpha_min": float(alpha.min()), "alpha_max": float(alpha.max())}
        return {
            **terms,
            "consistency_kl": self.lam * ((1 - alpha) * self.divergence(adv, clean)).mean(),
            "guidance": self.lam * (alpha * self.divergence(adv, frozen)).mean(),
        }

    def weigh(self, frozen: Tensor, tuned: Tensor, labels: Tensor) -> Tensor:
        """[B] alpha of clean logits [B, K] of both models."""
        if self.constant is not None:
            return torch.full_like(tuned[:, 0], self.constant)
        return ALPHAS[self.alpha_mode](frozen, tuned, labels)


class CAPT(PromptTuning):
    """Deep multi-modal prompts with adaptive consistency.

    Args:
        prompts: "coupled" (text prompts, mapped to image prompts), "independent" (both towers), "text" or "image" alone.
        length: P, prompts per layer.
        depth: J, prompted layers; default: nine, or all of a tower that has fewer.
        init: the words before the class name; the first P of them become the text prompts of the first layer.
        lam: lambda, weight of both consistency terms; 0: clean prompt tuning, no image is attacked.
        alpha_mode: weight of the frozen model: "ratio", "frozen_conf", "ce_softmin", "batch_acc", or "constant" (`alpha`).
        alpha: the weight under "constant".
        kl: "ref||adv" is KL(reference || adversarial) as in TRADES' code; "adv||ref" the other direction.
        guide: the frozen model: "same_backbone", the name of another one such as "ViT-B-32/openai", or "none" (alpha is 0).
        templates: the frozen model's prompts.
        inner: what the inner attack raises: "ce", or "kl" from the clean prediction (needs a random start).
    """

    def __init__(
        self,
        backbone: Backbone,
        classes: Sequence[str],
        *,
        prompts: Literal["coupled", "independent", "text", "image"] = "coupled",
        length: int = 2,
        depth: int | None = None,
        init: str = "a photo of a",
        lam: float = 3.0,
        alpha_mode: Literal["ratio", "frozen_conf", "ce_softmin", "batch_acc", "constant"] = "ratio",
        alpha: float | None = None,
        kl: Literal["ref||adv", "adv||ref"] = "ref||adv",
        guide: str = SAME,
        templates: Sequence[str] = (DEFAULT_TEMPLATE,),
        inner: Literal["ce", "kl"] = "ce",
        generator: torch.Generator | None = None,
    ) -> None:
        check_choice("prompts", prompts, tuple(DESIGNS))
        frozen = None if guide == "none" else FrozenClip(guide, backbone, check_classes(classes), templates)
        objective = Consistency(frozen, lam, alpha_mode, alpha, kl, inner)
        learned = DESIGNS[prompts](backbone, length=length, depth=depth, init=init, generator=generator)
        super().__init__(backbone, classes, learned, objective)
        self.consistency = objective

    def prepare(self, backbone: Backbone, batches: Iterable[Batch]) -> None:
        """Loads the frozen model, where it is another one."""
        if self.consistency.guide is not None:
            self.consistency.guide.ready(backbone)

    def diagnostics(self) -> dict[str, float]:
        return dict(self.consistency.numbers)


def _of_truth(logits: Tensor, labels: Tensor) -> Tensor:
    """[B] probability of the true class."""
    return logits.softmax(1).gather(1, labels[:, None]).squeeze(1)


@torch.no_grad()
def alignment(name: str, classifier: AdaptedClassifier, logits: Tensor, labels: Tensor) -> dict[str, float]:
    """Under this name the mean cosine of image features and the text features of the true class, from logits [B, K] of CLIP's own
    head; nothing for another head, as in a stack."""
    if not isinstance(head := classifier.head, ScaledCosine):
        return {}
    return {name: float(((logits.detach().gather(1, labels[:, None]) - head.logit_bias) / head.logit_scale).mean())}


METHOD = CAPT
