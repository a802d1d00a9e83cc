"""The adaptive attack: momentum, common wrong classes, a judge that is not what is differentiated, tries with new randomness."""

import pytest
import torch
from toys import convnet, pictures, predicted

from ironclip.attacks.adaptive import Adaptive, towards
from ironclip.attacks.pgd import PGD
from ironclip.core.errors import UsageError


class Counted:
    def __init__(self, function):
        self.function, self.slopes, self.answers = function, 0, 0

    def __call__(self, images):
        if torch.is_grad_enabled():
            self.slopes += len(images)
        else:
            self.answers += len(images)
        return self.function(images)


class Watched(Counted):
    """A function that is differentiated, and another that judges."""

    def __init__(self, function, judge):
        super().__init__(function)
        self.judge = judge


@pytest.fixture(scope="module")
def scene():
    model, images = convnet(5), pictures()
    return model.eval(), images, predicted(model, images)


def stubborn(images):
    """A judge whom nothing convinces: class 0 always."""
    return torch.tensor([[1.0, 0, 0, 0, 0]]).expand(len(images), 5)


def test_the_judge_decides_what_is_kept_and_not_what_is_differentiated(scene):
    model, images, labels = scene
    shifted = lambda x: model(x) + 0.0  # noqa: E731
    adv = Adaptive(8 / 255, steps=20)(Watched(shifted, model), images, labels)
    assert torch.equal(adv, Adaptive(8 / 255, steps=20)(model, images, labels))
    right = torch.zeros_like(labels)
    unmoved = Adaptive(8 / 255, steps=5)(Watched(model, stubborn), images, right)
    assert (stubborn(unmoved).argmax(1) == right).all()


def test_its_budget_is_what_the_description_says(scene):
    model, images, _ = scene
    attack = Adaptive(4 / 255, steps=23, targets=2, tries=3)
    judge = Counted(stubborn)
    function = Watched(model, judge)
    attack(function, images[:2], torch.zeros(2, dtype=torch.long))
    budget = attack.derived
    assert function.slopes == 2 * budget["slopes"] == 2 * 3 * 23
    assert function.answers == 2 * budget["answers"] == 2 * (1 + 3)
    assert judge.answers == 2 * budget["judged"]


def test_an_image_that_the_judge_gets_wrong_costs_nothing_more(scene):
    model, images, labels = scene
    function = Counted(model)
    adv = Adaptive(1.0, steps=10)(function, images, labels)
    assert (predicted(model, adv) != labels).all()
    assert function.slopes < len(images) * 10
    every = Counted(model)
    Adaptive(1.0, steps=10, mode="full")(every, images, labels)
    assert every.slopes == len(images) * 3 * 10


class Lottery(torch.nn.Module):
    """Right but for images whose pixels, at 8 bits, sum to a multiple of `odds`: randomness that belongs to the image."""

    def __init__(self, odds):
        super().__init__()
        self.odds = odds

    def forward(self, images):
        wrong = ((images * 255).round().long().flatten(1).sum(1) % self.odds == 0).to(images)
        slope = 0.0 * images.flatten(1).sum(1)
        return torch.stack([1 - 2 * wrong + slope, 0.5 + slope], dim=1)


def test_tries_draw_the_randomness_of_the_defence_anew():
    """A judge that is right except by luck: no gradient helps, and more tries mean more luck."""
    images = torch.full((24, 3, 8, 8), 0.5)
    labels = torch.zeros(24, dtype=torch.long)
    model = Lottery(5)
    found = {t: (model(Adaptive(1 / 255, steps=2, tries=t)(model, images, labels)).argmax(1) == 1).sum() for t in (0, 6)}
    assert found[6] > found[0]
    assert found[6] >= 12


def test_a_vote_over_random_views_falls_to_a_common_wrong_class():
    """Each draw sees one half of the image. Momentum adds the halves up, and both move."""
    left = torch.zeros(1, 1, 8, 8)
    left[..., :4] = 1

    class Halves(torch.nn.Module):
        def forward(self, images):
            drawn = (images.detach() * 255).round().long().flatten(1).sum(1) % 2
            seen = torch.where(drawn.bool()[:, None, None, None], left, 1 - left)
            score = (images * seen).mean((1, 2, 3)) * 20 - 4.5
            return torch.stack([-score, score], dim=1)

    images = torch.full((16, 1, 8, 8), 0.4)
    labels = torch.zeros(16, dtype=torch.long)
    adv = Adaptive(16 / 255, steps=20)(Halves(), images, labels)
    moved = adv - images
    assert (Halves()(adv).argmax(1) == 1).all()
    assert moved.mean() > 0.5 * 16 / 255


def test_slopes_of_earlier_steps_count():
    """Two slopes up, one down, again and again: the sum of them never turns, so no step does."""

    class Turning(Counted):
        def __init__(self):
            super().__init__(None)
            self.judge, self.seen = stubborn, []

        def __call__(self, images):
            if torch.is_grad_enabled():
                self.seen.append(images.detach().clone())
            way = -1.0 if len(self.seen) % 3 == 0 else 1.0
            score = way * images.mean((1, 2, 3))
            return torch.stack([-score, score, score - 9, score - 9, score - 9], dim=1)

    function = Turning()
    Adaptive(8 / 255, steps=15, targets=0, tries=0)(function, torch.full((2, 3, 4, 4), 0.5), torch.zeros(2, dtype=torch.long))
    steps = torch.stack(function.seen).diff(dim=0)
    assert len(steps) == 14
    assert (steps >= 0).all()
    assert steps.max() > 0


def test_a_goal_is_the_lead_of_its_class():
    found = towards(torch.tensor([[1.0, 3.0, 0.0], [1.0, 3.0, 0.0]]), torch.tensor([1, 2]))
    assert found.tolist() == [2.0, -3.0]


def test_it_breaks_at_least_what_pgd_breaks_on_a_plain_network(scene):
    model, images, labels = scene
    for eps in (2 / 255, 4 / 255):
        ours = predicted(model, Adaptive(eps, steps=40)(model, images, labels)) != labels
        theirs = predicted(model, PGD(eps=eps, steps=40)(model, images, labels)) != labels
        assert int(ours.sum()) >= int(theirs.sum())


@pytest.mark.parametrize("options", [{"decay": -1}, {"tries": -1}, {"mode": "x"}, {"targets": -1}, {"steps": -1}])
def test_bad_options_fail_at_construction(options):
    with pytest.raises(UsageError, match=next(iter(options))):
        Adaptive(4 / 255, **options)
