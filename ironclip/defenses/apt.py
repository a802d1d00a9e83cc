"""APT, adversarial prompt tuning: learn the context words of the class prompts by adversarial training, nothing else.

Source: arXiv 2403.01849; official code TreeLLi/APT (apt/trainers/apt.py). Learned: `context` [M, D], or [K, M, D] when
class-specific. Objective: mean cross-entropy of adversarial images alone [paper] [code].

Deviations from the official code: the inner attack differentiates pixels alone (there `.backward()` also fills the prompt's
gradient, which is wiped later: same result); text features are computed once per step instead of once per inner step (exact, the
prompt does not change there); attack and training run in float32 (there float16). `constant` prompts use class names with spaces
[inferred]; the code keeps underscores there (`constant_names`). Contexts in the middle and in front are tokenised where they
stand; the code moves tokens, which differs for names that end in punctuation alone.

Equations, v = [v_1 .. v_M] the context and t_k(v) the text feature of class k with it:

    p(k | x) = softmax_k(s cos(f(x), t_k(v)))
    min_v E[ -log p(y | x') ],  x' = argmax_{||x' - x|| <= eps} -log p(y | x')
"""

from collections.abc import Sequence
from dataclasses import replace
from typing import ClassVar, Literal

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, normalize

from ironclip.backbones import AdaptedClassifier, assemble
from ironclip.backbones.words import room_for_words, word_vectors
from ironclip.core.errors import UsageError
from ironclip.core.merging import resolve_weights
from ironclip.core.options import check_choice, check_number, check_whole
from ironclip.core.types import Adaptation, Attack, Backbone, Batch, Context, Defense, check_classes
from ironclip.defenses._blocks import normal

CONSTANT_TEMPLATE = "a photo of a {}"


class APT(Defense):
    """Learned context words.

    Args:
        length: M, number of learned words; ignored with `init`. Default: 16, or as many as the context holds beside the
            longest class name, which `notes` then says.
        position: "end" puts the class name last, "front" first, "middle" between the halves of the context.
        class_specific: one context per class instead of one for all.
        init: words whose embeddings the (unified) context starts from, e.g. "a photo of a"; default N(0, 0.02^2).
        strategy: the prompt the inner attack sees: "onfly" the current one, "constant" a fixed template,
            "perturbed" the current one, which takes an ascent step of size `prompt_step` with every inner step.
        prompt_step: size of that ascent step; 0: none.
        constant_names: of "constant": words of a class name joined by "spaces" [inferred] or by "underscores" [code].
    """

    usual_length: ClassVar[int] = 16

    def __init__(
        self,
        backbone: Backbone,
        classes: Sequence[str],
        *,
        length: int | None = None,
        position: Literal["end", "middle", "front"] = "end",
        class_specific: bool = False,
        init: str | None = None,
        strategy: Literal["onfly", "constant", "perturbed"] = "onfly",
        prompt_step: float = 0.0,
        constant_names: Literal["spaces", "underscores"] = "spaces",
        generator: torch.Generator | None = None,
    ) -> None:
        super().__init__()
        classes = check_classes(classes)
        check_choice("position", position, ("end", "middle", "front"))
        check_choice("strategy", strategy, ("onfly", "constant", "perturbed"))
        check_choice("constant_names", constant_names, ("spaces", "underscores"))
        if constant_names != "spaces" and strategy != "constant":
            raise UsageError(f"constant_names is for strategy='constant'; the strategy is {strategy!r}")
        if length is None:
            length = self._default_length(backbone, classes) if init is None else 1
        check_whole("length", length, 1)
        check_number("prompt_step", prompt_step, 0)
        if prompt_step and strategy != "perturbed":
            raise UsageError(f"prompt_step is for strategy='perturbed'; the strategy is {strategy!r}")
        if init is not None and class_specific:
            raise UsageError("init words start a unified context; leave out init or class_specific")
        if init is not None and not init.strip():
            raise UsageError("init must hold at least one word, for example 'a photo of a'")
        self.position: Literal["end", "middle", "front"] = position
        self.strategy, self.prompt_step, self.underscores = strategy, prompt_step, constant_names == "underscores"
        self.own_classes = classes if class_specific else None
        width = backbone.spec.text_width
        if init is not None:
            self.context = nn.Parameter(word_vectors(backbone, init))
        else:
            self.context = normal(*([len(classes)] if class_specific else []), length, width, generator=generator)
        self.to(backbone.device, backbone.dtype)
        with torch.no_grad():  # fails here, not in the first step, if the prompts are too long for the context
            assemble(backbone, classes, self.adaptation(backbone, classes))

    def _default_length(self, backbone: Backbone, classes: Sequence[str]) -> int:
        room = room_for_words(backbone, classes)
        if room < self.usual_length:
            self.notes = (f"{room} learned words instead of {self.usual_length}: {backbone.spec.name} holds no more",)
        return min(room, self.usual_length)

    def adaptation(self, backbone: Backbone, classes: Sequence[str]) -> Adaptation:
        if self.own_classes is not None and tuple(classes) != self.own_classes:
            raise UsageError(
                "a class-specific context fits the classes it was learned for alone, in their order; "
                f"got {len(classes)} others: {', '.join(map(str, classes[:3]))}, ... Learn a unified context for new classes"
            )
        return Adaptation(context=Context(self.context, position=self.position))

    def loss(
        self, backbone: Backbone, batch: Batch, attack: Attack, *, adaptation: Adaptation | None = None
    ) -> dict[str, Tensor]:
        adaptation = adaptation or self.adaptation(backbone, batch.classes)
        classifier = assemble(backbone, batch.classes, adaptation)
        if self.strategy == "perturbed":
            target = _AscendingPrompt(backbone, batch.classes, adaptation, self.prompt_step)
            adv = attack(target, batch.images, batch.labels, indices=batch.indices, loss=target.loss)
        else:
            constant = self.strategy == "constant"
            seen = _constant(backbone, batch.classes, adaptation, self.underscores) if constant else classifier.detached()
            adv = attack(seen, batch.images, batch.labels, indices=batch.indices)
        return {"adv_ce": cross_entropy(classifier(adv), batch.labels)}


@torch.no_grad()
def _constant(backbone: Backbone, classes: Sequence[str], adaptation: Adaptation, underscores: bool) -> AdaptedClassifier:
    """The classifier with the fixed template in place of the learned context."""
    made = assemble(backbone, classes, replace(adaptation, context=None, templates=(CONSTANT_TEMPLATE,)))
    if underscores:
        tokens = backbone.embed_text([CONSTANT_TEMPLATE.replace("{}", name.replace(" ", "_")) for name in classes])
        weights = resolve_weights(adaptation.text_weights, backbone.text_weight)
        made.text_features = normalize(backbone.encode_text(tokens, edits=adaptation.text_edits, weights=weights), dim=-1)
    return made


class _AscendingPrompt:
    """The function of an inner attack whose prompt takes an ascent step after every gradient step; the learned prompt stays as it
    is."""

    def __init__(self, backbone: Backbone, classes: Sequence[str], adaptation: Adaptation, step: float) -> None:
        assert adaptation.context is not None
        self.backbone, self.classes, self.adaptation, self.step = backbone, classes, adaptation, step
        self.words = adaptation.context.vectors.detach()

    def __call__(self, images: Tensor) -> Tensor:
        assert self.adaptation.context is not None
        self.words.requires_grad_(torch.is_grad_enabled())
        context = replace(self.adaptation.context, vectors=self.words)
        return assemble(self.backbone, self.classes, replace(self.adaptation, context=context))(images)

    def loss(self, logits: Tensor, labels: Tensor) -> Tensor:
        values = cross_entropy(logits, labels, reduction="none")
        if values.requires_grad:
            (slope,) = torch.autograd.grad(values.mean(), self.words, retain_graph=True)
            self.words = (self.words + self.step * slope).detach()
        return values


METHOD = APT
