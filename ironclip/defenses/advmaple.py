"""AdvMaPLe: MaPLe's coupled prompts, trained on adversarial images.

Source: MaPLe (arXiv 2210.03117); the baselines of FAP (lionel-w2/FAP trainers/advmaple.py: every image attacked) and of
xinwong/Multimodal-Adversarial-Prompt-Tuning (the second half of every batch attacked). Learned as in FAP: `prompts.learned` and
`prompts.maps`; 3,555,072 parameters for ViT-B in MaPLe's direction. Deviations: MaPLe's direction, text to image, where FAP's
repository has its own [code: `direction="fap_code"`, 3,557,120 parameters], and the class name stands in the template [code:
`literal_template`].

Equations, p_j the learned prompts of layer j and h_j their linear maps, f and T the towers with both:

    image prompts of layer j: h_j(p_j), text prompts: p_j
    L = CE(s cos(f(x'), T), y),  x' = argmax_{||x' - x|| <= eps} CE(s cos(f(x'), T), y)
"""

from collections.abc import Sequence

import torch

from ironclip.core.types import Backbone
from ironclip.defenses._coupled import CoupledPrompts, Direction
from ironclip.defenses._families import Mix, Objective, PromptTuning, Term


class AdvMaPLe(PromptTuning):
    """Coupled prompts and cross-entropy on adversarial images.

    Args:
        length: P, prompts per layer in either tower.
        depth: J, prompted layers; default: nine, or all layers of the shallower tower if it has fewer.
        direction: which prompts are learned and which are mapped: "text2vision" (MaPLe), "fap_code" or "vision2text".
        mix: attacked images of a batch: "full" (FAP's code), "half" (the group's code) or "clean" (MaPLe itself).
        term: "ce"; "kl" is TRADES; "cos", "mae" and "mse" as in FAP.
        weight: factor of the adversarial term.
        init: the words before the class name, or a template with {}; the first P tokens become the first text prompts.
        literal_template: {} in `init` stays in the prompt as two braces and the class name comes behind [code].
    """

    def __init__(
        self,
        backbone: Backbone,
        classes: Sequence[str],
        *,
        length: int = 2,
        depth: int | None = None,
        direction: Direction = "text2vision",
        mix: Mix = "full",
        term: Term = "ce",
        weight: float = 1.0,
        init: str = "a photo of a",
        literal_template: bool = False,
        generator: torch.Generator | None = None,
    ) -> None:
        objective = Objective(term, weight, mix)
        prompts = CoupledPrompts(
            backbone,
            length=length,
            depth=depth,
            init=init,
            direction=direction,
            literal_template=literal_template,
            generator=generator,
        )
        super().__init__(backbone, classes, prompts, objective)


METHOD = AdvMaPLe
