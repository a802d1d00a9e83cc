"""Deep prompts as values: tokens that are renewed in front of several layers, in either tower. Each is an Edit."""

from dataclasses import dataclass, replace
from typing import ClassVar

import torch
from torch import Tensor


@dataclass(frozen=True, eq=False)
class AppendedPrompts:
    """An Edit: tokens appended to the image sequence and renewed at each of the first J layers.

    Source: VPT-deep as in lionel-w2/FAP clip/model.py. After layer J the last outputs stay as extra tokens; at layer L they are
    dropped, so that towers that pool over all tokens pool the image alone.

    Args:
        prompts: [J, P, D] for all images, or [J, B, P, D] with prompts per image.
        layers: L of the tower.
        before_ln_pre: attach the first prompts before `ln_pre`, so that it normalises them too [code]; else after it.
    """

    prompts: Tensor
    layers: int
    before_ln_pre: bool = True
    changes_output: ClassVar[bool] = False
    appends: ClassVar[bool] = True

    def __call__(self, layer: int, tokens: Tensor) -> Tensor:
        depth, length = len(self.prompts), self.prompts.shape[-2]
        first = -1 if self.before_ln_pre else 0
        if layer == self.layers:
            return tokens[:, :-length]
        if layer < first or layer >= depth or (layer == 0 and first == -1):
            return tokens
        kept = tokens if layer == first else tokens[:, :-length]
        return torch.cat([kept, self.prompts[max(layer, 0)].expand(tokens.shape[0], -1, -1)], dim=1)

    def detached(self) -> "AppendedPrompts":
        return replace(self, prompts=self.prompts.detach())


@dataclass(frozen=True, eq=False)
class RenewedPrompts:
    """An Edit: the P positions of the first words of the text sequence renewed at layers 1 .. J-1.

    The prompts of layer 0 are the learned context (`Adaptation.context`), to which positions are added.
    Source: MaPLe's text side as in lionel-w2/FAP clip/model.py.

    Args:
        prompts: [J-1, P, D].
        start: position of the first word (`words.first_word`): 1 after a start token, 0 where the tokenizer has none.
    """

    prompts: Tensor
    start: int
    changes_output: ClassVar[bool] = False

    @property
    def reach(self) -> int:
        return self.start + self.prompts.shape[1]

    def __call__(self, layer: int, tokens: Tensor) -> Tensor:
        if not 1 <= layer <= len(self.prompts):
            return tokens
        fresh = self.prompts[layer - 1].expand(tokens.shape[0], -1, -1)
        return torch.cat([tokens[:, : self.start], fresh, tokens[:, self.reach :]], dim=1)
