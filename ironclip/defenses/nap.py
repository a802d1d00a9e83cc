"""NAP-Tuning: prompts in both towers at every layer, and a TokenRefiner in front of every block that corrects each token.

Source: arXiv 2506.12706 (v2: IEEE TPAMI 2026); no official code was found, so results are "our NAP-Tuning". [paper]: two-layer
residual refiners, one per layer and modality, in front of the concatenation with the layer's prompts; full prompt depth;
adversarial cross-entropy alone (eq. 6); CLIP frozen. [inferred], all options: refiner width, activation, norm and start, prompt
length, the layer norm that the first prompts see, and the mixing of clean images.

Learned: `image_prompts` [J, P, D], `context` [P, D] and `text_prompts` [J-1, P, D], and the refiners of either tower.

Equations, e_l the tokens in front of block l, P_l its prompts, R_l its refiner with the weights A_l, B_l:

    R_l(e) = e + B_l act(A_l e)
    [e_{l+1}, _] = Block_l([R_l(e_l), P_l])
    L = CE(s cos(f(x'), T), y)  (eq. 6)
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from ironclip.backbones import AdaptedClassifier, assemble
from ironclip.backbones.words import first_word
from ironclip.core.errors import UnsupportedEdit, UsageError
from ironclip.core.options import check_choice, check_number, check_whole
from ironclip.core.tensors import generator as keyed
from ironclip.core.types import Adaptation, Attack, Backbone, Batch, Classifier, Context, Defense, check_classes
from ironclip.defenses import _nap_attacks
from ironclip.defenses._blocks import (
    ACTIVATIONS,
    ImagePrompts,
    Refiners,
    TextPrompts,
    TokenRefiner,
    check_depth,
    starting_words,
)
from ironclip.defenses._radii import attacked, check_radii

CHOICES: dict[str, tuple[str, ...]] = {
    "activation": tuple(ACTIVATIONS),
    "pre_norm": ("none", "layernorm"),
    "share": ("none", "all"),
    "sides": ("both", "image", "text"),
    "first_prompt": ("after_ln_pre", "before_ln_pre"),
    "mix": ("both", "half_batch"),
    "strength": ("fixed", "tokens"),
}
_DROPOUT = 104  # keeps the draws of dropout apart from those that attacks and data key by the same indices


class NAP(Defense):
    """Multi-modal deep prompts with token refiners.

    Args:
        length: P, prompts per layer and tower.
        depth: J, prompted layers; default: all layers of each tower; 0: no prompts, refiners alone.
        text_length, text_depth: the same of the text tower, where they differ.
        refiner_layers: linear layers of a refiner; 0: no refiners.
        hidden_ratio: hidden width of a refiner over the token width.
        activation: between the layers of a refiner.
        pre_norm: norm in front of a refiner.
        share: one refiner per layer ("none") or one for all layers of a tower ("all").
        sides: towers that have refiners; both keep their prompts.
        first_prompt: attach the first image prompts after `ln_pre` (refine, then concatenate) or before it (AdvVLP).
        adv_weight: w in (1 - w) CE(clean) + w CE(adversarial); 1 is eq. 6.
        residual_scale: factor of a refiner's correction.
        mix: "both" views of every image by `adv_weight`, or "half_batch": the first half clean, the second adversarial.
        refiner_lr_mult: learning rate of the refiners over that of the prompts.
        refiner_decay: weight decay of the refiners; default: that of the schedule.
        dropout: share of a refiner's last hidden units that is left out in a training step, for all tokens and in its attack;
            ours, against overfitting to few shots.
        strength: "fixed", or "tokens": the tokens of each image set the strength of the image tower's refiners; ours.
        radii: shares of eps at which the parts of every batch are attacked, in turn; 0: clean. Ours, for `strength=tokens`.
        init: the words before the class name; the first P of them become the text prompts of the first layer.
    """

    def __init__(
        self,
        backbone: Backbone,
        classes: Sequence[str],
        *,
        length: int = 2,
        depth: int | None = None,
        text_length: int | None = None,
        text_depth: int | None = None,
        refiner_layers: int = 2,
        hidden_ratio: float = 1.0,
        activation: str = "gelu",
        pre_norm: str = "none",
        share: str = "none",
        sides: str = "both",
        residual_scale: float = 1.0,
        first_prompt: Literal["after_ln_pre", "before_ln_pre"] = "after_ln_pre",
        adv_weight: float = 1.0,
        mix: str = "both",
        refiner_lr_mult: float = 1.0,
        refiner_decay: float | None = None,
        dropout: float = 0.0,
        strength: str = "fixed",
        radii: Sequence[float] = (1.0,),
        init: str = "a photo of a",
        generator: torch.Generator | None = None,
    ) -> None:
        super().__init__()
        classes = check_classes(classes)
        given = {"activation": activation, "pre_norm": pre_norm, "share": share, "sides": sides, "strength": strength}
        for option, value in {**given, "first_prompt": first_prompt, "mix": mix}.items():
            check_choice(option, value, CHOICES[option])
        words = length if text_length is None else text_length
        check_whole("length", length, 1)
        check_whole("text_length", words, 1)
        if depth == 0 and text_depth is not None:
            raise UsageError("depth=0 leaves both towers without prompts; leave out text_depth")
        check_whole("refiner_layers", refiner_layers, 0)
        check_number("hidden_ratio", hidden_ratio, 0, above=True)
        check_number("residual_scale", residual_scale, 0, above=True)
        check_number("adv_weight", adv_weight, 0, 1)
        check_number("refiner_lr_mult", refiner_lr_mult, 0, above=True)
        check_number("dropout", dropout, 0, 0.9)
        if refiner_decay is not None:
            check_number("refiner_decay", refiner_decay, 0)
        self.radii = check_radii(radii)
        if mix == "half_batch" and (adv_weight != 1 or self.radii != (1.0,)):
            raise UsageError("mix='half_batch' fixes the share of adversarial images; leave out adv_weight and radii")
        if dropout and refiner_layers < 2:
            raise UsageError(f"dropout leaves out hidden units, which refiners of at least two layers have; got {refiner_layers}")
        if strength == "tokens" and (refiner_layers == 0 or sides == "text"):
            raise UsageError("strength='tokens' is that of refiners in the image tower; there are none")
        if depth == 0 and refiner_layers == 0:
            raise UsageError("depth=0 and refiner_layers=0 leave nothing to learn; use zero_shot")
        spec = backbone.spec
        if not spec.image_tokens:
            raise UnsupportedEdit(f"{spec.name} has no token sequence to put prompts and refiners into; use a ViT backbone")
        self.adv_weight, self.mix, self.refiner_lr_mult = adv_weight, mix, refiner_lr_mult
        self.refiner_decay, self.dropout = refiner_decay, dropout
        self.image_tokens = spec.image_tokens
        self.image_prompts: ImagePrompts | None = None
        self.text_prompts: TextPrompts | None = None
        self.context: nn.Parameter | None = None
        self.template, deep, start = f"{init} {{}}.", 0, first_word(backbone)
        if depth != 0:
            image_depth = check_depth(depth, spec.image_layers, "image")
            deep = check_depth(depth if text_depth is None else text_depth, spec.text_layers, "text")
            before = first_prompt == "before_ln_pre"
            self.image_prompts = ImagePrompts(
                image_depth, length, spec.image_width, layers=spec.image_layers, before_ln_pre=before, generator=generator
            )
            self.context, self.template = starting_words(backbone, init, words, generator)
            self.text_prompts = TextPrompts(deep, words, spec.text_width, start=start, generator=generator)

        def refiners(side: str, width: int, layers: int, **scope: int) -> Refiners:
            here = refiner_layers > 0 and sides in ("both", side)
            count = (1 if share == "all" else layers) if here else 0
            hidden = max(1, round(width * hidden_ratio))
            options: dict[str, Any] = {"activation": activation, "pre_norm": pre_norm, "scale": residual_scale}
            options["gated"] = strength == "tokens" and side == "image"
            made = [TokenRefiner(width, hidden, layers=refiner_layers, generator=generator, **options) for _ in range(count)]
            return Refiners(made, layers, **scope)

        self.image_refiners = refiners("image", spec.image_width, spec.image_layers, count=self.image_tokens)
        self.text_refiners = refiners(
            "text", spec.text_width, spec.text_layers, start=start, skip=words if deep else 0, depth=deep
        )
        self.to(backbone.device, backbone.dtype)
        with torch.no_grad():  # fails here, not in the first step, if the prompts are too long for the context
            assemble(backbone, classes, self.adaptation(backbone, classes))

    def adaptation(self, backbone: Backbone, classes: Sequence[str]) -> Adaptation:
        refine_image = (self.image_refiners,) if len(self.image_refiners.refiners) else ()
        refine_text = (self.text_refiners,) if len(self.text_refiners.refiners) else ()
        if self.context is None or self.image_prompts is None or self.text_prompts is None:
            return Adaptation(image_edits=refine_image, templates=(self.template,), text_edits=refine_text)
        return Adaptation(
            image_edits=(*refine_image, self.image_prompts),
            context=Context(self.context, template=self.template),
            text_edits=(*refine_text, self.text_prompts),
        )

    def loss(
        self, backbone: Backbone, batch: Batch, attack: Attack, *, adaptation: Adaptation | None = None
    ) -> dict[str, Tensor]:
        with self._dropped(batch):
            return self._terms(backbone, batch, attack, adaptation)

    def _terms(self, backbone: Backbone, batch: Batch, attack: Attack, adaptation: Adaptation | None) -> dict[str, Tensor]:
        adaptation = adaptation or self.adaptation(backbone, batch.classes)
        classifier = assemble(backbone, batch.classes, adaptation)
        images, labels = batch.images, batch.labels
        if self.mix == "half_batch":
            half = len(images) // 2
            adv = attack(classifier.detached(), images[half:], labels[half:], indices=batch.indices[half:])
            return {"half_ce": cross_entropy(classifier(torch.cat([images[:half], adv])), labels)}
        adv = attacked(classifier.detached(), batch, attack, self.radii)
        terms = {"adv_ce": self.adv_weight * cross_entropy(classifier(adv), labels)}
        if self.adv_weight < 1:
            terms["clean_ce"] = (1 - self.adv_weight) * cross_entropy(classifier(images), labels)
        return terms

    def parameter_groups(self, lr: float) -> list[dict[str, Any]]:
        refiners = [*self.image_refiners.parameters(), *self.text_refiners.parameters()]
        mine = {id(p) for p in refiners}
        prompts = [p for p in self.parameters() if id(p) not in mine]
        groups = [{"params": prompts, "lr": lr}, {"params": refiners, "lr": lr * self.refiner_lr_mult}]
        if self.refiner_decay is not None:
            groups[1]["weight_decay"] = self.refiner_decay
        return [group for group in groups if group["params"]]

    def surrogates(self, classifier: Classifier) -> tuple[Classifier, ...]:
        """The refiners bypassed, their gradient bypassed, and the tokens that they refine (see `_nap_attacks`)."""
        if not isinstance(classifier, AdaptedClassifier):
            raise UsageError("the surrogates of nap stand on the classifier that `assemble` makes; got another one")
        if not len(self.image_refiners.refiners):
            return ()
        return _nap_attacks.of_refiners(classifier, self.image_refiners, self.image_tokens)

    @contextmanager
    def _dropped(self, batch: Batch) -> Iterator[None]:
        """Inside, refiners leave out a share of their hidden units; the draw is keyed by the images of the batch."""
        refiners = [*self.image_refiners.refiners, *self.text_refiners.refiners] if self.dropout and self.training else []
        draw = keyed(_DROPOUT, *batch.indices.tolist())
        try:
            for refiner in refiners:
                kept = torch.rand(refiner.hidden, generator=draw) >= self.dropout
                refiner.kept = (kept / (1 - self.dropout)).to(batch.images)
            yield
        finally:
            for refiner in refiners:
                refiner.kept = None


METHOD = NAP
