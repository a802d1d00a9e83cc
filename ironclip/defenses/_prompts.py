"""Independent deep prompts: a context and deeper text prompts, image prompts, or both, each learned for itself."""

import torch
from torch import nn

from ironclip.backbones.words import first_word
from ironclip.core.errors import UnsupportedEdit
from ironclip.core.options import check_choice, check_whole
from ironclip.core.types import Adaptation, Backbone, Context
from ironclip.defenses._blocks import ImagePrompts, TextPrompts, check_depth, starting_words

NINE = 9
"""The prompted layers of MaPLe and of the codes that follow it."""
SIDES = ("both", "text", "image")


def depth_or_nine(depth: int | None, layers: int, tower: str) -> int:
    """The number of prompted layers: nine by default, or all of a tower that has fewer."""
    return check_depth(min(NINE, layers) if depth is None else depth, layers, tower)


class IndependentPrompts(nn.Module):
    """Prompts in both towers or in one.

    Source: AdvVLP in lionel-w2/FAP (trainers/advivlp.py), and MaPLe's independent variant. The first image prompts pass
    `ln_pre`; the first text prompts are the learned context, the words of `init` behind them stay.

    Args:
        sides: "both", "text" or "image".
        text_length, text_depth: of the text tower; default: those of the image tower.
    """

    def __init__(
        self,
        backbone: Backbone,
        *,
        length: int = 2,
        depth: int | None = None,
        text_length: int | None = None,
        text_depth: int | None = None,
        init: str = "a photo of a",
        sides: str = "both",
        generator: torch.Generator | None = None,
    ) -> None:
        super().__init__()
        check_choice("sides", sides, SIDES)
        words = length if text_length is None else text_length
        check_whole("length", length, 1)
        check_whole("text_length", words, 1)
        spec = backbone.spec
        self.image_prompts: ImagePrompts | None = None
        self.context: nn.Parameter | None = None
        self.text_prompts: TextPrompts | None = None
        self.template = init if "{}" in init else f"{init} {{}}."
        if sides != "text":
            if not spec.image_tokens:
                raise UnsupportedEdit(
                    f"{spec.name} has no token sequence to put prompts into; use a ViT backbone, or text prompts"
                )
            image = depth_or_nine(depth, spec.image_layers, "image")
            self.image_prompts = ImagePrompts(
                image, length, spec.image_width, layers=spec.image_layers, before_ln_pre=True, generator=generator
            )
        if sides != "image":
            text = depth_or_nine(depth if text_depth is None else text_depth, spec.text_layers, "text")
            self.context, self.template = starting_words(backbone, init, words, generator)
            self.text_prompts = TextPrompts(text, words, spec.text_width, start=first_word(backbone), generator=generator)

    def adaptation(self) -> Adaptation:
        image = () if self.image_prompts is None else (self.image_prompts,)
        if self.context is None or self.text_prompts is None:
            return Adaptation(image_edits=image, templates=(self.template,))
        return Adaptation(
            image_edits=image, context=Context(self.context, template=self.template), text_edits=(self.text_prompts,)
        )
