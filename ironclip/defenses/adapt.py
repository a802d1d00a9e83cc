"""ADAPT: deep image prompts trained on attacks that see the prompts as they are now.

Source: arXiv 2403.13196; official code Gnomy17/robust_prompt (losses.py, attacks.py, vit.py). L tokens in each of the J first
blocks, no positions, behind `ln_pre`. With o, o' the logits of clean and attacked images: "ce" CE(o, y) + beta CE(o', y); "kl"
CE(o, y) + beta KL(p(o) || p(o')), gradients through both branches. The inner attack raises the cross-entropy of the prompted
model under both. Deviations: the tokens stand behind the image's instead of in front of the class token, which is the same
function, because attention does not see an order; a cosine with the text in place of the learned linear head [inferred: the
paper's towers are no CLIP].

Equations, z the image tower with the tokens P_1 .. P_J, o = s cos(z(x), T), x' the attacked image:

    "ce":  L = CE(o, y) + beta CE(o', y)
    "kl":  L = CE(o, y) + beta KL(softmax(o) || softmax(o'))
    x' = argmax_{||x' - x|| <= eps} CE(o', y)
"""

import math
from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from ironclip.backbones import assemble
from ironclip.core.errors import UnsupportedEdit
from ironclip.core.losses import kl_each
from ironclip.core.options import check_choice, check_number, check_templates, check_whole
from ironclip.core.types import Adaptation, Attack, Backbone, Batch, Defense, check_classes
from ironclip.defenses._blocks import ImagePrompts, check_depth


class ADAPT(Defense):
    """Adversarial prompt tuning with prompt-conditioned attacks.

    Args:
        length: L, tokens per block.
        depth: J, prompted blocks; None: all.
        objective: "ce" or "kl", see the module.
        beta: weight of the attacked images.
        templates: prompts with {} for the class name; several are averaged.
    """

    def __init__(
        self,
        backbone: Backbone,
        classes: Sequence[str],
        *,
        length: int = 25,
        depth: int | None = None,
        objective: Literal["ce", "kl"] = "ce",
        beta: float = 6.0,
        templates: Sequence[str] = ("a photo of a {}.",),
        generator: torch.Generator | None = None,
    ) -> None:
        super().__init__()
        check_classes(classes)
        check_whole("length", length, 1)
        check_choice("objective", objective, ("ce", "kl"))
        check_number("beta", beta, 0)
        spec = backbone.spec
        if not spec.image_tokens:
            raise UnsupportedEdit(f"{spec.name} has no token sequence to put prompts into; use a ViT backbone")
        self.objective, self.beta, self.templates = objective, beta, check_templates(templates)
        layers, width = spec.image_layers, spec.image_width
        depth = check_depth(depth, layers, "image")
        self.prompts = ImagePrompts(depth, length, width, layers=layers, before_ln_pre=False, generator=generator)
        bound = math.sqrt(6 / ((length + 1) * width * depth))  # Xavier's for PyTorch's fans of a tensor [1, L, D, J]
        drawn = (2 * torch.rand(depth, length, width, generator=generator) - 1) * bound
        self.prompts.tokens = nn.Parameter(drawn)
        self.to(backbone.device, backbone.dtype)

    def adaptation(self, backbone: Backbone, classes: Sequence[str]) -> Adaptation:
        return Adaptation(image_edits=(self.prompts,), templates=self.templates)

    def loss(
        self, backbone: Backbone, batch: Batch, attack: Attack, *, adaptation: Adaptation | None = None
    ) -> dict[str, Tensor]:
        classifier = assemble(backbone, batch.classes, adaptation or self.adaptation(backbone, batch.classes))
        adv = attack(classifier.detached(), batch.images, batch.labels, indices=batch.indices)
        clean, moved = classifier(batch.images), classifier(adv)
        terms = {"clean_ce": cross_entropy(clean, batch.labels)}
        if self.objective == "ce":
            return terms | {"adv_ce": self.beta * cross_entropy(moved, batch.labels)}
        return terms | {"consistency_kl": self.beta * kl_each(moved, clean).mean()}


METHOD = ADAPT
