"""FAB: projections onto hyperplanes inside the box, and the distances that they lead to."""

from itertools import pairwise

import pytest
import torch
from toys import convnet, linear, pictures, predicted

from ironclip.attacks import FAB
from ironclip.attacks._goal import Part, ranked_targets
from ironclip.attacks._hyperplane import onto_hyperplane
from ironclip.attacks.fab import approach
from ironclip.core.errors import UsageError


def drawn(rows=40, size=9, seed=0):
    generator = torch.Generator().manual_seed(seed)
    points = (torch.rand(rows, size, generator=generator, dtype=torch.float64) * 1.4 - 0.2).clamp(0, 1)
    normal = torch.randn(rows, size, generator=generator, dtype=torch.float64)
    normal[:, 3] = 0
    return points, normal, 2 * torch.randn(rows, generator=generator, dtype=torch.float64)


def slowly(point, normal, excess, kind):
    """Bisection on the length: how far each coordinate goes towards the wall that lowers |excess|."""
    sign = 1.0 if excess > 0 else -1.0
    wall = [(0.0 if sign * w > 0 else 1.0) if w else x for x, w in zip(point, normal, strict=True)]

    def moved(reach):
        speed = [1.0 if kind == "linf" else abs(w) for w in normal]
        return [max(min(reach * v, abs(a - x)), 0.0) * (1 if a > x else -1) for x, a, v in zip(point, wall, speed, strict=True)]

    low, high = 0.0, 1e4
    for _ in range(200):
        middle = (low + high) / 2
        gained = sum(abs(w * d) for w, d in zip(normal, moved(middle), strict=True))
        low, high = (middle, high) if gained < abs(excess) else (low, middle)
    return moved(high)


@pytest.mark.parametrize("kind", ["linf", "l2"])
def test_the_projection_is_that_found_by_bisection(kind):
    points, normal, excess = drawn()
    found = onto_hyperplane(points, normal, excess, kind)
    expected = [slowly(*row, kind) for row in zip(points.tolist(), normal.tolist(), excess.tolist(), strict=True)]
    torch.testing.assert_close(found, torch.tensor(expected, dtype=torch.float64), atol=1e-9, rtol=0)
    inside = points + found
    assert inside.min() >= 0
    assert inside.max() <= 1
    assert (found[:, 3] == 0).all()
    reached = ((normal * found).sum(1) + excess).abs() < 1e-9
    assert 5 < reached.sum() < len(points)


def test_the_projection_of_a_row_does_not_depend_on_the_others():
    points, normal, excess = (part.float() for part in drawn())
    whole = onto_hyperplane(points, normal, excess, "linf")
    rows = [onto_hyperplane(points[at : at + 1], normal[at : at + 1], excess[at : at + 1], "linf") for at in range(40)]
    assert torch.cat(rows).equal(whole)


@pytest.mark.parametrize("kind", ["linf", "l2"])
def test_the_distance_to_the_nearest_half_space_is_found_within_a_hundredth(kind):
    model, images = linear(3, dtype=torch.float64), 0.4 + 0.2 * pictures(dtype=torch.float64)
    labels = predicted(model, images)
    logits, weight = model(images).detach(), model[1].weight.detach()
    wanted = ranked_targets(logits, labels, 9)
    part = Part(images, labels, labels, logits, wanted, "margin")
    near = approach(model, part, part.images, eps=1.0, steps=100, kind=kind)
    order = 1 if kind == "linf" else 2
    nearest = near.distance.view(2, 12).amin(0)
    gaps = torch.stack([
        (logits.gather(1, labels[:, None]) - logits.gather(1, goal[:, None])).squeeze(1)
        / torch.linalg.vector_norm(weight[goal] - weight[labels], order, dim=1)
        for goal in wanted
    ])  # fmt: skip
    # With an overshoot of 1.05 and a way back of 0.9 the nearest iterate lies about 0.5 % beyond the boundary.
    torch.testing.assert_close(nearest, gaps.amin(0), atol=0, rtol=0.01)
    assert (nearest >= gaps.amin(0) - 1e-9).all()


def test_more_steps_restarts_and_targets_never_help_the_defender():
    model, images = convnet(), pictures(40)
    labels = predicted(model, images)

    def robust(**options):
        return predicted(model, FAB(0.02, **{"steps": 6, "mode": "compact"} | options)(model, images, labels)) == labels

    for series in (
        [robust(steps=count) for count in (1, 4, 12)],
        [robust(restarts=count) for count in (1, 3)],
        [robust(targets=count) for count in (1, 9)],
    ):
        for fewer, more in pairwise(series):
            assert (more <= fewer).all()
    assert 0 < robust(steps=12).sum() < 40


def test_untargeted_goes_to_the_nearest_class_and_agrees_with_the_targets():
    model, images = convnet(), pictures(30)
    labels = predicted(model, images)
    robust = [
        predicted(model, FAB(0.02, steps=20, targets=count, mode="compact")(model, images, labels)) == labels for count in (0, 9)
    ]
    assert (robust[0] != robust[1]).sum() <= 2


def test_bad_options():
    for options, message in (
        ({"alpha_max": 2}, "alpha_max must be a number of at least 0 and at most 1; got 2"),
        ({"eta": 0.5}, "eta must be a number of at least 1; got 0.5"),
        ({"beta": -1}, "beta must be a number"),
    ):
        with pytest.raises(UsageError, match=message):
            FAB(0.1, **options)
    with pytest.raises(UsageError, match="FAB has its own objective"):
        FAB(0.1)(linear(), pictures(), torch.zeros(12, dtype=torch.long), loss=lambda outputs, labels: outputs.sum(1))
