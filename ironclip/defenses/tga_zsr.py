"""TGA-ZSR: TeCoA that also keeps the attention map between an image and the text of its class.

Source: arXiv 2410.21802; official code zhyblue424/TGA-ZSR (TGA-ZSR.py, attention_map.py). Objective: cross-entropy of adversarial
images, plus alpha times the distance of their maps under the tuned tower to the clean maps under the original one, plus beta
times the same for the clean images under the tuned tower [paper] [code].

Deviations: the map and the logits come from one pass (there from two); the original's map builds no graph; the inner attack
as in `tecoa`. The released code stops with a NameError; "as released" means with that name corrected.

Equations, g the tokens of the patches, t the text feature of the true class, A = g t the map, "ori" the original tower:

    L = CE(p(x'), y) + alpha ||A(x') - A_ori(x)|| + beta ||A(x) - A_ori(x)||
"""

from collections.abc import Sequence
from typing import Any, Literal

import torch
from torch import Tensor
from torch.nn.functional import cosine_similarity, cross_entropy, interpolate, normalize

from ironclip.backbones import AdaptedClassifier
from ironclip.core.errors import UnsupportedEdit
from ironclip.core.options import check_choice, check_number
from ironclip.core.types import Adaptation, Attack, Backbone, Batch, ImageOutput, Trace
from ironclip.defenses._finetune import FineTuning

NORMS = ("token_axis", "feature")
DISTANCES = ("l2", "l1", "cos")


class TGA(FineTuning):
    """Text-guided attention for zero-shot robustness.

    Args:
        alpha: weight of the adversarial maps' distance (attention refinement).
        beta: weight of the clean maps' distance (attention-based model constraint).
        tga_norm: "token_axis" divides each channel by its norm over the tokens, class token included, as released [code];
            "feature" makes tokens unit vectors; the paper shows neither.
        distance: of maps: "l2" the Euclidean distance over all pixels, "l1" the mean of absolute differences, "cos".
    """

    def __init__(
        self,
        backbone: Backbone,
        classes: Sequence[str],
        *,
        alpha: float = 0.08,
        beta: float = 0.05,
        tga_norm: Literal["token_axis", "feature"] = "token_axis",
        distance: Literal["l2", "l1", "cos"] = "l2",
        **shared: Any,
    ) -> None:
        if not backbone.spec.grid:
            raise UnsupportedEdit(f"{backbone.spec.name} shows no grid of patch features to make maps of; use a ViT backbone")
        super().__init__(backbone, classes, **shared)
        check_number("alpha", alpha, 0)
        check_number("beta", beta, 0)
        check_choice("tga_norm", tga_norm, NORMS)
        check_choice("distance", distance, DISTANCES)
        self.alpha, self.beta, self.tga_norm, self.distance = alpha, beta, tga_norm, distance

    def loss(
        self, backbone: Backbone, batch: Batch, attack: Attack, *, adaptation: Adaptation | None = None
    ) -> dict[str, Tensor]:
        tuned, labels = self.classifier(backbone, batch.classes, adaptation), batch.labels
        adv = attack(tuned.detached(), batch.images, labels, indices=batch.indices)
        with torch.no_grad():
            target = self.seen(self.original(backbone, batch.classes), batch.images, labels)[1]
        logits, moved = self.seen(tuned, adv, labels)
        kept = self.seen(tuned, batch.images, labels)[1]
        return {
            "adv_ce": cross_entropy(logits, labels),
            "adv_map": self.alpha * map_distance(moved, target, self.distance),
            "clean_map": self.beta * map_distance(kept, target, self.distance),
        }

    def seen(self, classifier: AdaptedClassifier, images: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        """Logits [B, K] and the maps [B, H * W] that the loss compares."""
        return logits_and_map(classifier, images, labels, self.tga_norm)


def logits_and_map(classifier: AdaptedClassifier, images: Tensor, labels: Tensor, norm: str) -> tuple[Tensor, Tensor]:
    """Logits [B, K], and how much every pixel's patch agrees with the text of the true class: [B, H * W] in [0, 1]."""
    logits, maps = logits_and_maps(classifier, images, classifier.text_features[labels][:, None], norm)
    return logits, maps[:, 0]


def logits_and_maps(classifier: AdaptedClassifier, images: Tensor, texts: Tensor, norm: str) -> tuple[Tensor, Tensor]:
    """Logits [B, K], and how much every pixel's patch agrees with each of an image's texts [B, n, E]: [B, n, H * W] in [0, 1].

    Products of patch features and text are scaled to [0, 1] per image and then enlarged to the image's size [code]; the paper
    enlarges first.
    """
    trace = classifier.head.trace() or Trace(tokens=False)
    trace.grid = True
    features = classifier.encode_image(images, trace=trace)
    assert trace.projected is not None
    if norm == "feature":
        patches = normalize(trace.projected, dim=-1)
    else:
        tokens = torch.cat([features[:, None], trace.projected], dim=1)
        patches = (tokens / tokens.norm(dim=1, keepdim=True))[:, 1:]
    scores = texts @ patches.transpose(1, 2)
    low, high = scores.amin(2, keepdim=True), scores.amax(2, keepdim=True)
    scores = (scores - low) / (high - low + 1e-8)
    side = classifier.backbone.spec.grid
    large = interpolate(scores.unflatten(2, (side, side)), size=images.shape[-2:], mode="bilinear", align_corners=False)
    return classifier.head(ImageOutput(features, trace), classifier.text_features), large.flatten(2)


def map_distance(maps: Tensor, target: Tensor, kind: str) -> Tensor:
    """Mean distance of maps [B, H * W]."""
    if kind == "l1":
        return (maps - target).abs().mean()
    each = (maps - target).norm(dim=1) if kind == "l2" else 1 - cosine_similarity(maps, target, dim=1)
    return each.mean()


METHOD = TGA
