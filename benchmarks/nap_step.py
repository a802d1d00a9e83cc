"""One training step of NAP (two inner steps of PGD) against the plain reference.

Plain: both towers written out layer by layer as in methods that fork CLIP: prompts and refiners over the whole context,
recomputed in every inner step, `.backward()` to every parameter. Lean: the same with CLIP's parameters frozen.
"""

import sys
from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from benchmarks import harness, plain, steps
from ironclip.attacks import PGD
from ironclip.defenses.nap import NAP

EPS = 1 / 255
ATTACK = PGD(EPS, step_size=EPS, steps=2, keep="last")


def measure(
    name: str,
    count: int,
    size: int,
    rounds: int,
    *,
    lean: bool = True,
    dtype: torch.dtype = torch.float32,
    tolerance: steps.Tolerance = steps.TOLERANCE,
) -> harness.Row:
    """Equality of loss, all learned gradients and adversarial pixels within `tolerance`, then the times (none for 0 rounds)."""
    models = plain.pair(name, dtype)
    classes = plain.class_names(count)
    batch, noise = plain.random_batch(models, classes, size)
    # The start of the refiners is the identity, where most gradients are zero.
    defense = steps.moved(NAP(models.backbone, classes, generator=torch.Generator().manual_seed(2)).to(dtype))
    runs = steps.paths(models, batch, noise, defense, ATTACK, lambda model: PlainNap(model, defense, classes))
    row = harness.Row("NAP step", f"{name}, C={count}, B={size}")
    return steps.measured(row, runs, rounds, lean=lean, tolerance=tolerance)


class PlainNap(plain.PlainDeep):
    """NAP-Tuning's two towers with copies of what the defence has learned (arXiv 2506.12706; full prompt depth)."""

    before_ln_pre = False

    def __init__(self, model: Any, defense: NAP, classes: Sequence[str]) -> None:
        assert defense.context is not None
        super().__init__(model, defense.context, dict(defense.named_parameters()), classes, defense.template)

    def prompts(self, side: str, layer: int) -> Tensor:
        if side == "image":
            return self.learned["image_prompts.tokens"][layer]
        return self.learned["text_prompts.tokens"][layer - 1] if layer else self.learned["context"]

    def refine(self, side: str, layer: int, tokens: Tensor) -> Tensor:
        first, second = (f"{side}_refiners.refiners.{layer}.net.{i}" for i in (0, 2))
        hidden = F.gelu(F.linear(tokens, self.learned[f"{first}.weight"], self.learned[f"{first}.bias"]))
        return tokens + F.linear(hidden, self.learned[f"{second}.weight"], self.learned[f"{second}.bias"])


rows = steps.each(measure)


def main(argv: Sequence[str] | None = None) -> int:
    return harness.main(rows, __doc__ or "", argv)


if __name__ == "__main__":
    sys.exit(main())
