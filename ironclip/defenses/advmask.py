"""AdvMask: one learned bit per weight of the attention blocks says keep or drop; adversarial training with aligned features.

Source: "Identifying Robust Neural Pathways: Few-Shot Adversarial Mask Tuning for Vision-Language Models" (ICLR 2026, OpenReview
kzGkXpW4FT), whose repository wonjeongchoi/AdvMask holds no code; gate, start, threshold and optimiser as in wuw2019/R-AMT
(arXiv 2307.15049). Results are "our AdvMask". [paper]: masks over the attention blocks alone, straight-through gradient, inner
attack on the cross-entropy alone, lambda = 50, the weights of LAFA. [inferred], all options: which matrices, which tokens,
means instead of sums, what is held constant, the number of steps.

Learned: `scores`, one tensor per matrix. The bits are what is stored.

Equations, W a matrix, S its scores, h_l the tokens after block l, omega_i the confidence in the label of image i over the batch's
mean:

    M = 1[S > threshold],  W' = M * W,  dL/dS := dL/dM  (straight-through)
    L = CE(s cos(f(x'), T), y) + lambda mean_{l, i} omega_i |h_l(x'_i) - h_l(x_i)|^2  (LAFA)
"""

import math
import warnings
from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, normalize

from ironclip.backbones import AdaptedClassifier, assemble
from ironclip.core.errors import CheckpointError, UnsupportedEdit, UsageError
from ironclip.core.losses import js_each, kl_to_clean
from ironclip.core.options import check_choice, check_flags, check_number, check_whole
from ironclip.core.schedule import Schedule
from ironclip.core.types import Adaptation, Attack, Backbone, Batch, Classifier, Defense, ImageOutput, Mask, Trace, check_classes
from ironclip.defenses._masks import MaskGate, chosen, maskable, pack, rows_of, unpack

STRENGTH = {"lafa": 50.0, "js": 1.0, "kl": 1.0, "none": 0.0}
"""Weight of the alignment: lambda = 50 for LAFA [paper], 1 for the divergences [inferred]."""
CHOICES = {
    "alignment": tuple(STRENGTH),
    "align_tokens": ("all", "cls", "reaching"),
    "align_reduction": ("mean", "sum"),
    "align_norm": ("none", "l2"),
}


class AdvMask(Defense):
    """Binary masks over weights of the image tower.

    Args:
        targets: "attention" (q, k, v, out), "mlp", "both", or a list of q, k, v, out, mlp_fc, mlp_proj, conv.
        layers: blocks to mask, counted from 0; default: all.
        score_init: start of every score; above the threshold, so the first mask keeps everything.
        threshold: a weight is kept where its score is larger.
        alignment: "lafa", "js" or "kl" between clean and adversarial predictions, or "none".
        align_weight: lambda; default 50 for LAFA [paper], 1 for js and kl.
        adaptive_weight: weigh each image by the confidence in its label, divided by the batch's mean; False: equal weights.
        align_tokens: LAFA over "all" tokens of every block, the class token alone ("cls"), or those that reach the logits
            ("reaching": all but the patches after the last block, which are not used) [inferred].
        align_reduction, align_norm: mean or sum over tokens and channels; tokens as they are or of unit length.
        detach_clean: hold the clean side constant; default: both sides receive gradient.
        min_steps: least number of optimiser steps; an epoch passes over the images as often as needed.
        lr_ratio: learning rate of the scores over the schedule's, for stacks.
        templates: hand-written prompts; default: those of whatever else is stacked, or "a photo of a {}.".
    """

    divisible = False

    def __init__(
        self,
        backbone: Backbone,
        classes: Sequence[str],
        *,
        targets: str | Sequence[str] = "attention",
        layers: Sequence[int] | None = None,
        score_init: float = 1e-2,
        threshold: float = 5e-3,
        alignment: str = "lafa",
        align_weight: float | None = None,
        adaptive_weight: bool = True,
        align_tokens: str = "all",
        align_reduction: str = "mean",
        align_norm: str = "none",
        detach_clean: bool = False,
        min_steps: int = 500,
        lr_ratio: float = 1.0,
        templates: Sequence[str] | None = None,
        generator: torch.Generator | None = None,
    ) -> None:
        super().__init__()
        check_classes(classes)
        given = {"alignment": alignment, "align_tokens": align_tokens}
        for option, value in {**given, "align_reduction": align_reduction, "align_norm": align_norm}.items():
            check_choice(option, value, CHOICES[option])
        check_flags(adaptive_weight=adaptive_weight, detach_clean=detach_clean)
        check_number("threshold", threshold, 0)
        check_number("score_init", score_init, threshold, above=True)
        check_number("lr_ratio", lr_ratio, 0, above=True)
        check_whole("min_steps", min_steps, 0)
        if align_weight is not None:
            check_number("align_weight", align_weight, 0, above=True)
        spec = backbone.spec
        self.held = maskable(spec, chosen(targets), layers)
        if align_tokens != "all" and spec.image_tokens == spec.grid**2:
            raise UnsupportedEdit(f"{spec.name} has no class token; use align_tokens='all'")
        self.score_init, self.threshold, self.min_steps, self.lr_ratio = score_init, threshold, min_steps, lr_ratio
        self.alignment, self.align_weight = alignment, STRENGTH[alignment] if align_weight is None else align_weight
        self.adaptive_weight, self.detach_clean = adaptive_weight, detach_clean
        self.count = 1 if align_tokens == "cls" else spec.image_tokens
        self.last_count = self.count if align_tokens == "all" else 1
        self.summed, self.unit = align_reduction == "sum", align_norm == "l2"
        self.templates = () if templates is None else (templates,) if isinstance(templates, str) else tuple(templates)
        self.rows: dict[str, Tensor | None] = {}
        self.scores = nn.ParameterList()
        dtype = torch.promote_types(backbone.dtype, torch.float32)
        for name, held in self.held.items():
            weight = backbone.image_weight(name)
            self.rows[name] = rows = rows_of(name, held, weight)
            shape = weight.shape if rows is None else (len(rows), *weight.shape[1:])
            self.scores.append(nn.Parameter(torch.full(shape, score_init, dtype=dtype, device=backbone.device)))

    def adaptation(self, backbone: Backbone, classes: Sequence[str]) -> Adaptation:
        masks = {name: Mask(self._mask(name, scores, backbone)) for name, scores in zip(self.held, self.scores, strict=True)}
        return Adaptation(image_weights=masks, templates=self.templates)

    def _mask(self, name: str, scores: Tensor, backbone: Backbone) -> Tensor:
        gate: Tensor = MaskGate.apply(scores, self.threshold).to(backbone.dtype)
        rows = self.rows[name]
        if rows is None:
            return gate
        return torch.ones_like(backbone.image_weight(name)).index_copy(0, rows.to(gate.device), gate)

    def loss(
        self, backbone: Backbone, batch: Batch, attack: Attack, *, adaptation: Adaptation | None = None
    ) -> dict[str, Tensor]:
        classifier = assemble(backbone, batch.classes, adaptation or self.adaptation(backbone, batch.classes))
        images, labels = batch.images, batch.labels
        adv = attack(classifier.detached(), images, labels, indices=batch.indices)
        if self.alignment == "none":
            return {"adv_ce": cross_entropy(classifier(adv), labels)}
        with torch.no_grad() if self.detach_clean else nullcontext():
            clean, clean_blocks = self._look(classifier, images)
        moved, moved_blocks = self._look(classifier, adv)
        if self.alignment == "lafa":
            weights = confidence_weights(clean, labels) if self.adaptive_weight else None
            distance = lafa(clean_blocks, moved_blocks, weights, summed=self.summed, unit=self.unit)
        else:
            distance = js_each(moved, clean).mean() if self.alignment == "js" else kl_to_clean(moved, clean)
        return {"adv_ce": cross_entropy(moved, labels), self.alignment: self.align_weight * distance}

    def _look(self, classifier: AdaptedClassifier, images: Tensor) -> tuple[Tensor, list[Tensor]]:
        """Logits [B, K] and, for LAFA, the output [B, N, D] of each block: the image's own tokens, without prompts."""
        if self.alignment != "lafa":
            return classifier(images), []
        wanted = classifier.head.trace() or Trace()
        trace = replace(wanted, tokens=True, layers=None)  # all that the head asked for, and every block
        features = classifier.encode_image(images, trace=trace)
        layers = range(1, classifier.backbone.spec.image_layers + 1)
        blocks = [trace.inputs[layer][:, : self.count if layer < layers[-1] else self.last_count] for layer in layers]
        return classifier.head(ImageOutput(features, trace), classifier.text_features), blocks

    def surrogates(self, classifier: Classifier) -> tuple[Classifier, ...]:
        """The network with every weight kept (transfer), and the classifier with smaller logits, which do not saturate the
        cross-entropy.

        The mask is constant at test time and the straight-through gate is not part of the pixels' gradient, so attacks on the
        classifier itself are already adaptive to the defence.
        """
        if not isinstance(classifier, AdaptedClassifier):
            return ()
        kept = {
            name: change
            for name, change in classifier.adaptation.image_weights.items()
            if not (name in self.held and isinstance(change, Mask))
        }
        with torch.no_grad():
            whole = assemble(classifier.backbone, classifier.classes, replace(classifier.adaptation, image_weights=kept))
        return whole, Tempered(classifier)

    def masks(self) -> dict[str, Tensor]:
        """Weight name -> bool mask of the rows that are masked."""
        return {name: scores.detach() > self.threshold for name, scores in zip(self.held, self.scores, strict=True)}

    def diagnostics(self) -> dict[str, float]:
        masks = self.masks()
        sums = torch.stack([mask.sum() for mask in masks.values()]).tolist()
        sizes = [mask.numel() for mask in masks.values()]
        shares = {f"kept.{name}": kept / size for name, kept, size in zip(masks, sums, sizes, strict=True)}
        return {"kept": sum(sums) / sum(sizes), **shares}

    def learned(self) -> dict[str, Tensor]:
        masks = self.masks()
        if all(bool(mask.all()) for mask in masks.values()):
            distance = self.score_init - self.threshold
            raise UsageError(
                f"the mask still keeps every weight: no score fell by {distance:g}; raise lr or min_steps, with optimizer=adamw"
            )
        return {f"bits.{name}": pack(mask) for name, mask in masks.items()}

    def load_learned(self, tensors: Mapping[str, Tensor]) -> None:
        """Scores at their start value where the bit is set; elsewhere the same distance below the threshold."""
        if set(tensors) != {f"bits.{name}" for name in self.held}:
            raise CheckpointError(f"these bits are of other weights ({', '.join(sorted(tensors)[:2])}, ...) than the masked ones")
        if any(bits.dtype != torch.uint8 for bits in tensors.values()):
            raise CheckpointError("the bits of a mask are no bytes (uint8)")
        with torch.no_grad():
            for name, scores in zip(self.held, self.scores, strict=True):
                mask = unpack(tensors[f"bits.{name}"], scores.shape).to(scores.device)
                scores.fill_(2 * self.threshold - self.score_init).masked_fill_(mask, self.score_init)

    def passes(self, schedule: Schedule, steps: int) -> int:
        passes = self.planned_passes({"min_steps": self.min_steps}, schedule, steps)
        each = passes * steps
        rates = sum(schedule.rate(epoch, step, each) for epoch in range(1, schedule.epochs + 1) for step in range(1, each + 1))
        travel, distance = rates * self.lr_ratio, self.score_init - self.threshold
        if schedule.optimizer != "adamw":
            warnings.warn(
                f"{schedule.optimizer} moves a score by its gradient, often 1e-6, but a bit flips {distance:g} away; "
                "use optimizer=adamw, whose steps are as long as lr",
                stacklevel=2,
            )
        elif travel < distance:
            warnings.warn(
                f"in {passes * steps * schedule.epochs} steps a score moves by {travel:.2g} at most, but a bit flips "
                f"{distance:g} away; raise lr, epochs or min_steps",
                stacklevel=2,
            )
        return passes

    @classmethod
    def planned_passes(cls, options: Mapping[str, Any], schedule: Schedule, steps: int) -> int:
        return max(1, math.ceil(options["min_steps"] / (schedule.epochs * steps)))

    def parameter_groups(self, lr: float) -> list[dict[str, Any]]:
        """No weight decay, whatever the schedule says: it would lower every score below the threshold."""
        return [{"params": list(self.scores), "lr": lr * self.lr_ratio, "weight_decay": 0.0}]


def confidence_weights(logits: Tensor, labels: Tensor, eps: float = 1e-8) -> Tensor:
    """[B] omega_i = p(y_i | x_i) / (mean p(y | x) + eps) of clean logits [B, K], a constant [inferred]; their mean is 1."""
    sure = logits.detach().softmax(1).gather(1, labels[:, None]).squeeze(1)
    return sure / (sure.mean() + eps)


def lafa(
    clean: Sequence[Tensor], adv: Sequence[Tensor], weights: Tensor | None = None, *, summed: bool = False, unit: bool = False
) -> Tensor:
    """Mean over L blocks and B images of omega_i times the squared distance of clean and adversarial tokens [B, N, D].

    Args:
        weights: [B] omega; None: all 1.
        summed: sum over tokens and channels, as the formula reads, instead of their mean.
        unit: tokens of unit length, against CLIP's few very large channels.
    """
    gaps = []
    for a, b in zip(clean, adv, strict=True):
        gap = (normalize(a, dim=-1) - normalize(b, dim=-1) if unit else a - b).square().flatten(1)
        gaps.append(gap.sum(1) if summed else gap.mean(1))
    each = torch.stack(gaps)
    return each.mean() if weights is None else (each * weights).mean()


class Tempered(nn.Module):
    """Logits divided by ten: the same predictions, with gradients of the cross-entropy that do not vanish at scale 100."""

    def __init__(self, classifier: Classifier) -> None:
        super().__init__()
        self.classifier = classifier

    @property
    def classes(self) -> tuple[str, ...]:
        return self.classifier.classes

    def forward(self, images: Tensor) -> Tensor:
        return self.classifier(images) / 10


METHOD = AdvMask
