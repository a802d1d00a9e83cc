"""One engine for adversarial fine-tuning of the image tower; a method adds its loss.

Learned are replacements of named weights, or low-rank changes of them. They enter as `Adaptation.image_weights`, so the borrowed
backbone stays as it is and fine-tuning composes with prompts and masks. Gradients flow to the pixels alone in the inner
attack: the released codes of TeCoA, TGA-ZSR and PMG-AFT let it add to the gradients of the weights [code].
"""

import copy
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ironclip.backbones import AdaptedClassifier, assemble
from ironclip.backbones.prompts import fill
from ironclip.core.errors import UsageError
from ironclip.core.merging import resolve_weights
from ironclip.core.options import check_number, check_whole
from ironclip.core.types import Adaptation, Backbone, Defense, Images, check_classes
from ironclip.defenses._lora import LowRank
from ironclip.defenses._named import Replaced, select

TEMPLATE = "This is a photo of a {}"
"""The prompt of TeCoA, TGA-ZSR, PMG-AFT and of FARE's TeCoA, without a full stop [code]."""


@dataclass(frozen=True)
class Fixed:
    """What a method fixes, beside the options that all fine-tuning methods have.

    Args:
        text_tune: weights of the text tower that are learned; None: the text tower is not trained, as in most papers.
        pixels: applied to the images first, before the tuned and before the original model.
        adapter: a method's own low-rank changes of the tuned weights.
    """

    text_tune: str | Sequence[str] | None = None
    pixels: tuple[Images, ...] = ()
    adapter: Callable[[Mapping[str, Tensor]], LowRank] | None = None


class FineTuning(Defense):
    """What the fine-tuning methods share: which weights are learned, and how they reach the towers.

    In eval mode (the initial mode) its weights are (1 - k) base + k tuned.

    Args:
        tune: weights of the image tower that are learned: groups of `_named.GROUPS`, "last_<blocks>", or patterns over names.
        interpolation: k above, WiSE-FT's coefficient (arXiv 2109.01903; `mix_alpha` in TeCoA's code); training does not see it.
        lora_rank: learn changes of this rank of the layers' matrices among those weights; 0: the weights themselves.
        lora_alpha: the low-rank change is scaled by lora_alpha / lora_rank; default: by 1.
        lr_mult: learning rate of these weights divided by the run's, for a stack whose prompts need a larger one.
        templates: prompts with `{}` for the class name; several are averaged. The first stands in for captions that the data do
            not have, in methods that learn from captions.
    """

    def __init__(
        self,
        backbone: Backbone,
        classes: Sequence[str],
        fixed: Fixed = Fixed(),
        *,
        tune: str | Sequence[str] = "all",
        interpolation: float = 1.0,
        lora_rank: int = 0,
        lora_alpha: float | None = None,
        lr_mult: float = 1.0,
        templates: Sequence[str] = (TEMPLATE,),
        generator: torch.Generator | None = None,
    ) -> None:
        super().__init__()
        classes = check_classes(classes)
        check_number("interpolation", interpolation, 0, 1)
        check_whole("lora_rank", lora_rank, 0)
        if lora_alpha is not None:
            check_number("lora_alpha", lora_alpha, 0, above=True)
            if not lora_rank:
                raise UsageError("lora_alpha scales low-rank changes; set lora_rank, or leave it out")
        check_number("lr_mult", lr_mult, 0, above=True)
        self.interpolation, self.lr_mult, self.pixels = interpolation, lr_mult, tuple(fixed.pixels)
        self.templates = (templates,) if isinstance(templates, str) else tuple(templates)
        if not self.templates:
            raise UsageError("templates must hold at least one prompt with {} for the class name; got none")
        for template in self.templates:
            backbone.tokenize(fill(template, classes))  # fails here, not in the first step, where a prompt does not fit

        spec, text_tune, adapter = backbone.spec, fixed.text_tune, fixed.adapter
        text = text_tune is not None
        names = select(spec.image_parameters, tune)
        text_names = select(spec.text_parameters, text_tune) if text_tune is not None else ()
        if lora_rank:
            names = tuple(name for name in names if name in spec.image_weights)
            text_names = tuple(name for name in text_names if name in spec.text_weights)
        if not names or (text and not text_names):
            raise UsageError("lora_rank changes matrices inside the layers; there is none among the weights to tune")

        def learned(base: Mapping[str, Tensor]) -> Replaced | LowRank:
            if adapter is not None:
                return adapter(base)
            scale = 1.0 if lora_alpha is None else lora_alpha / lora_rank
            return LowRank(base, rank=lora_rank, scale=scale, generator=generator) if lora_rank else Replaced(base)

        self.image = learned({name: backbone.image_weight(name) for name in names})
        self.text = learned({name: backbone.text_weight(name) for name in text_names}) if text else None
        self._original = Original(Adaptation(templates=self.templates, pixels=fixed.pixels))
        self.to(backbone.device, backbone.dtype)
        self.eval()

    def adaptation(self, backbone: Backbone, classes: Sequence[str]) -> Adaptation:
        return Adaptation(
            pixels=self.pixels,
            image_weights=self._values(self.image, backbone.image_weight),
            templates=self.templates,
            text_weights={} if self.text is None else self._values(self.text, backbone.text_weight),
        )

    def parameter_groups(self, lr: float) -> list[dict[str, Any]]:
        return [{"params": list(self.parameters()), "lr": lr * self.lr_mult}]

    def classifier(self, backbone: Backbone, classes: Sequence[str], whole: Adaptation | None) -> AdaptedClassifier:
        """The tuned classifier f, differentiable; `whole` is that of a stack. A fixed text tower is not run again."""
        if whole is not None or self.text is not None:
            return assemble(backbone, classes, whole or self.adaptation(backbone, classes))
        tuned = copy.copy(self.original(backbone, classes))
        tuned.adaptation = self.adaptation(backbone, classes)
        tuned.image_weights = resolve_weights(tuned.adaptation.image_weights, backbone.image_weight)
        return tuned

    def original(self, backbone: Backbone, classes: Sequence[str]) -> AdaptedClassifier:
        """The classifier f0 before tuning, frozen: the guide of the losses that have one."""
        return self._original(backbone, tuple(classes))

    def _values(self, learned: Replaced | LowRank, weight: Callable[[str], Tensor]) -> dict[str, Tensor]:
        base = {name: weight(name) for name in learned.names}
        tuned = learned.values(base)
        if self.training or self.interpolation == 1:
            return tuned
        return {name: torch.lerp(base[name], value, self.interpolation) for name, value in tuned.items()}


class Original:
    """The classifier before tuning, made once per list of classes. It is no module, because it is not learned."""

    def __init__(self, adaptation: Adaptation) -> None:
        self.adaptation = adaptation
        self.made: AdaptedClassifier | None = None

    def __call__(self, backbone: Backbone, classes: tuple[str, ...]) -> AdaptedClassifier:
        made = self.made
        fits = made is not None and made.backbone is backbone and made.classes == classes
        if made is None or not fits or made.text_features.device != backbone.device:
            with torch.no_grad():
                made = self.made = assemble(backbone, classes, self.adaptation)
        return made
