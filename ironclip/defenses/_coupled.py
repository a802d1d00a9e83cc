"""Coupled deep prompts: those of one tower learned, those of the other made from them layer by layer through linear maps.

Source: MaPLe (arXiv 2210.03117); FAP (arXiv 2403.14774), lionel-w2/FAP trainers/fap.py and trainers/advmaple.py.
"""

import copy
from collections.abc import Callable
from typing import Literal

import torch
from torch import Tensor, nn

from ironclip.backbones.words import first_word
from ironclip.core.errors import UnsupportedEdit
from ironclip.core.options import check_choice, check_flags, check_whole
from ironclip.core.types import Adaptation, Backbone, Context
from ironclip.defenses._blocks import AppendedPrompts, RenewedPrompts, check_depth, linear, literal_words, normal, starting_words
from ironclip.defenses._prompts import NINE

Direction = Literal["text2vision", "vision2text", "fap_code"]
DIRECTIONS: dict[str, Callable[[int], bool]] = {
    "text2vision": lambda layer: True,
    "vision2text": lambda layer: False,
    "fap_code": lambda layer: layer == 0,
}
"""Whether the text prompts of a layer are learned and mapped to the image tower; else the other way round."""


class CoupledPrompts(nn.Module):
    """J layers of P prompts in both towers: P D parameters per layer in one tower, and a map of (D_in + 1) D_out parameters to
    the other.

    ViT-B, P = 2, J = 9: 3,555,072 parameters for "text2vision", 3,557,120 for "fap_code". The first image prompts pass `ln_pre`;
    the first text prompts are the context, the words of `init` behind them stay.

    Args:
        length: P in either tower.
        depth: J; default: nine, or all layers of the shallower tower if it has fewer.
        init: the words before the class name; the first P of them become the first text prompts, where these are learned.
        direction: which prompts are learned: "text2vision" those of the text tower (MaPLe), "vision2text" those of the image
            tower (FAP's paper), "fap_code" the text tower's in the first layer and the image tower's in all others (FAP's code).
        literal_template: see `literal_words`; only up to four tokens, as the released code.

    Raises:
        UsageError: an option that cannot be right.
        UnsupportedEdit: the image tower has no token sequence.
    """

    def __init__(
        self,
        backbone: Backbone,
        *,
        length: int = 2,
        depth: int | None = None,
        init: str = "a photo of a",
        direction: Direction = "text2vision",
        literal_template: bool = False,
        generator: torch.Generator | None = None,
    ) -> None:
        super().__init__()
        spec = backbone.spec
        check_whole("length", length, 1)
        check_choice("direction", direction, tuple(DIRECTIONS))
        if not spec.image_tokens:
            raise UnsupportedEdit(f"{spec.name} has no token sequence to put prompts into; use a ViT backbone")
        if depth is None:
            depth = min(NINE, spec.image_layers, spec.text_layers)
        depth = check_depth(check_depth(depth, spec.text_layers, "text"), spec.image_layers, "image")
        self.image_layers, self.text_start = spec.image_layers, first_word(backbone)
        self.from_text = tuple(map(DIRECTIONS[direction], range(depth)))
        check_flags(literal_template=literal_template)
        self.position: Literal["end", "over"] = "over" if literal_template and length <= 4 else "end"
        if self.position == "over":
            context, self.template = literal_words(backbone, init, length)
        else:
            context, self.template = starting_words(backbone, init, length, generator)
        self.learned, self.maps = nn.ParameterList(), nn.ModuleList()
        for layer, from_text in enumerate(self.from_text):
            widths = (spec.text_width, spec.image_width) if from_text else (spec.image_width, spec.text_width)
            words = layer == 0 and from_text
            self.learned.append(context if words else normal(length, widths[0], generator=generator))
            # The maps of all layers behind the first start as copies of one [code].
            self.maps.append(copy.deepcopy(self.maps[1]) if layer > 1 else linear(*widths, generator=generator))
        self.to(backbone.device, backbone.dtype)

    def forward(self) -> tuple[Tensor, Tensor]:
        """Prompts of all layers, (text [J, P, D_t], image [J, P, D_v]), differentiable."""
        text, image = [], []
        for from_text, learned, mapping in zip(self.from_text, self.learned, self.maps, strict=True):
            mapped = mapping(learned)
            text.append(learned if from_text else mapped)
            image.append(mapped if from_text else learned)
        return torch.stack(text), torch.stack(image)

    def adaptation(self) -> Adaptation:
        text, image = self()
        return Adaptation(
            image_edits=(AppendedPrompts(image, self.image_layers),),
            context=Context(text[0], self.template, self.position),
            text_edits=(RenewedPrompts(text[1:], self.text_start),),
        )

    @torch.no_grad()
    def folded(self) -> dict[str, Tensor]:
        """The state of `IndependentPrompts` with the same adaptation: what is needed once the maps are learned."""
        text, image = self()
        return {"context": text[0], "text_prompts.tokens": text[1:], "image_prompts.tokens": image}
