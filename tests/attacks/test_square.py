"""Square: the schedule, the draws, and what its queries find."""

from itertools import pairwise

import pytest
import torch
from toys import convnet, linear, pictures, predicted

from ironclip.attacks import Square
from ironclip.attacks.square import Draws, draw, search, side
from ironclip.core.errors import DataError, UsageError
from ironclip.core.losses import margin_each
from ironclip.core.tensors import project


def margin(model, images, labels):
    with torch.no_grad():
        return margin_each(model(images), labels)


def test_sides_are_those_of_the_schedule_on_224_pixels():
    at = {0: 200, 10: 200, 11: 142, 50: 142, 51: 100, 201: 71, 501: 50, 1001: 35, 2001: 25, 4001: 18, 4999: 18}
    assert {query: side(query, 0.8, 224, 224) for query in at} == at
    assert side(9000, 0.8, 8, 8) == 1
    assert side(0, 1.0, 8, 32) == 8


def test_draws_belong_to_the_image_and_reach_every_pixel():
    images, sides = torch.zeros(3, 3, 8, 6), [5] * 20 + [1] * 400
    drawn = draw(images, torch.tensor([7, 4, 9]), sides, 1, 0)
    alone = draw(images[:1], torch.tensor([4]), sides[:50], 1, 0)
    assert alone.corners[0].equal(drawn.corners[1, :50])
    assert alone.signs[0].equal(drawn.signs[1, :50])
    assert alone.stripes[0].equal(drawn.stripes[1])
    assert not drawn.corners[0].equal(drawn.corners[1])
    small = drawn.corners[:, 20:].flatten(0, 1)
    assert small.amax(0).tolist() == [7, 5]
    assert drawn.corners[:, :20].flatten(0, 1).amax(0).tolist() == [3, 1]
    assert set(drawn.signs.unique().tolist()) == {-1.0, 1.0}


def test_the_search_is_the_loop_written_out():
    model, images = convnet(), pictures(4)
    labels = predicted(model, images)
    sides = [side(query, 0.8, 4, 4) for query in range(60)]
    drawn = draw(images, torch.arange(4), sides, 0, 0)
    best, spent = search(model, images, labels, labels, drawn, sides, 0.05, early=False)
    assert spent.tolist() == [61] * 4
    for row in range(4):
        clean, label = images[row : row + 1], labels[row : row + 1]
        held = project(clean + 0.05 * drawn.stripes[row], clean, 0.05)
        for query, length in enumerate(sides):
            top, left = drawn.corners[row, query].tolist()
            tried = held.clone()
            tried[:, :, top : top + length, left : left + length] += 0.1 * drawn.signs[row, query][:, None, None]
            tried = project(tried, clean, 0.05)
            held = tried if margin(model, tried, label) > margin(model, held, label) else held
        torch.testing.assert_close(margin(model, held, label), best.values[row : row + 1], atol=1e-5, rtol=0)


def test_the_optimum_of_a_linear_model_is_approached():
    model, images = linear(2), pictures()
    labels = predicted(model, images)
    weight = model[1].weight.detach()
    optimum = (images + 0.1 * (weight[1 - labels] - weight[labels]).sign().view_as(images)).clamp(0, 1)
    gained, most = (margin(model, x, labels) - margin(model, images, labels) for x in (
        Square(0.1, queries=1500)(model, images, labels), optimum))  # fmt: skip
    assert (gained <= most + 1e-5).all()
    assert (gained / most).mean() > 0.97


def test_more_queries_and_restarts_never_help_the_defender():
    model, images = convnet(), pictures(30)
    labels = predicted(model, images)
    for series in (
        [margin(model, Square(0.05, queries=count)(model, images, labels), labels) for count in (1, 10, 40)],
        [margin(model, Square(0.05, queries=10, restarts=count)(model, images, labels), labels) for count in (1, 3)],
    ):
        for fewer, more in pairwise(series):
            fooled = fewer > 0
            assert (more > 0)[fooled].all()
            assert (more >= fewer - 1e-6).all()


def test_no_gradient_is_asked_for():
    model, images = convnet(), pictures()
    labels = predicted(model, images)

    def scores_only(x):
        assert not torch.is_grad_enabled()
        return model(x.round(decimals=1))

    adv = Square(0.2, queries=40)(scores_only, images, labels)
    assert margin(model, adv.round(decimals=1), labels).mean() > margin(model, images.round(decimals=1), labels).mean()


def test_bad_options_and_images():
    model, images = linear(), pictures()
    labels = predicted(model, images)
    with pytest.raises(UsageError, match="queries must be a whole number of at least 1; got 0"):
        Square(0.1, queries=0)
    with pytest.raises(UsageError, match="p_init must be a number of above 0 and at most 1; got 0"):
        Square(0.1, p_init=0)
    with pytest.raises(DataError, match=r"squares need images \[B, C, H, W\]; got shape \(12, 48\)"):
        Square(0.1)(model, images.flatten(1), labels)
    short = Draws(images[:, :, :1], torch.zeros(12, 3, 2, dtype=torch.long), torch.ones(12, 3, 3))
    with pytest.raises(DataError, match="expected draws for 5 queries of each of 12 images"):
        Square(0.1, queries=5)(model, images, labels, draws=short)
