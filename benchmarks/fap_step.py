"""One training step of FAP (two inner steps on KL) against the plain reference.

Plain: as the released code has it (lionel-w2/FAP, trainers/fap.py and attack/pgd.py), in float32: both the clean and the
adversarial branch through both towers in every inner step, prompts over the whole context, `.backward()` to every parameter.
Lean: the same with CLIP's parameters frozen.
"""

import sys
from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from benchmarks import harness, plain, steps
from ironclip.attacks import PGD
from ironclip.core.types import Batch
from ironclip.defenses.fap import FAP

EPS = 1 / 255
ATTACK = PGD(EPS, step_size=EPS, steps=2, keep="last")
TARGETS = {("vitb32", 10): 3.5, ("vitb32", 100): 20.0}
TOLERANCE: steps.Tolerance = (1e-5, 2e-4, 1e-3)
WEIGHT = 1.5


def measure(
    name: str,
    count: int,
    size: int,
    rounds: int,
    *,
    lean: bool = True,
    dtype: torch.dtype = torch.float32,
    tolerance: steps.Tolerance = TOLERANCE,
) -> harness.Row:
    """Equality of loss, all learned gradients and adversarial pixels within `tolerance`, then the times (none for 0 rounds).

    Loss and gradients are compared at our adversarial images: KL is flat around the clean image, so rounding decides some of
    the attack's signs, and a few pixels that went the other way move the gradients of one code by 4e-4.
    """
    models = plain.pair(name, dtype)
    classes = plain.class_names(count)
    batch, noise = plain.random_batch(models, classes, size)
    defense = steps.moved(FAP(models.backbone, classes, weight=WEIGHT, generator=torch.Generator().manual_seed(2)).to(dtype))
    towers = lambda model: PlainFap(model, defense, classes)  # noqa: E731
    runs = steps.paths(models, batch, noise, defense, ATTACK, towers, outer=PlainFap.loss, inner=PlainFap.divergence)
    staged = lambda adv: steps.outer_step(towers(models.plain), batch, PlainFap.loss, adv)  # noqa: E731
    row = harness.Row("FAP step", f"{name}, C={count}, B={size}", target=TARGETS.get((name, count)))
    return steps.measured(row, runs, rounds, lean=lean, tolerance=tolerance, staged=staged)


class PlainFap(plain.PlainDeep):
    """FAP's two towers with copies of what the defence has learned; every call runs both."""

    def __init__(self, model: Any, defense: FAP, classes: Sequence[str]) -> None:
        learned = dict(defense.named_parameters())
        super().__init__(model, learned["prompts.learned.0"], learned, classes, defense.prompts.template)

    def prompts(self, side: str, layer: int) -> Tensor | None:
        if f"prompts.learned.{layer}" not in self.learned:
            return None
        learned = self.learned[f"prompts.learned.{layer}"]
        if (side == "text") == (layer == 0):
            return learned
        return F.linear(learned, self.learned[f"prompts.maps.{layer}.weight"], self.learned[f"prompts.maps.{layer}.bias"])

    def both(self, images: Tensor) -> tuple[Tensor, Tensor]:
        features = self.image(images)
        return features, self.model.logit_scale.exp() * features @ self.text().T

    def divergence(self, batch: Batch, adv: Tensor) -> Tensor:
        clean, moved = self.both(batch.images)[1], self.both(adv)[1]
        return F.kl_div(moved.log_softmax(1), clean.softmax(1), reduction="batchmean")

    def loss(self, batch: Batch, adv: Tensor) -> Tensor:
        (features, clean), (moved_features, moved) = self.both(batch.images), self.both(adv)
        each = F.kl_div(moved.log_softmax(1), clean.softmax(1), reduction="none").sum(1)
        alike = 1 + F.cosine_similarity(features, moved_features)
        return F.cross_entropy(clean, batch.labels) + WEIGHT * (each * alike).mean()


rows = steps.each(measure, size=4)


def main(argv: Sequence[str] | None = None) -> int:
    return harness.main(rows, __doc__ or "", argv)


if __name__ == "__main__":
    sys.exit(main())
