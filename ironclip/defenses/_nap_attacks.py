"""The surrogates of NAP-Tuning: the image tower without its refiners, the same logits with gradients that do not pass through the
refiners, and the refined patch tokens.

Why: robust accuracy far above prompts alone could mean masked gradients, and the paper has no attack on the refiners.
"""

import copy
from dataclasses import replace

from torch import Tensor, cat

from ironclip.backbones import AdaptedClassifier, ScaledCosine
from ironclip.core.types import Classifier, ImageOutput, Trace
from ironclip.defenses._blocks import Refiners
from ironclip.defenses._surrogates import Features, Surrogate


class StraightThrough:
    """An edit with the value of the refiners and the gradient of the identity."""

    changes_output = False

    def __init__(self, refiners: Refiners) -> None:
        self.refiners = refiners

    def __call__(self, layer: int, tokens: Tensor) -> Tensor:
        return tokens + (self.refiners(layer, tokens) - tokens).detach()


def of_refiners(classifier: AdaptedClassifier, refiners: Refiners, count: int) -> tuple[Classifier, ...]:
    """The three surrogates of a classifier with these refiners among its image edits.

    Args:
        count: the image's own tokens, which come first.
    """

    spec = classifier.backbone.spec
    cosine = ScaledCosine(spec.logit_scale, spec.logit_bias)

    def changed(other: StraightThrough | None) -> AdaptedClassifier:
        twin = copy.copy(classifier)
        kept = [other if edit is refiners else edit for edit in classifier.adaptation.image_edits]
        twin.adaptation = replace(classifier.adaptation, image_edits=tuple(edit for edit in kept if edit is not None))
        return twin

    def patches(images: Tensor) -> Tensor:
        """Mean over positions of the logits of the projected patches."""
        trace = Trace(tokens=False, grid=True)
        classifier.encode_image(images, trace=trace)
        assert trace.projected is not None
        flat = cosine(ImageOutput(trace.projected.flatten(0, 1)), classifier.text_features)
        return flat.unflatten(0, trace.projected.shape[:2]).mean(1)

    def refined(images: Tensor) -> Tensor:
        """[B, L N D] tokens after the refiner of every block."""
        trace = Trace()
        classifier.encode_image(images, trace=trace)
        return cat([trace.inputs[layer][:, :count].flatten(1) for layer in range(spec.image_layers)], dim=1)

    return (
        Surrogate("refiners-bypassed", classifier, changed(None)),
        Surrogate("straight-through", classifier, changed(StraightThrough(refiners))),
        Features("refined-tokens", classifier, patches, refined),
    )
