"""AdvVPT: deep image prompts alone, trained on adversarial images.

Source: xinwong/Multimodal-Adversarial-Prompt-Tuning (trainers/advvpt.py), the "AdvVP" of TAPT, APD and NAP-Tuning; not the pixel
frame that TeCoA, APT and FAP call by that name (see `avp_pixel`). Learned: `prompts.image_prompts` [J, P, D_v]; 13,824 parameters
for ViT-B, P = 2, J = 9. The text side is a fixed template. Deviation: every image is attacked, as in the other baselines here,
where the code attacks the second half of every batch [code: `mix="half"`].

Equations, P_j the image prompts of block j, f the image tower with them, T the text features of the template:

    [e_{j+1}, _] = Block_j([e_j, P_j]),  j < J
    L = CE(s cos(f(x'), T), y),  x' = argmax_{||x' - x|| <= eps} CE(s cos(f(x'), T), y)
"""

from collections.abc import Sequence

import torch

from ironclip.core.types import Backbone
from ironclip.defenses._families import Mix, Objective, PromptTuning
from ironclip.defenses._prompts import IndependentPrompts


class AdvVPT(PromptTuning):
    """Image prompts and cross-entropy on a batch of clean and adversarial images.

    Args:
        length: P, prompts per layer.
        depth: J, prompted layers; default: nine, or all layers of a tower that has fewer.
        mix: attacked images of a batch: "full", "half" (the published configurations) or "clean" (VPT itself).
        init: the words before the class name, or a template with {}.
    """

    def __init__(
        self,
        backbone: Backbone,
        classes: Sequence[str],
        *,
        length: int = 2,
        depth: int | None = None,
        mix: Mix = "full",
        init: str = "a photo of a",
        generator: torch.Generator | None = None,
    ) -> None:
        objective = Objective("ce", mix=mix)
        prompts = IndependentPrompts(backbone, length=length, depth=depth, init=init, sides="image", generator=generator)
        super().__init__(backbone, classes, prompts, objective)


METHOD = AdvVPT
