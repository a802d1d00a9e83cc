"""The l2 form of Square against the released order of work, window by window."""

import math

import pytest
import torch
from toys import convnet, pictures, predicted

from ironclip.attacks import AutoAttack, Square, _square_l2
from ironclip.attacks._square_l2 import HALVINGS
from ironclip.core.errors import UsageError
from ironclip.core.losses import margin_each

EPS = 0.4


def hill(height, width):
    """As released: a counter for each side, grown rectangle by rectangle."""
    delta = torch.zeros(height, width)
    most, corner = max(height // 2 + 1, width // 2 + 1), [height // 2, width // 2]
    for counter in range(most):
        rows = slice(max(corner[0], 0), min(corner[0] + 2 * counter + 1, height))
        columns = slice(max(corner[1], 0), min(corner[1] + 2 * counter + 1, width))
        delta[rows, columns] += 1 / (counter + 1) ** 2
        corner = [corner[0] - 1, corner[1] - 1]
    return delta / delta.square().sum().sqrt()


@pytest.mark.parametrize("length", [3, 5, 8, 13])
def test_waves_are_a_hill_above_a_valley(length):
    delta = torch.zeros(length, length)
    delta[: length // 2] = hill(length // 2, length)
    delta[length // 2 :] = -hill(length - length // 2, length)
    assert torch.allclose(_square_l2.waves(length), delta / delta.norm(), atol=1e-6)


def test_sides_are_odd_and_fit():
    for query in (0, 100, 3000):
        share = 0.8 / 2 ** sum(query > passed for passed in HALVINGS)
        released = max(round(math.sqrt(share * 224 * 224)), 3)
        assert _square_l2.side(query, 0.8, 224, 224) == released + (released % 2 == 0)
    assert _square_l2.side(0, 1.0, 4, 4) == 3
    assert _square_l2.side(0, 0.8, 2, 2) == 1


def test_a_proposal_is_the_released_one():
    drawn = torch.Generator().manual_seed(0)
    delta = torch.randn(4, 3, 12, 12, generator=drawn) * 0.02
    numbers, length = torch.rand(4, 8, generator=drawn), 5
    ours = _square_l2.propose(delta, numbers, length, EPS)
    for at in range(4):
        current, (top, left, top2, left2) = delta[at].clone(), (numbers[at, :4] * 8).long().tolist()
        one, two = (
            (slice(top, top + length), slice(left, left + length)),
            (slice(top2, top2 + length), slice(left2, left2 + length)),
        )
        mask = torch.zeros_like(current)
        mask[:, *one] = mask[:, *two] = 1
        windows, image = (current * mask).square().sum().sqrt(), current.square().sum().sqrt()
        pattern = _square_l2.waves(length).T if numbers[at, 4] > 0.5 else _square_l2.waves(length)
        fresh = pattern * torch.where(numbers[at, 5:] < 0.5, 1.0, -1.0)[:, None, None]
        fresh = fresh + current[:, *one] / (1e-12 + current[:, *one].square().sum((1, 2), keepdim=True).sqrt())
        lengths = (torch.clamp(EPS**2 - image**2, min=0) / 3 + windows**2).sqrt()
        fresh = fresh / (1e-12 + fresh.square().sum((1, 2), keepdim=True).sqrt()) * lengths
        current[:, *two] = 0
        current[:, *one] = fresh
        assert torch.allclose(ours[at], current / current.norm() * EPS, atol=1e-6)


def test_the_start_covers_five_by_five_tiles_and_is_of_full_length():
    images = torch.full((2, 3, 12, 12), 0.5)
    delta = _square_l2.first(images, _square_l2.draw(images, torch.arange(2), 1, 0, 0), EPS)
    assert torch.allclose(delta.flatten(1).norm(dim=1), torch.tensor([EPS, EPS]))
    assert (delta[:, :, 0] == 0).all()  # (12 - 5 * 2) // 2 pixels are left on each side
    assert (delta[:, :, 1:11, 1:11] != 0).all()
    assert not delta[0].equal(delta[1])


def test_more_queries_never_help_the_defender_and_the_ball_is_l2():
    model, images = convnet(), pictures(20)
    labels = predicted(model, images)
    robust = []
    for queries in (1, 20, 60):
        adv = Square(EPS, queries=queries, norm="l2")(model, images, labels)
        assert float((adv - images).flatten(1).norm(dim=1).max()) <= EPS + 1e-6
        assert float(adv.min()) >= 0
        assert float(adv.max()) <= 1
        robust.append(margin_each(model(adv), labels).detach())
    assert (robust[1] >= robust[0] - 1e-6)[robust[0] <= 0].all()
    assert int((robust[2] <= 0).sum()) <= int((robust[1] <= 0).sum()) <= int((robust[0] <= 0).sum()) < 20
    alone = Square(EPS, queries=20, norm="l2")(model, images[3:5], labels[3:5], indices=torch.tensor([3, 4]))
    together = Square(EPS, queries=20, norm="l2")(model, images, labels)[3:5]
    assert torch.allclose(alone, together, atol=1e-6)


def test_autoattack_in_l2_runs_every_member_in_l2_and_is_no_weaker_than_any():
    model, images = convnet(), pictures(20)
    labels = predicted(model, images)
    attack = AutoAttack(0.15, norm="l2", steps=10, queries=40)
    assert {member.norm for member in attack.members.values()} == {"l2"}
    adv = attack(model, images, labels)
    assert float((adv - images).flatten(1).norm(dim=1).max()) <= 0.15 + 1e-6
    right = predicted(model, adv) == labels
    for member in attack.members.values():
        assert (right <= (predicted(model, member(model, images, labels)) == labels)).all()
    assert 0 < int(right.sum()) < 20


def test_given_draws_are_those_of_the_other_form():
    model, images = convnet(), pictures(2)
    with pytest.raises(UsageError, match="l-infinity form"):
        Square(EPS, norm="l2")(model, images, predicted(model, images), draws=_square_l2.draw(images, torch.arange(2), 1, 0, 0))
