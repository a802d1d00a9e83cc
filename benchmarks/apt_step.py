"""One training step of APT (three inner steps of PGD) against the plain reference.

Plain: prompts over the whole context recomputed in every inner step, `.backward()` to every parameter, all tokens in the last
layers. Lean: the same with the model's parameters frozen, as the published code has it (TreeLLi/APT, apt/trainers/apt.py).
"""

import sys
from collections.abc import Sequence

import torch

from benchmarks import harness, plain, steps
from ironclip.attacks import PGD
from ironclip.defenses.apt import APT

EPS = 4 / 255
ATTACK = PGD(EPS, step_size=2 * EPS / 3, steps=3, keep="last", box="forward")
TARGETS = {("small", 10): 1.8, ("small", 100): 8.0}


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
    """Equality of loss, gradient of the context and adversarial pixels within `tolerance`, then the times (none for 0 rounds)."""
    models = plain.pair(name, dtype)
    classes = plain.class_names(count)
    batch, noise = plain.random_batch(models, classes, size)
    defense = APT(models.backbone, classes, generator=torch.Generator().manual_seed(2)).to(dtype)
    towers = lambda model: plain.PlainPrompts(model, defense.context, classes)  # noqa: E731
    row = harness.Row("APT step", f"{name}, C={count}, B={size}", target=TARGETS.get((name, count)))
    runs = steps.paths(models, batch, noise, defense, ATTACK, towers)
    return steps.measured(row, runs, rounds, lean=lean, tolerance=tolerance)


rows = steps.each(measure)


def main(argv: Sequence[str] | None = None) -> int:
    return harness.main(rows, __doc__ or "", argv)


if __name__ == "__main__":
    sys.exit(main())
