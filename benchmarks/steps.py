"""What the benchmarks of a training step share: our step, the plain one, their equality and their times."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from typing import Any, Protocol, TypeVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from benchmarks import harness, plain
from ironclip.attacks import PGD
from ironclip.core.types import Backbone, Batch, Defense

D = TypeVar("D", bound=Defense)
Step = tuple[Tensor, Tensor, dict[str, Tensor]]
"""Loss, adversarial images, gradients of what is learned."""
Objective = Callable[[Any, Batch, Tensor], Tensor]
"""(plain towers, batch, perturbed images) -> mean loss."""
Tolerance = tuple[float, float, float]
TOLERANCE: Tolerance = (1e-5, 1e-3, 1e-3)
"""Largest relative difference of the loss and of the gradients, and share of differing pixels, in float32."""


class Measure(Protocol):
    """A benchmark of one step: (architecture, classes, batch size, rounds) -> its row."""

    def __call__(self, name: str, count: int, size: int, rounds: int, *, lean: bool) -> harness.Row: ...


def each(measure: Measure, *, size: int = 32, counts: Sequence[int] = (10, 100)) -> Callable[[bool, int], Iterable[harness.Row]]:
    """(quick, rounds) -> the rows of the step on each architecture (quick: on one) with so many classes."""

    def rows(quick: bool, rounds: int) -> Iterable[harness.Row]:
        for name in ["small"] if quick else ["mini", "small", "vitb32"]:
            for count in counts:
                yield measure(name, count, size, rounds, lean=not quick)

    return rows


def adversarial_ce(towers: plain.PlainPrompts, batch: Batch, adv: Tensor) -> Tensor:
    return F.cross_entropy(towers(adv), batch.labels)


def paths(
    models: plain.Pair,
    batch: Batch,
    noise: Tensor,
    defense: Defense,
    attack: PGD,
    towers: Callable[[Any], plain.PlainPrompts],
    *,
    outer: Objective = adversarial_ce,
    inner: Objective = adversarial_ce,
) -> dict[str, Callable[[], Step]]:
    """The same step "plain", "lean" and "ours".

    Args:
        towers: open_clip model -> the plain classifier with copies of what the defence has learned.
        outer, inner: what the step lowers and what its attack raises.
    """
    theirs = {
        path: partial(plain_step, towers(model), batch, noise, attack, outer, inner)
        for path, model in (("plain", models.plain), ("lean", models.lean))
    }
    return {**theirs, "ours": partial(our_step, models.backbone, batch, noise, attack, defense)}


def measured(
    row: harness.Row,
    runs: Mapping[str, Callable[[], Step]],
    rounds: int,
    *,
    lean: bool,
    tolerance: Tolerance,
    staged: Callable[[Tensor], Step] | None = None,
) -> harness.Row:
    """The row with equality of loss, learned gradients and adversarial pixels, then with the times (none for 0 rounds).

    Args:
        staged: adversarial images -> the plain outer step on them. With it, loss and gradients are compared at ours.
    """
    ours, reference = runs["ours"](), runs["plain"]()
    if staged is not None:
        loss, _, found = staged(ours[1])
        reference = (loss, reference[1], found)
    row.deviations = compare(ours, reference, tolerance)
    if rounds:
        row.seconds = harness.seconds({path: run for path, run in runs.items() if lean or path != "lean"}, rounds)
    return row


def our_step(backbone: Backbone, batch: Batch, noise: Tensor, attack: PGD, defense: Defense) -> Step:
    """A step as `fit` makes it, from the given start noise."""
    adv: list[Tensor] = []

    def observed(*args: object, **options: object) -> Tensor:
        adv.append(attack(*args, **options, noise=noise))  # type: ignore[arg-type]
        return adv[0]

    defense.zero_grad(set_to_none=True)
    loss = torch.stack(list(defense.loss(backbone, batch, observed).values())).sum()
    loss.backward()
    return loss, adv[0], gradients(dict(defense.named_parameters()))


def plain_step(towers: plain.PlainPrompts, batch: Batch, noise: Tensor, attack: PGD, outer: Objective, inner: Objective) -> Step:
    """A step as published code makes it: `.backward()` in every inner step, everything computed again."""
    options = {"eps": attack.eps, "step": attack.derived["step_size"], "steps": attack.steps, "box": attack.box == "project"}
    objective = lambda seen: inner(towers, batch, seen)  # noqa: E731
    adv = plain.plain_pgd(towers, batch.images, batch.labels, noise, **options, objective=objective)
    return outer_step(towers, batch, outer, adv)


def outer_step(towers: plain.PlainPrompts, batch: Batch, outer: Objective, adv: Tensor) -> Step:
    """The plain step behind its attack."""
    loss = outer(towers, batch, adv)
    loss.backward()
    found = gradients(towers.learned)
    towers.zero_grad(set_to_none=True)
    return loss, adv, found


def gradients(learned: Mapping[str, nn.Parameter]) -> dict[str, Tensor]:
    return {name: p.grad.clone() for name, p in learned.items() if p.grad is not None}


def compare(ours: Step, reference: Step, tolerance: Tolerance) -> dict[str, float]:
    return {
        "loss": harness.check("loss", ours[0], reference[0], tolerance[0]),
        "gradients": harness.check_gradients(ours[2], reference[2], tolerance[1]),
        "pixels": harness.check_pixels(ours[1], reference[1], tolerance[2]),
    }


def moved(defense: D) -> D:
    """The defence away from its start, where every gradient is alive."""
    drawn = torch.Generator().manual_seed(4)
    with torch.no_grad():
        for parameter in defense.parameters():
            parameter.add_(0.02 * torch.randn(parameter.shape, generator=drawn).to(parameter))
    return defense
