"""HEP, the hand-engineered prompt: zero-shot with APT's fixed template on the given (robust) backbone.

Source: the baseline of APT (arXiv 2403.01849); "a photo of a {}" without a full stop for every data set [code:
TreeLLi/APT apt/evaluate.py]. Learns nothing.

Equations: those of `zero_shot` with one template.
"""

from collections.abc import Sequence

import torch

from ironclip.core.types import Backbone
from ironclip.defenses.zero_shot import ZeroShot

TEMPLATE = "a photo of a {}"


class HEP(ZeroShot):
    """Zero-shot with `TEMPLATE`."""

    def __init__(
        self,
        backbone: Backbone,
        classes: Sequence[str],
        *,
        templates: Sequence[str] = (TEMPLATE,),
        generator: torch.Generator | None = None,
    ) -> None:
        super().__init__(backbone, classes, templates=templates, generator=generator)


METHOD = HEP
