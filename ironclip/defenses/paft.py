"""PAFT: a linear classifier on the frozen image tower, trained on adversarial images; no text branch.

Source: "partial adversarial fine-tuning", a baseline of APT (arXiv 2403.01849) and CAPT; its code was not released. TreeLLi/APT
apt/evaluate.py imports a `LinearProbe(model, 512, num_classes, False)`, which fixes input and output sizes. [inferred]: that the
flag means "features as they are, not normalised", the start (PyTorch's) and the learning rate; APT's protocol otherwise.
Learned: `head.linear` weight [K, E] and bias [K]: 512 K + K parameters for ViT-B.

Equations, W [K, E] and b [K] the head, f the frozen image tower:

    o(x) = W f(x) + b
    min_{W, b} CE(o(x'), y),  x' = argmax_{||x' - x|| <= eps} CE(o(x'), y)
"""

from collections.abc import Sequence
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from ironclip.backbones import DEFAULT_TEMPLATE, AdaptedClassifier, assemble
from ironclip.core.errors import UsageError
from ironclip.core.options import check_choice, check_flags, check_templates
from ironclip.core.types import Adaptation, Attack, Backbone, Batch, Defense, ImageOutput, Trace, check_classes
from ironclip.defenses._blocks import linear


class LinearHead(nn.Module):
    """A Head: W f + b of image features f [B, E], of unit length if `normalize`; text features have no part in it."""

    def __init__(self, classes: int, width: int, *, normalize: bool, generator: torch.Generator | None = None) -> None:
        super().__init__()
        self.linear = linear(width, classes, generator=generator)
        self.normalize = normalize

    def trace(self) -> Trace | None:
        return None

    def forward(self, output: ImageOutput, text_features: Tensor) -> Tensor:
        features = F.normalize(output.features, dim=-1) if self.normalize else output.features
        return self.linear(features)


class PAFT(Defense):
    """A linear probe trained on adversarial images. It works for its training classes only.

    Args:
        normalize: features of unit length.
        init: "random" as PyTorch's linear layers, or "zero_shot": text features times the logit scale, which needs `normalize`
            and starts at zero-shot classification.
        templates: prompts of that start.
    """

    transfers = False

    def __init__(
        self,
        backbone: Backbone,
        classes: Sequence[str],
        *,
        normalize: bool = False,
        init: Literal["random", "zero_shot"] = "random",
        templates: Sequence[str] = (DEFAULT_TEMPLATE,),
        generator: torch.Generator | None = None,
    ) -> None:
        super().__init__()
        self.own_classes = check_classes(classes)
        check_flags(normalize=normalize)
        check_choice("init", init, ("random", "zero_shot"))
        self.templates, spec = check_templates(templates), backbone.spec
        if init == "zero_shot" and not normalize:
            raise UsageError("init='zero_shot' starts at cosines, which are of features of unit length; set normalize=true")
        self.head = LinearHead(len(self.own_classes), spec.embed_dim, normalize=normalize, generator=generator)
        self.to(backbone.device, backbone.dtype)
        self._made: dict[str, AdaptedClassifier] = {}  # hides it from the module tree
        if init == "zero_shot":
            with torch.no_grad():
                text = assemble(backbone, self.own_classes, Adaptation(templates=self.templates)).text_features
                self.head.linear.weight.copy_(spec.logit_scale * text)
                self.head.linear.bias.fill_(spec.logit_bias or 0.0)

    def adaptation(self, backbone: Backbone, classes: Sequence[str]) -> Adaptation:
        if tuple(classes) != self.own_classes:
            raise UsageError(
                "a linear head fits the classes it was trained on alone, in their order; "
                f"got {len(classes)} others: {', '.join(map(str, classes[:3]))}, ... Train prompts for other classes"
            )
        return Adaptation(templates=self.templates, head=self.head)

    def loss(
        self, backbone: Backbone, batch: Batch, attack: Attack, *, adaptation: Adaptation | None = None
    ) -> dict[str, Tensor]:
        if adaptation is None:
            classifier = self._alone(backbone, batch.classes)
        else:
            classifier = assemble(backbone, batch.classes, adaptation)
        adv = attack(classifier.detached(), batch.images, batch.labels, indices=batch.indices)
        return {"adv_ce": cross_entropy(classifier(adv), batch.labels)}

    def _alone(self, backbone: Backbone, classes: Sequence[str]) -> AdaptedClassifier:
        """The classifier, made once: it holds the head itself, and its text features are not used."""
        own = self.adaptation(backbone, classes)
        if "made" not in self._made or self._made["made"].backbone is not backbone:
            with torch.no_grad():
                self._made["made"] = assemble(backbone, classes, own)
        return self._made["made"]


METHOD = PAFT
