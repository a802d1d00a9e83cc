"""FAP: few-shot adversarial prompt learning with a consistency term weighted by the similarity of both views.

Source: arXiv 2403.14774 (NeurIPS 2024); official code lionel-w2/FAP. [paper]: coupled deep prompts in both towers of a plain
CLIP, cross-entropy on clean images, and KL(clean || adversarial) of the predictions times (1 + cosine of the image features of
both views), whose minimisation also drives these features apart. [code]: the weight 1.5, two prompts in nine layers, the
coupling, and an inner attack on the KL divergence.

Learned: `prompts.learned`, J tensors [P, D], and `prompts.maps`, one linear map per layer. Deviations: the paper couples all
layers from image to text, the released code couples the first one from text to image; we follow the code (`direction`). The class
name stands in the template instead of behind it with the braces left in [code: `literal_template`]. Inner steps do not compute
the clean branch and the text features again (exact), and run in float32.

Equations, z and z' the image features of x and x', p = softmax(s cos(z, T)) and p' likewise:

    L = CE(p, y) + lambda (cos(z, z') + 1) KL(p || p')
    x' = argmax_{||x' - x|| <= eps} KL(p || p')
"""

from collections.abc import Sequence
from typing import Literal

import torch

from ironclip.core.options import check_choice
from ironclip.core.types import Backbone
from ironclip.defenses._coupled import CoupledPrompts, Direction
from ironclip.defenses._families import Objective, PromptTuning


class FAP(PromptTuning):
    """Coupled prompts and L = CE(clean) + weight * mean( KL(clean || adversarial) (1 + cos) ).

    Args:
        length: P, prompts per layer in either tower.
        depth: J, prompted layers; default: nine, or all layers of the shallower tower if it has fewer.
        direction: which prompts are learned and which are mapped: "fap_code", "vision2text" (paper) or "text2vision" (MaPLe).
        weight: lambda of the consistency term; the published runs use 1.5.
        term: the consistency term: "cos"; "kl" without the weight by feature similarity; "mae", "mse": the code's variants.
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
        direction: Direction = "fap_code",
        weight: float = 1.5,
        term: Literal["cos", "kl", "mae", "mse"] = "cos",
        init: str = "a photo of a",
        literal_template: bool = False,
        generator: torch.Generator | None = None,
    ) -> None:
        check_choice("term", term, ("cos", "kl", "mae", "mse"))
        objective = Objective(term, weight)
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


METHOD = FAP
