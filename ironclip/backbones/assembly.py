"""From a frozen backbone and an adaptation to a classifier."""

import copy
from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import fields, replace
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ironclip.backbones.prompts import average, class_prompts
from ironclip.core.display import facts_html, listed
from ironclip.core.errors import NonFinite, UsageError
from ironclip.core.merging import resolve_weights
from ironclip.core.types import Adaptation, Backbone, ImageOutput, Trace, check_classes

Precision = Literal["float32", "bfloat16"]


class ScaledCosine:
    """The default head: logit scale times the cosine of image and text features, plus the bias of sigmoid models."""

    def __init__(self, logit_scale: float, logit_bias: float | None = None) -> None:
        self.logit_scale, self.logit_bias = logit_scale, logit_bias or 0.0

    def trace(self) -> Trace | None:
        return None

    def __call__(self, output: ImageOutput, text_features: Tensor) -> Tensor:
        return self.logit_scale * F.normalize(output.features, dim=-1) @ text_features.T + self.logit_bias


class AdaptedClassifier(nn.Module):
    """images [B, 3, H, W] in [0, 1] -> logits [B, K]; keeps references to the backbone, the classes and the adaptation.

    Made by `assemble`. Text features [K, E] and masked weights were computed there, once, and keep their graph if
    there was one; `detached()` is the same classifier as a constant, for an inner attack.
    """

    def __init__(
        self,
        backbone: Backbone,
        classes: tuple[str, ...],
        adaptation: Adaptation,
        precision: Precision | None = None,
    ) -> None:
        super().__init__()
        self.backbone, self.classes, self.adaptation, self.precision = backbone, classes, adaptation, precision
        parts = (*adaptation.pixels, *adaptation.image_edits, adaptation.head)
        self.borrowed = nn.ModuleList([part for part in parts if isinstance(part, nn.Module)])
        self.head = adaptation.head or ScaledCosine(backbone.spec.logit_scale, backbone.spec.logit_bias)
        self.image_weights = resolve_weights(adaptation.image_weights, backbone.image_weight)
        self.text_features = self._encode_classes()
        if not self.text_features.isfinite().all():
            raise NonFinite(f"the text features of {backbone.spec.name} are not finite; the learned context or edits diverged")

    def forward(self, images: Tensor) -> Tensor:
        return self.features_and_logits(images)[1]

    def features_and_logits(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """[B, E] features, not normalised, and the logits [B, K] that the head makes of them, in one pass."""
        trace = self.head.trace()
        features = self.encode_image(images, trace=trace)
        with torch.autocast(
            self.backbone.device.type, enabled=False
        ):  # the head is small, and bfloat16 logits would round margins away
            return features, self.head(ImageOutput(features, trace), self.text_features)

    def encode_image(self, images: Tensor, *, trace: Trace | None = None) -> Tensor:
        """[B, E] features of the adapted image tower, not normalised; they and the trace are float32 in every precision."""
        for change in self.adaptation.pixels:
            images = change(images)
        with self._autocast():
            features = self.backbone.encode_image(
                images, edits=self.adaptation.image_edits, weights=self.image_weights, trace=trace
            )
        if trace is not None:
            for kept in (trace.inputs, trace.weights):
                kept.update({layer: _wide(tensor) for layer, tensor in kept.items()})
            trace.projected = None if trace.projected is None else _wide(trace.projected)
        return _wide(features)

    def detached(self) -> "AdaptedClassifier":
        """The same classifier with constant text features, weights and image edits (those with a method `detached`). Nothing is
        copied."""
        twin = copy.copy(self)
        edits = tuple(edit.detached() if hasattr(edit, "detached") else edit for edit in self.adaptation.image_edits)
        twin.adaptation = replace(self.adaptation, image_edits=edits)
        twin.text_features = self.text_features.detach()
        twin.image_weights = {name: weight.detach() for name, weight in self.image_weights.items()}
        return twin

    def __repr__(self) -> str:
        precision = "" if self.precision == "float32" else f", {self.precision}"
        return f"AdaptedClassifier({self.backbone.spec.name}, {len(self.classes)} classes{precision})"

    def _repr_html_(self) -> str:
        changed = [part.name for part in fields(Adaptation) if getattr(self.adaptation, part.name)]
        facts = {"backbone": repr(self.backbone), "classes": listed(self.classes), "changes": ", ".join(changed) or "nothing"}
        return facts_html("AdaptedClassifier", facts | {"precision": self.precision})

    def _encode_classes(self) -> Tensor:
        weights = resolve_weights(self.adaptation.text_weights, self.backbone.text_weight)
        with self._autocast():
            features = [
                self.backbone.encode_text(tokens, edits=self.adaptation.text_edits, weights=weights)
                for tokens in class_prompts(self.backbone, self.classes, self.adaptation)
            ]
        return average([_wide(f) for f in features])

    def _autocast(self) -> AbstractContextManager[Any]:
        if self.precision is None:
            return nullcontext()
        return torch.autocast(self.backbone.device.type, dtype=torch.bfloat16, enabled=self.precision == "bfloat16")


def _wide(tensor: Tensor) -> Tensor:
    return tensor if tensor.dtype == torch.float64 else tensor.float()


def assemble(
    backbone: Backbone,
    classes: Sequence[str],
    adaptation: Adaptation | None = None,
    *,
    precision: Precision | None = None,
) -> AdaptedClassifier:
    """The classifier of an adapted backbone.

    The towers compute in `precision`; None: as the caller does, in float32 outside autocast. Features and logits are float32.
    Text features are computed here, once, differentiable where the adaptation is and gradients are enabled.

    Raises:
        UsageError: fewer than two classes, or an unknown precision.
        NonFinite: the text features contain NaN or infinity.
    """
    if precision not in (None, "float32", "bfloat16"):
        raise UsageError(f"precision must be float32 or bfloat16; got {precision!r}")
    return AdaptedClassifier(backbone, check_classes(classes), adaptation or Adaptation(), precision)
