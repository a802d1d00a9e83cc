"""One training step of APT (three inner steps of PGD) against the plain reference.

Plain: prompts over the whole context recomputed in every inner step, `.backward()` to every parameter, all tokens in the last
layers. Lean: the same with the model's parameters frozen, as the published code has it (TreeLLi/APT, apt/trainers/apt.py).
"""

import sys
from collections.abc import Iterable, Sequence
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor

from benchmarks import harness, plain
from ironclip.attacks import PGD
from ironclip.defenses.apt import APT

EPS = 4 / 255
ATTACK = PGD(EPS, step_size=2 * EPS / 3, steps=3, keep="last", box="forward")
TARGETS = {("small", 10): 1.8, ("small", 100): 8.0}
Step = tuple[Tensor, Tensor, dict[str, Tensor]]


def rows(quick: bool, rounds: int) -> Iterable[harness.Row]:
    for name in ["small"] if quick else ["mini", "small", "vitb32"]:
        for count in (10, 100):
            yield measure(name, count, 32, rounds, lean=not quick)


def measure(
    name: str,
    count: int,
    size: int,
    rounds: int,
    *,
    lean: bool = True,
    dtype: torch.dtype = torch.float32,
    tolerance: tuple[float, float, float] = (1e-5, 1e-3, 1e-3),
) -> harness.Row:
    """Equality of loss, gradient of the context and adversarial pixels within `tolerance`, then the times (none for 0 rounds)."""
    models = plain.pair(name, dtype)
    classes = plain.class_names(count)
    batch, noise = plain.random_batch(models, classes, size)
    defense = APT(models.backbone, classes, generator=torch.Generator().manual_seed(2)).to(dtype)
    given = plain.PlainPrompts(models.plain, defense.context, classes)
    frozen = plain.PlainPrompts(models.lean, defense.context, classes)

    def ours() -> Step:
        adv: list[Tensor] = []

        def attack(*args: object, **options: object) -> Tensor:
            adv.append(ATTACK(*args, **options, noise=noise))  # type: ignore[arg-type]
            return adv[0]

        defense.zero_grad(set_to_none=True)
        loss = torch.stack(list(defense.loss(models.backbone, batch, attack).values())).sum()
        loss.backward()
        return loss, adv[0], {"context": _gradient(defense.context)}

    def reference(prompts: plain.PlainPrompts) -> Step:
        adv = plain.plain_pgd(prompts, batch.images, batch.labels, noise, eps=EPS, step=2 * EPS / 3, steps=3, box=False)
        loss = F.cross_entropy(prompts(adv), batch.labels)
        loss.backward()
        gradient = _gradient(prompts.words)
        prompts.zero_grad(set_to_none=True)
        return loss, adv, {"context": gradient}

    row = harness.Row("APT step", f"{name}, C={count}, B={size}", target=TARGETS.get((name, count)))
    row.deviations = compare(ours(), reference(given), tolerance)
    if rounds:
        paths: dict[str, harness.Path] = {"plain": partial(reference, given), "ours": ours}
        if lean:
            paths["lean"] = partial(reference, frozen)
        row.seconds = harness.seconds(paths, rounds)
    return row


def compare(ours: Step, reference: Step, tolerance: tuple[float, float, float]) -> dict[str, float]:
    return {
        "loss": harness.check("loss", ours[0], reference[0], tolerance[0]),
        "gradients": harness.check_gradients(ours[2], reference[2], tolerance[1]),
        "pixels": harness.check_pixels(ours[1], reference[1], tolerance[2]),
    }


def _gradient(tensor: Tensor) -> Tensor:
    assert tensor.grad is not None
    return tensor.grad.clone()


def main(argv: Sequence[str] | None = None) -> int:
    return harness.main(rows, __doc__ or "", argv)


if __name__ == "__main__":
    sys.exit(main())
