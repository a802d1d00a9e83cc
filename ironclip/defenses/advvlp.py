"""AdvVLP: independent prompts in both towers, trained on adversarial images.

Source: the baseline of FAP (lionel-w2/FAP trainers/advindependentVL.py: every image attacked) and of
xinwong/Multimodal-Adversarial-Prompt-Tuning (AdvIVLP: the second half of every batch attacked). Learned: `prompts.context`
[P, D_t], `prompts.text_prompts` [J-1, P, D_t] and `prompts.image_prompts` [J, P, D_v]; 23,040 parameters for ViT-B, P = 2, J = 9.

Equations, f and T the towers with their own prompts in the first J blocks:

    L = weight CE(s cos(f(x'), T), y),  x' = argmax_{||x' - x|| <= eps} CE(s cos(f(x'), T), y)
"""

from collections.abc import Sequence
from typing import Literal

import torch

from ironclip.core.options import check_choice
from ironclip.core.types import Backbone
from ironclip.defenses._families import Mix, Objective, PromptTuning, Term
from ironclip.defenses._prompts import IndependentPrompts


class AdvVLP(PromptTuning):
    """Independent prompts and cross-entropy on adversarial images.

    Args:
        length: P, prompts per layer in either tower.
        depth: J, prompted layers; default: nine, or all layers of a tower that has fewer.
        text_length, text_depth: the same of the text tower, where they differ.
        sides: "both" towers, or "text" alone (no image prompts; the image tower may then be any).
        mix: attacked images of a batch: "full" (FAP's code), "half" (the group's code) or "clean" (IVLP itself).
        term: "ce"; "kl" is TRADES; "cos", "mae" and "mse": the consistency terms of FAP's code.
        weight: factor of the adversarial term.
        init: the words before the class name, or a template with {}; the first P tokens become the first text prompts.
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
        sides: Literal["both", "text"] = "both",
        mix: Mix = "full",
        term: Term = "ce",
        weight: float = 1.0,
        init: str = "a photo of a",
        generator: torch.Generator | None = None,
    ) -> None:
        check_choice("sides", sides, ("both", "text"))
        objective = Objective(term, weight, mix)
        prompts = IndependentPrompts(
            backbone, length=length, depth=depth, text_length=text_length, text_depth=text_depth, init=init, sides=sides,
            generator=generator,
        )  # fmt: skip
        super().__init__(backbone, classes, prompts, objective)


METHOD = AdvVLP
