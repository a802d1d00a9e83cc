"""AutoAttack standard against a plain reference, and its members FAB and Square apart.

Plain: the same algorithms as the released code runs them: one target after the other, all images of the batch in every step of
an attack, boundaries by sorting, an image tower that runs all tokens through its last layer. Text features are cached in both,
and in both images leave between the attacks (and between the targets, as released) and within Square. Equality: the same images
are robust. Square draws for every image alone in both paths.

Weights are random and labels are the clean predictions, so the robust accuracy only says at which point of the trade-off the
ratio was taken. The first timed round is the one that equality is asserted on.
"""

import sys
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from benchmarks import harness, plain
from ironclip.attacks import AutoAttack
from ironclip.attacks._climb import checkpoints
from ironclip.attacks._goal import ranked_targets
from ironclip.attacks.apgd import start
from ironclip.attacks.square import draw, side
from ironclip.backbones import assemble
from ironclip.backbones.adapter import OPENAI_MEAN, OPENAI_STD
from ironclip.core.losses import cross_entropy_each, margin_each, targeted_dlr_each

Loss = Callable[[Tensor], Tensor]
Run = Callable[..., Tensor]
"""(function, images, labels, rows, eps) -> images."""


NEAR, FAR = 0.015 / 255, 0.4 / 255
"""Radii at which about 95 % and about 50 % of the images withstand."""


def rows(quick: bool, rounds: int) -> Iterable[harness.Row]:
    sizes = {"size": 8, "steps": 10, "queries": 50} if quick else {"size": 20, "steps": 100, "queries": 5000}
    for eps in (NEAR,) if quick else (NEAR, FAR):
        for member in ("fab-t", "square", None):
            yield measure("mini", 10, rounds=rounds, eps=eps, member=member, **sizes)


def measure(
    name: str,
    count: int,
    size: int,
    rounds: int,
    eps: float,
    *,
    steps: int = 100,
    queries: int = 5000,
    member: str | None = None,
    dtype: torch.dtype = torch.float32,
) -> harness.Row:
    """The same robust images, then the times (none for 0 rounds); `member`: this attack alone instead of all four."""
    models = plain.pair(name, dtype)
    classes = plain.class_names(count)
    batch, _ = plain.random_batch(models, classes, size)
    with torch.no_grad():
        classifier = assemble(models.backbone, classes)
        labels = classifier(batch.images).argmax(1)
        reference = _Plain(models.lean, classifier.text_features)
    attack = AutoAttack(eps, steps=steps, queries=queries)
    members = attack.members if member is None else {member: attack.members[member]}
    images = batch.images

    def ours() -> Tensor:
        standing = _right(classifier, images, labels)
        for one in members.values():
            rows = standing.nonzero().flatten()
            if len(rows):
                adv = one(classifier, images[rows], labels[rows], indices=rows)
                standing[rows] = _right(classifier, adv, labels[rows])
        return standing

    def released() -> Tensor:
        standing = _right(reference, images, labels)
        for one in members:
            for run in _RUNS[one](steps, queries, min(9, count - 1)):
                rows = standing.nonzero().flatten()
                if len(rows):
                    adv = run(reference, images[rows], labels[rows], rows, eps)
                    standing[rows] = _right(reference, adv, labels[rows])
        return standing

    found: dict[str, Tensor] = {}
    paths = {"plain": lambda: found.update(plain=released()), "ours": lambda: found.update(ours=ours())}
    taken = harness.seconds(paths, max(1, rounds))
    mine, theirs = found["ours"], found["plain"]
    if not torch.equal(mine, theirs):
        raise AssertionError(f"other images are robust: {int((mine != theirs).sum())} of {size} differ")
    row = harness.Row(f"AutoAttack {member or 'standard'}", f"{name}, C={count}, B={size}, {steps} steps, {queries} queries")
    row.deviations["robust images"] = 0.0
    clean = _right(classifier, images, labels)
    row.notes = {
        "eps * 255": eps * 255,
        "clean accuracy": float(clean.double().mean()),
        "robust accuracy": float(mine.double().mean()),
    }
    if rounds:
        row.seconds = taken
    return row


class _Plain(nn.Module):
    """open_clip's image tower over all tokens; text features computed once."""

    def __init__(self, model: Any, text: Tensor) -> None:
        super().__init__()
        self.model = model
        self.text = F.normalize(text, dim=1)
        self.mean, self.std = (text.new_tensor(values).view(3, 1, 1) for values in (OPENAI_MEAN, OPENAI_STD))

    def forward(self, images: Tensor) -> Tensor:
        features = F.normalize(self.model.encode_image((images - self.mean) / self.std), dim=-1)
        return self.model.logit_scale.exp() * features @ self.text.T


def _right(function: nn.Module, images: Tensor, labels: Tensor) -> Tensor:
    with torch.no_grad():
        return function(images).argmax(1) == labels


def _slope(function: nn.Module, loss: Loss, points: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    leaf = points.detach().requires_grad_()
    logits = function(leaf)
    values = loss(logits)
    return logits.detach(), values.detach(), torch.autograd.grad(values.sum(), leaf)[0]


def _ball(points: Tensor, images: Tensor, eps: float) -> Tensor:
    return torch.minimum(torch.maximum(points, images - eps), images + eps).clamp(0, 1)


def plain_apgd(function: nn.Module, loss: Loss, images: Tensor, labels: Tensor, first: Tensor, eps: float, steps: int) -> Tensor:
    """Every image, every step; the latest misclassified point, or the start."""
    ends, each = checkpoints(steps), (-1, 1, 1, 1)
    adv, before, found = first, first, first.clone()
    logits, value, slope = _slope(function, loss, adv)
    best, best_slope, best_value, best_then = adv, slope, value, value
    step, rises, halved = torch.full_like(value, 2 * eps), torch.zeros_like(value), torch.ones_like(value, dtype=torch.bool)
    for done in range(1, steps + 1):
        ahead = _ball(adv + step.view(each) * slope.sign(), images, eps)
        if done > 1:
            ahead = _ball(adv + 0.75 * (ahead - adv) + 0.25 * (adv - before), images, eps)
        before, adv = adv, ahead
        logits, new, slope = _slope(function, loss, adv)
        found = torch.where((logits.argmax(1) != labels).view(each), adv, found)
        rises, value = rises + (new > value), new
        better = value > best_value
        best, best_slope = torch.where(better.view(each), adv, best), torch.where(better.view(each), slope, best_slope)
        best_value = torch.where(better, value, best_value)
        if done in ends:
            window = done - ([0, *ends])[ends.index(done)]
            halve = (rises <= 0.75 * window) | (~halved & (best_then >= best_value))
            step = torch.where(halve, step / 2, step)
            adv, slope = torch.where(halve.view(each), best, adv), torch.where(halve.view(each), best_slope, slope)
            halved, best_then, rises = halve, best_value, torch.zeros_like(rises)
    return found


def by_sorting(points: Tensor, normal: Tensor, excess: Tensor) -> Tensor:
    """[R, n] shortest l-infinity way inside the box onto a hyperplane: all walls sorted, then a search in the sums."""
    normal = torch.where((excess < 0)[:, None], -normal, normal)
    down, weight, missing = -normal.sign(), normal.abs(), excess.abs()
    room = torch.where(down > 0, 1 - points, points) * down.abs()
    wall, order = room.sort(dim=1)
    passed = (wall * weight.gather(1, order)).cumsum(1)
    free = weight.sum(1, keepdim=True) - weight.gather(1, order).cumsum(1)
    place = torch.searchsorted(passed + wall * free, missing[:, None])
    low = (place - 1).clamp_min(0)
    gained = torch.where(place > 0, passed.gather(1, low), 0)
    left = torch.where(place > 0, free.gather(1, low), weight.sum(1, keepdim=True))
    reach = torch.where(place < wall.shape[1], (missing[:, None] - gained) / left.clamp_min(1e-30), torch.inf)
    return down * torch.minimum(reach, room)


def plain_fab(function: nn.Module, images: Tensor, labels: Tensor, targets: Tensor, steps: int) -> Tensor:
    """Every image, every step, one target; the nearest misclassified point, or the image."""
    points, each = images, (-1, 1, 1, 1)
    nearest, held = images.clone(), torch.full_like(images[:, 0, 0, 0], torch.inf)
    pick = torch.stack([targets, labels], dim=1)
    for _ in range(steps):
        _, excess, normal = _slope(function, lambda logits: logits.gather(1, pick).diff(dim=1).neg().squeeze(1), points)
        centre = excess + (normal * (images - points)).flatten(1).sum(1)
        both = torch.cat([points, images]).flatten(1), torch.cat([normal, normal]).flatten(1), torch.cat([excess, centre])
        here, back = by_sorting(*both).view(2, *points.shape)
        length, back_length = (way.flatten(1).abs().amax(1).clamp_min(1e-8) for way in (here, back))
        alpha = (length / (length + back_length)).clamp(0, 0.1).view(each)
        points = ((1 - alpha) * (points + 1.05 * here) + alpha * (images + 1.05 * back)).clamp(0, 1)
        wrong, distance = ~_right(function, points, labels), (points - images).flatten(1).abs().amax(1)
        nearer = wrong & (distance < held)
        nearest, held = torch.where(nearer.view(each), points, nearest), torch.where(nearer, distance, held)
        points = torch.where(wrong.view(each), images + 0.9 * (points - images), points)
    return nearest


def plain_square(function: nn.Module, images: Tensor, labels: Tensor, rows: Tensor, eps: float, queries: int) -> Tensor:
    """Images leave once they are misclassified, as released."""
    sides = [side(query, 0.8, *images.shape[-2:]) for query in range(queries)]
    drawn = draw(images, rows, sides, 0, 0)
    best = _ball(images + eps * drawn.stripes, images, eps)
    with torch.no_grad():
        margin = margin_each(function(best), labels)
        for query, length in enumerate(sides):
            going = (margin <= 0).nonzero().flatten()
            if not len(going):
                break
            tried = best[going]
            for place, row in enumerate(going.tolist()):
                top, left = drawn.corners[row, query].tolist()
                tried[place, :, top : top + length, left : left + length] += 2 * eps * drawn.signs[row, query][:, None, None]
            tried = _ball(tried, images[going], eps)
            new = margin_each(function(tried), labels[going])
            better = new > margin[going]
            best[going[better]], margin[going[better]] = tried[better], new[better]
    return best


def _apgd_ce(steps: int, queries: int, targets: int) -> list[Run]:
    def run(function: nn.Module, images: Tensor, labels: Tensor, rows: Tensor, eps: float) -> Tensor:
        first = start(images, eps, "linf", None, 0, rows, 0)
        return plain_apgd(function, lambda logits: cross_entropy_each(logits, labels), images, labels, first, eps, steps)

    return [run]


def _apgd_t(steps: int, queries: int, targets: int) -> list[Run]:
    def run(function: nn.Module, images: Tensor, labels: Tensor, rows: Tensor, eps: float, rank: int) -> Tensor:
        first = start(images, eps, "linf", None, 0, rows, (rank + 1) * 2**20)
        with torch.no_grad():
            wanted = ranked_targets(function(images), labels, targets)[rank]
        loss = partial(targeted_dlr_each, labels=labels, targets=wanted)
        return plain_apgd(function, loss, images, labels, first, eps, steps)

    return [partial(run, rank=rank) for rank in range(targets)]


def _fab_t(steps: int, queries: int, targets: int) -> list[Run]:
    def run(function: nn.Module, images: Tensor, labels: Tensor, rows: Tensor, eps: float, rank: int) -> Tensor:
        with torch.no_grad():
            wanted = ranked_targets(function(images), labels, targets)[rank]
        near = plain_fab(function, images, labels, wanted, steps)
        inside = (near - images).flatten(1).abs().amax(1) <= eps
        return torch.where(inside.view(-1, 1, 1, 1), near, images)

    return [partial(run, rank=rank) for rank in range(targets)]


def _square(steps: int, queries: int, targets: int) -> list[Run]:
    return [lambda function, images, labels, rows, eps: plain_square(function, images, labels, rows, eps, queries)]


_RUNS = {"apgd-ce": _apgd_ce, "apgd-t": _apgd_t, "fab-t": _fab_t, "square": _square}


def main(argv: Sequence[str] | None = None) -> int:
    return harness.main(rows, __doc__ or "", argv)


if __name__ == "__main__":
    sys.exit(main())
