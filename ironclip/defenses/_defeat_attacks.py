"""The surrogates of DEFEAT: what an attacker can differentiate besides the fused logits with straight-through gradients.

Why: the shield's straight-through gradient can be large and wrong. It then hides the gradient of the class branch, and an attack
on the fused logits is weak (measured on a synthetic imitation of the published recipe). A surrogate with the value of the fused
logits and another gradient also tells the attack when it has succeeded.
"""

import copy
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import torch
from torch import Tensor

from ironclip.backbones import AdaptedClassifier, assemble
from ironclip.core.tensors import norm, per_image
from ironclip.core.types import Adaptation, Classifier, ImageOutput
from ironclip.defenses._fusion import Branches, ShieldHead
from ironclip.defenses._quantiser import Assign, soft_assignment, straight_through, unquantised
from ironclip.defenses._shield import PixelShield
from ironclip.defenses._surrogates import Features, Surrogate, View

TEMPERATURES = (1.0, 0.3, 0.1, 0.03)
SHARES = (0.5, 0.1, 0.3, 0.7, 0.9)
"""Weights of the class branch's normalised gradient in a balanced attack."""


def of_head(classifier: Any, head: ShieldHead) -> tuple[Classifier, ...]:
    """Each branch alone, each branch with the other held constant, both with balanced gradients, and other gradients of the
    choice of codes.

    Args:
        classifier: has `encode_image`, `text_features` and `classes` of an `AdaptedClassifier` with this head.
    """

    def observe(images: Tensor) -> ImageOutput:
        trace = head.observer()
        return ImageOutput(classifier.encode_image(images, trace=trace), trace)

    def branches(images: Tensor, assign: Assign = straight_through) -> Branches:
        return head.branches(observe(images), classifier.text_features, assign)

    def fused(images: Tensor, assign: Assign = straight_through) -> Tensor:
        found = branches(images, assign)
        return head.fuse(found.of_class, found.of_shield, found.weight)

    def one_held(images: Tensor, shield: bool) -> Tensor:
        """The fused logits, whose gradient leaves out the shield (or the class branch) and the gate."""
        found = branches(images)
        of_class, of_shield = (found.of_class, found.of_shield.detach()) if shield else (found.of_class.detach(), found.of_shield)
        return head.fuse(of_class, of_shield, found.weight.detach() if isinstance(found.weight, Tensor) else found.weight)

    def balanced(images: Tensor, share: float) -> Tensor:
        """The fused logits; the gradient is the sum of both branches' gradients, each of unit length times its share."""
        by_class, by_shield = branches(_unit_slope(images, share)), branches(_unit_slope(images, 1 - share))
        weight = by_class.weight.detach() if isinstance(by_class.weight, Tensor) else by_class.weight
        return head.fuse(by_class.of_class, by_shield.of_shield, weight)

    def patches(images: Tensor) -> Tensor:
        """Mean over positions of the logits of the shield's inputs; the codes play no part."""
        grid = head.grid(observe(images))
        return head.cosine(ImageOutput(grid.flatten(0, 1)), classifier.text_features).unflatten(0, grid.shape[:2]).mean(1)

    views: dict[str, View] = {
        "shield-held": partial(one_held, shield=True),
        "class-branch": lambda images: branches(images).of_class,
        "balanced": partial(balanced, share=SHARES[0]),
        "shield-branch": lambda images: branches(images).of_shield,
        "class-held": partial(one_held, shield=False),
        **_soft(fused),
        **{f"balanced-{share:g}": partial(balanced, share=share) for share in SHARES[1:]},
    }
    smooth = partial(fused, assign=unquantised)
    return (
        *(Surrogate(name, classifier, view) for name, view in views.items()),
        Features("unquantised", classifier, smooth, lambda images: branches(images).made.latent),
        Features("patches", classifier, patches, lambda images: head.grid(observe(images))),
    )


def of_pixels(classifier: AdaptedClassifier, shield: PixelShield) -> tuple[Classifier, ...]:
    """The tower without the shield, and other gradients of the choice of codes."""

    def through(images: Tensor, assign: Assign | None) -> Tensor:
        twin = copy.copy(classifier)
        others = {shield: () if assign is None else (partial(shield, assign=assign),)}
        pixels = [change for old in classifier.adaptation.pixels for change in others.get(old, (old,))]  # type: ignore[call-overload]
        twin.adaptation = replace(classifier.adaptation, pixels=tuple(pixels))
        return twin(images)

    views: dict[str, View] = {"without-shield": partial(through, assign=None), **_soft(through)}
    smooth = partial(through, assign=unquantised)
    return (
        *(Surrogate(name, classifier, view) for name, view in views.items()),
        Features("unquantised", classifier, smooth, lambda images: shield.shield.encode(shield.grid(images))),
    )


def _soft(run: Callable[..., Tensor]) -> dict[str, View]:
    """The hard value with the gradient of soft assignments."""
    return {f"soft-{tau:g}": partial(run, assign=soft_assignment(tau)) for tau in TEMPERATURES}


def transfer(classifier: AdaptedClassifier, templates: Sequence[str]) -> Surrogate:
    """The bare tower with hand-written prompts."""
    with torch.no_grad():
        bare = assemble(classifier.backbone, classifier.classes, Adaptation(templates=tuple(templates)))
    return Surrogate("hand-prompts", bare, bare)


def _unit_slope(images: Tensor, length: float) -> Tensor:
    """The images, unchanged; the gradient through this function gets this Euclidean length per image."""
    return _UnitSlope.apply(images, length)


class _UnitSlope(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, images: Tensor, length: float) -> Tensor:
        ctx.length = length
        return images.view_as(images)

    @staticmethod
    def backward(ctx: Any, *slopes: Any) -> Any:
        (slope,) = slopes
        slope = slope / per_image(norm(slope, "linf").clamp_min(1e-38), slope)  # tiny squares would underflow
        return ctx.length * slope / per_image(norm(slope, "l2").clamp_min(1e-12), slope), None
