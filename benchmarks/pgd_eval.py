"""PGD evaluation of a prompted classifier (10 steps, last iterate) against the plain reference, and what compaction adds.

Plain: the prompts over the whole context recomputed in every step, `.backward()` to every parameter. Lean: text features
computed once and parameters frozen, as a careful evaluator does. The compaction rows compare our own two modes, which give the
same robust accuracy; weights are random and labels are the clean predictions, so the robust accuracy only says at which point
of the trade-off the ratio was taken.
"""

import sys
from collections.abc import Iterable, Sequence
from functools import partial

import torch
from torch import Tensor, nn

from benchmarks import harness, plain
from ironclip.attacks import PGD
from ironclip.backbones import assemble
from ironclip.defenses.apt import APT

EPS = 1 / 255
STEPS = 10
RADII = (0.015 / 255, 0.4 / 255, 0.8 / 255, 1.6 / 255, 3 / 255)
"""Radii of the compaction rows: nearly all images of `mini` withstand, two thirds, a quarter, few, none."""


def rows(quick: bool, rounds: int) -> Iterable[harness.Row]:
    for name, size in [("small", 32)] if quick else [("mini", 32), ("small", 32), ("vitb32", 8)]:
        for count in (10,) if quick else (10, 100):
            yield measure(name, count, size, rounds, lean=not quick, steps=5 if quick else STEPS)
    for eps in RADII[2:3] if quick else RADII:
        yield compaction("mini", 10, 32 if quick else 64, rounds, eps, steps=10 if quick else 100)


def measure(
    name: str,
    count: int,
    size: int,
    rounds: int,
    *,
    lean: bool = True,
    steps: int = STEPS,
    dtype: torch.dtype = torch.float32,
    tolerance: tuple[float, float] = (1e-3, 1e-3),
) -> harness.Row:
    """Equality of adversarial pixels and of the logits there within `tolerance`, then the times (none for 0 rounds)."""
    models = plain.pair(name, dtype)
    classes = plain.class_names(count)
    batch, noise = plain.random_batch(models, classes, size)
    defense = APT(models.backbone, classes, generator=torch.Generator().manual_seed(2)).to(dtype)
    attack = PGD(EPS, steps=steps, keep="last")
    given = plain.PlainPrompts(models.plain, defense.context, classes)
    frozen = plain.PlainPrompts(models.lean, defense.context, classes)

    def ours() -> tuple[Tensor, Tensor]:
        with torch.no_grad():
            classifier = assemble(models.backbone, classes, defense.adaptation(models.backbone, classes))
            adv = attack(classifier, batch.images, batch.labels, noise=noise)
            return adv, classifier(adv)

    def reference(classifier: nn.Module) -> tuple[Tensor, Tensor]:
        options = {"eps": EPS, "step": EPS / 4, "steps": steps}
        adv = plain.plain_pgd(classifier, batch.images, batch.labels, noise, **options, box=True)  # type: ignore[arg-type]
        with torch.no_grad():
            return adv, classifier(adv)

    row = harness.Row("PGD evaluation", f"{name}, C={count}, B={size}, {steps} steps")
    (adv, logits), (expected, expected_logits) = ours(), reference(given)
    row.deviations["pixels"] = harness.check_pixels(adv, expected, tolerance[0])
    row.deviations["logits"] = harness.check("logits", logits, expected_logits, tolerance[1])
    if rounds:
        paths: dict[str, harness.Path] = {"plain": partial(reference, given), "ours": ours}
        if lean:
            paths["lean"] = lambda: reference(_TextOnce(frozen))
        row.seconds = harness.seconds(paths, rounds)
    return row


def compaction(name: str, count: int, size: int, rounds: int, eps: float, *, steps: int = 20) -> harness.Row:
    """Full against compact PGD ("plain" and "ours" of this row): equal sets of broken images, the ratio, both accuracies."""
    models = plain.pair(name)
    classes = plain.class_names(count)
    batch, _ = plain.random_batch(models, classes, size)
    with torch.no_grad():
        classifier = assemble(models.backbone, classes)
        labels = classifier(batch.images).argmax(1)
    attacks = {"plain": PGD(eps, steps=steps), "ours": PGD(eps, steps=steps, mode="compact")}
    robust: dict[str, Tensor] = {}

    def run(path: str) -> None:
        adv = attacks[path](classifier, batch.images, labels)
        with torch.no_grad():
            robust[path] = classifier(adv).argmax(1) == labels

    taken = harness.seconds({path: partial(run, path) for path in attacks}, max(1, rounds))
    if not torch.equal(robust["plain"], robust["ours"]):
        differing = int((robust["plain"] != robust["ours"]).sum())
        raise AssertionError(f"compaction breaks other images: {differing} of {size} differ")
    row = harness.Row("PGD compaction", f"{name}, C={count}, B={size}, {steps} steps, eps {eps * 255:g}/255")
    row.deviations["broken images"] = 0.0
    row.notes = {"robust accuracy": float(robust["ours"].double().mean())}
    if rounds:
        row.seconds = taken
    return row


class _TextOnce(nn.Module):
    """The plain image tower with text features computed once."""

    def __init__(self, prompts: plain.PlainPrompts) -> None:
        super().__init__()
        self.prompts = prompts
        with torch.no_grad():
            self.features = prompts.text()

    def forward(self, images: Tensor) -> Tensor:
        return self.prompts.model.logit_scale.exp() * self.prompts.image(images) @ self.features.T


def main(argv: Sequence[str] | None = None) -> int:
    return harness.main(rows, __doc__ or "", argv)


if __name__ == "__main__":
    sys.exit(main())
