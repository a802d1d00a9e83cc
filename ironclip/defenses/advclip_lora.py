"""AdvCLIP-LoRA: low-rank changes of the attention in both towers, trained on one perturbation that all images share.

Source: arXiv 2505.15130; official code sajjad-ucsb/AdvCLIP-LoRA (lora.py, loralib/). Queries, keys and values learn a low-rank
change each. delta starts at zero in every epoch and is kept over its batches; each batch takes m steps on it and trains on the
last loss.

Equations, r the rank, n the number of steps so far, P the projection onto the ball of radius eps:

    W' = W + c B A,  c = alpha / sqrt(r)  [code]
    delta <- P(delta + rho grad_delta CE(s cos(f(x + delta), T), y))
    rho = 0.05 (u + (1 - u) / (300 - n)),  u = 1 / (|delta| + 1e-30)  for n < 300, else 0.05
    L = CE(s cos(f(x + delta), T), y)

Deviations: pixels and their box by default (`units="normalised"`: radius and delta in units of the normalised image and a box of
two numbers for a whole batch, as released); features of unit length also after the ascent (`normalise=False`: as released); n
counts the steps of the epoch (released: of the run), so that a resumed run is the same; no dropout in the low-rank branch
(released: 0.25), because towers take the sums of weights; float32.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

from ironclip.backbones import AdaptedClassifier
from ironclip.core.errors import UnsupportedEdit
from ironclip.core.options import check_choice, check_flags, check_number, check_whole
from ironclip.core.types import Adaptation, Attack, Backbone, Batch
from ironclip.defenses._finetune import FineTuning, Fixed
from ironclip.defenses._lora import LowRank, stacked

RATE, WARM, TINY = 0.05, 300, 1e-30
RADIUS = 1 / 255  # of an inner attack that states none


@dataclass
class Universal:
    """The perturbation [3, H, W] of one epoch, its number of steps so far, and the epoch's inner attack."""

    delta: Tensor | None = None
    steps: int = 0
    attack: Attack | None = None


class AdvCLIPLoRA(FineTuning):
    """Adversarial low-rank adaptation.

    Args:
        interpolation, lr_mult, templates: see `_finetune.FineTuning`.
        encoder: "both" towers, or the "image" tower alone.
        rank: r.
        alpha: of the scale alpha / sqrt(r).
        inner: "universal", one perturbation for all images [paper], or "image", the run's inner attack on each image: the obvious
            baseline [ours]. Of the inner attack "universal" takes the radius alone.
        ascents: m, steps of the perturbation per batch.
        units: "pixels", or "normalised" as released.
        normalise: features of unit length also after the ascent; false as released.
    """

    divisible = False

    def __init__(
        self,
        backbone: Backbone,
        classes: Sequence[str],
        *,
        encoder: Literal["both", "image"] = "both",
        rank: int = 2,
        alpha: float = 1.0,
        inner: Literal["universal", "image"] = "universal",
        ascents: int = 1,
        units: Literal["pixels", "normalised"] = "pixels",
        normalise: bool = True,
        interpolation: float = 1.0,
        lr_mult: float = 1.0,
        templates: Sequence[str] = ("a photo of a {}.",),
        generator: torch.Generator | None = None,
    ) -> None:
        check_choice("encoder", encoder, ("both", "image"))
        check_whole("rank", rank, 1)
        check_number("alpha", alpha, 0, above=True)
        check_choice("inner", inner, ("universal", "image"))
        check_whole("ascents", ascents, 1)
        check_choice("units", units, ("pixels", "normalised"))
        check_flags(normalise=normalise)
        names = stacked(backbone.spec.image_weights), stacked(backbone.spec.text_weights)
        if not names[0] or (encoder == "both" and not names[1]):
            tower = "text" if names[0] else "image"
            raise UnsupportedEdit(f"the {tower} tower of {backbone.spec.name} has no matrices of queries, keys and values")

        def adapter(base: Mapping[str, Tensor]) -> LowRank:
            return LowRank(base, rank=rank, scale=alpha / math.sqrt(rank), apart=True, generator=generator)

        fixed = Fixed(text_tune=names[1] if encoder == "both" else None, adapter=adapter)
        super().__init__(
            backbone, classes, fixed, tune=names[0], interpolation=interpolation, lr_mult=lr_mult, templates=templates,
            generator=generator,
        )  # fmt: skip
        self.inner, self.ascents, self.units, self.normalise = inner, ascents, units, normalise
        self._universal = Universal()
        if inner == "universal":
            self.notes = ("advclip_lora trained on one perturbation for all images; of the inner attack only the radius is used",)

    def loss(
        self, backbone: Backbone, batch: Batch, attack: Attack, *, adaptation: Adaptation | None = None
    ) -> dict[str, Tensor]:
        tuned, labels = self.classifier(backbone, batch.classes, adaptation), batch.labels
        if self.inner == "image":
            adv = attack(tuned.detached(), batch.images, labels, indices=batch.indices)
            return {"adv_ce": cross_entropy(tuned(adv), labels)}
        mean, std = (batch.images.new_tensor(v).view(3, 1, 1) for v in (backbone.spec.mean, backbone.spec.std))
        if self.units == "pixels":
            mean, std = torch.zeros_like(mean), torch.ones_like(std)
        x, now = (batch.images - mean) / std, self._current(batch.images, attack)
        radius, constant = getattr(attack, "eps", RADIUS), tuned.detached()
        assert now.delta is not None

        def value(classifier: AdaptedClassifier, delta: Tensor, raw: bool) -> Tensor:
            images = (x + delta) * std + mean
            images = images.clamp(0, 1) if self.units == "pixels" else images
            if not raw:
                return cross_entropy(classifier(images), labels)
            features = classifier.encode_image(images)
            return cross_entropy(backbone.spec.logit_scale * features @ classifier.text_features.T, labels)

        raw = not self.normalise
        for number in range(self.ascents):
            ahead = ascended(lambda delta, raw=raw and number > 0: value(constant, delta, raw), now.delta, now.steps)  # type: ignore[misc]
            now.delta = ahead.clamp(-radius, radius)
            if self.units == "normalised":
                now.delta = now.delta.clamp(float((-x).min()), float((1 - x).max()))
        now.steps += 1
        return {"universal_ce": value(tuned, now.delta, raw)}

    def _current(self, images: Tensor, attack: Attack) -> Universal:
        """The perturbation of this epoch, zero at its start. A new inner attack is the sign of a new epoch."""
        if self._universal.attack is not attack or self._universal.delta is None:
            self._universal = Universal(torch.zeros_like(images[0]), 0, attack)
        return self._universal


def ascended(value: Callable[[Tensor], Tensor], delta: Tensor, steps: int) -> Tensor:
    """delta [3, H, W] after one step along the gradient of value(delta), at the rate of the released code after so many steps."""
    leaf = delta.detach().requires_grad_()
    with torch.enable_grad():
        (slope,) = torch.autograd.grad(value(leaf), leaf)
    u = 1 / (float(delta.norm()) + TINY)
    rate = RATE * (u + (1 - u) / (WARM - steps)) if steps < WARM else RATE
    return delta.detach() + rate * slope


METHOD = AdvCLIPLoRA
