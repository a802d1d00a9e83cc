"""Attacks in sequence: each gets the images that are still robust after the earlier ones."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from ironclip.attacks import inputs
from ironclip.attacks._catalogue import describe
from ironclip.attacks._goal import Best, Mode, clean_logits, scores
from ironclip.attacks._options import AttackOptions
from ironclip.core.losses import margin_each
from ironclip.core.types import Attack, Images


class InTurn(AttackOptions):
    """Base of an attack that is a sequence of others. Images [B, C, H, W]: misclassified ones where any member found one, else
    those of the largest margin.

    Its `mode` "compact": images that are broken, or misclassified from the start, go to no further member. "full": every member,
    every image.
    """

    mode: Mode
    eval_mode: bool

    @property
    def members(self) -> Mapping[str, Attack]:
        """The attacks by name, in the order in which they run."""
        raise NotImplementedError

    @property
    def derived(self) -> dict[str, Any]:
        """Constants that follow from the options: those of all members."""
        return {"members": {name: describe(member) for name, member in self.members.items()}}

    def perturb(self, function: Images, images: Tensor, labels: Tensor, positions: Tensor) -> Tensor:
        """See `AttackOptions.__call__`."""
        everyone = torch.arange(len(images), device=images.device)
        with inputs.borrowed(function, self.eval_mode):
            best = Best(images, labels, False)
            best.fooled = (clean_logits(function, images, labels, positions).argmax(1) != labels) & (self.mode == "compact")
            for member in self.members.values():
                rows = everyone if self.mode == "full" else everyone[~best.fooled]
                if not len(rows):
                    break
                adv = member(function, images[rows], labels[rows], indices=positions[rows])
                outputs = scores(function, adv)
                best.offer(rows, positions[rows], adv, outputs, margin_each(outputs, labels[rows]))
        return best.adv
