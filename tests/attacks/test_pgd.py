"""PGD against closed forms, against loops written out, and against the published implementations."""

from itertools import pairwise

import pytest
import torch
from torch.nn import functional as F
from torch.testing import assert_close
from toys import convnet, linear, pgd, pictures, predicted

from ironclip.attacks import PGD
from ironclip.attacks._goal import TARGETED, Best, Part
from ironclip.core.errors import DataError, UsageError
from ironclip.core.losses import cross_entropy_each, kl_each, margin_each
from ironclip.core.tensors import keyed_uniform, project


def scene(count=12, seed=0, dtype=torch.float32):
    model, images = convnet(seed=seed, dtype=dtype), pictures(count, dtype=dtype)
    return model, images, predicted(model, images)


def ce(model, images, labels):
    with torch.no_grad():
        return cross_entropy_each(model(images), labels)


def margin(model, images, labels):
    with torch.no_grad():
        return margin_each(model(images), labels)


class Watched(torch.nn.Module):
    """A model that remembers what it was shown."""

    def __init__(self, model):
        super().__init__()
        self.model, self.seen, self.modes = model, [], []

    def forward(self, images):
        self.seen.append(images.detach().clone())
        self.modes.append(self.model.training)
        return self.model(images)


@pytest.mark.parametrize("start", ["uniform", "zero", "one_sided", "gaussian"])
@pytest.mark.parametrize("loss", ["ce", "margin"])
def test_pgd_reaches_the_optimum_of_a_linear_model(start, loss):
    model, images = linear(2), pictures()
    labels = predicted(model, images)
    weight = model[1].weight.detach()
    towards = (weight[1 - labels] - weight[labels]).sign().view_as(images)
    for keep in ("best", "last"):
        found = pgd(model, images, labels, eps=0.1, steps=10, start=start, loss=loss, keep=keep)
        assert_close(found, (images + 0.1 * towards).clamp(0, 1))


def test_l2_pgd_falls_just_beyond_the_euclidean_distance_and_not_before():
    model = linear(2, dtype=torch.float64)
    images = 0.4 + 0.2 * pictures(dtype=torch.float64)
    labels = predicted(model, images)
    weight = model[1].weight.detach()
    distance = -margin(model, images, labels) / (weight[0] - weight[1]).norm()
    for at in range(len(images)):
        one = model, images[at : at + 1], labels[at : at + 1]
        for factor, falls in ((1.02, True), (0.98, False)):
            found = pgd(*one, eps=factor * distance[at].item(), norm="l2", steps=60)
            assert (predicted(model, found) != one[2]).item() is falls


def test_last_iterate_follows_the_recursion_written_out():
    model, images, labels = scene()
    adv = (images + 0.05 * keyed_uniform((3, 4, 4), 4, range(12))).clamp(0, 1)
    for _ in range(5):
        leaf = adv.clone().requires_grad_()
        (slope,) = torch.autograd.grad(F.cross_entropy(model(leaf), labels, reduction="sum"), leaf)
        adv = project(adv + 0.02 * slope.sign(), images, 0.05)
    assert_close(pgd(model, images, labels, eps=0.05, step_size=0.02, steps=5, keep="last", seed=4), adv)


@pytest.mark.parametrize("name", ["margin", "callable"])
def test_best_is_the_highest_loss_of_all_points_seen(name):
    model, images, labels = scene()
    loss = margin_each if name == "callable" else "margin"
    watched = Watched(model)
    found = pgd(watched, images, labels, eps=0.2, step_size=0.2, steps=7, restarts=2, loss=loss)
    assert len(watched.seen) == 1 + 2 * 8
    reached = torch.stack([margin(model, seen, labels) for seen in watched.seen])
    assert watched.seen[0].equal(images)
    assert_close(margin(model, found, labels), reached.amax(0))


def test_best_prefers_a_misclassified_point_to_a_higher_loss():
    """Logits of one pixel x: at x >= 0.6 the loss is highest, only between 0.45 and 0.55 the image is misclassified."""

    def function(images):
        x = images[:, 0]
        wrong = torch.where((x - 0.5).abs() < 0.05, 5.0, 0.0)
        return torch.stack([5 - x, wrong + x - x.detach() + 0.1, torch.where(x > 0.6, 4.35, 4.9 - 9 * (0.6 - x).abs())], dim=1)

    images, labels = torch.full((1, 1), 0.3), torch.zeros(1, dtype=torch.long)
    found = pgd(function, images, labels, eps=0.4, step_size=0.1, steps=4, start="zero")
    assert function(found).argmax() != 0
    assert found.item() == pytest.approx(0.5)


def test_more_steps_more_restarts_and_a_start_never_help_the_defender():
    for seed in range(3):
        model, images, labels = scene(20, seed)
        options = {"eps": 0.1, "step_size": 0.1, "loss": "margin"}
        steps = [margin(model, pgd(model, images, labels, steps=count, **options), labels) for count in (0, 1, 2, 5, 10)]
        runs = [margin(model, pgd(model, images, labels, steps=3, restarts=count, **options), labels) for count in (1, 2, 4)]
        start = (images + 0.1 * keyed_uniform((3, 4, 4), 0, range(20))).clamp(0, 1)
        for series in (steps, runs):
            assert (series[0] >= margin(model, images, labels) - 1e-6).all()
            assert (series[0] >= margin(model, start, labels) - 1e-6).all()
            for fewer, more in pairwise(series):
                assert (more >= fewer - 1e-6).all()
        robust = [(predicted(model, pgd(model, images, labels, eps=0.1, step_size=0.1, steps=n)) == labels) for n in (0, 2, 6)]
        assert (robust[1] <= robust[0]).all()
        assert (robust[2] <= robust[1]).all()


def test_last_with_restarts_takes_the_run_that_ends_highest():
    model, images, labels = scene()
    options = {"eps": 0.2, "step_size": 0.2, "steps": 3, "keep": "last"}
    noises = [keyed_uniform((3, 4, 4), 0, range(12), restart) for restart in range(4)]
    ends = torch.stack([pgd(model, images, labels, noise=noise, **options) for noise in noises])
    values = torch.stack([ce(model, end, labels) for end in ends])
    assert values.argmax(0).unique().numel() > 1
    assert_close(pgd(model, images, labels, restarts=4, **options), ends[values.argmax(0), torch.arange(12)])


def test_last_with_one_run_costs_no_more_than_its_steps():
    model, images, labels = scene()
    watched = Watched(model)
    pgd(watched, images, labels, eps=0.1, steps=3, keep="last")
    assert len(watched.seen) == 3


def test_compaction_shows_the_model_only_images_that_still_stand():
    model, images, labels = scene(30)
    labels[:5] = (labels[:5] + 1) % 5
    watched = Watched(model)
    pgd(watched, images, labels, eps=0.05, steps=8, mode="compact")
    sizes = [len(seen) for seen in watched.seen]
    assert sizes[:2] == [30, 25]
    assert sizes == sorted(sizes, reverse=True)
    assert sizes[-1] < 25


def test_compaction_is_refused_where_it_would_change_results():
    for options in ({"keep": "last"}, {"loss": "kl"}, {"loss": margin_each}):
        with pytest.raises(UsageError, match='mode="compact" drops misclassified images'):
            PGD(eps=0.1, mode="compact", **options)
    with pytest.raises(UsageError, match='mode="compact"'):
        PGD(eps=0.1, mode="compact")(*scene(), loss=margin_each)


def test_starts_written_out():
    model, images, labels = scene()
    noise = keyed_uniform((3, 4, 4), 7, range(12), 0)
    expected = {
        "uniform": 0.1 * noise,
        "one_sided": 0.1 * (noise + 1) / 2,
        "gaussian": 0.001 * torch.special.ndtri((noise.double() + 1) / 2).float(),
        "zero": torch.zeros_like(noise),
    }
    for start, delta in expected.items():
        found = pgd(model, images, labels, eps=0.1, steps=0, keep="last", start=start, seed=7)
        assert_close(found, (images + delta).clamp(0, 1), rtol=0, atol=1e-5)
    assert (pgd(model, images, labels, eps=0.5, norm="l2", steps=0, keep="last") - images).flatten(1).norm(
        dim=1
    ).max() <= 0.5 + 1e-6


def test_given_noise_stands_for_the_first_draw_and_is_checked():
    model, images, labels = scene()
    noise = keyed_uniform((3, 4, 4), 7, range(12), 0)
    options = {"eps": 0.1, "steps": 3, "restarts": 2, "seed": 7}
    assert pgd(model, images, labels, noise=noise.double(), **options).equal(pgd(model, images, labels, **options))
    for bad in (noise * 2, noise[:3], noise / 0):
        with pytest.raises(DataError, match=r"noise must lie in \[-1, 1\]"):
            pgd(model, images, labels, noise=bad, **options)


def test_restarts_from_no_start_are_refused():
    with pytest.raises(UsageError, match="are all the same run"):
        PGD(eps=0.1, restarts=2, start="zero")


def test_kl_rises_from_the_clean_prediction_without_labels():
    model, images, labels = scene()
    clean = model(images).detach()
    found = pgd(model, images, labels, eps=0.1, steps=5, loss="kl")
    assert found.equal(pgd(model, images, labels * 0, eps=0.1, steps=5, loss="kl"))
    assert found.equal(pgd(model, images, labels, eps=0.1, steps=5, loss=lambda outputs, _: kl_each(outputs, clean)))
    assert (kl_each(model(found), clean) > 1e-3).all()
    with pytest.raises(UsageError, match="no gradient at the clean image"):
        PGD(eps=0.1, loss="kl", start="zero")


def test_a_targeted_attack_descends_to_its_target():
    model, images, labels = scene()
    targets = (labels + 1) % 5
    found = pgd(model, images, targets, eps=0.2, steps=10, targeted=True)
    assert (ce(model, found, targets) <= ce(model, images, targets)).all()
    compact = pgd(model, images, targets, eps=0.2, steps=10, targeted=True, mode="compact")
    assert (predicted(model, compact) == targets).equal(predicted(model, found) == targets)


def test_the_mode_of_the_caller_is_kept_where_asked():
    model, images, labels = scene()
    watched = Watched(model).train()
    for eval_mode in (True, False):
        PGD(eps=0.1, steps=2, eval_mode=eval_mode)(watched, images, labels)
    assert watched.modes == [False] * 4 + [True] * 4


def test_a_loss_of_the_wrong_shape_is_refused():
    with pytest.raises(UsageError, match=r"one value for each of 12 images; got shape \(\)"):
        PGD(eps=0.1)(*scene(), loss=F.cross_entropy)


def test_the_default_is_the_project_default():
    attack = PGD(eps=4 / 255)
    assert (attack.steps, attack.restarts, attack.start, attack.keep, attack.loss, attack.norm) == (
        100,
        1,
        "uniform",
        "best",
        "ce",
        "linf",
    )
    assert attack.derived == {"step_size": 1 / 255}


@pytest.mark.parametrize("keep", ["best", "last"])
def test_iterates_beyond_the_box_come_back_clipped(keep):
    model, images, labels = scene()
    seen = Watched(model)
    found = pgd(seen, images, labels, eps=0.5, step_size=0.5, steps=3, box="forward", keep=keep)
    assert 0 <= found.min() <= found.max() <= 1
    assert all(0 <= shown.min() <= shown.max() <= 1 for shown in seen.seen)


def test_best_of_points_offered_one_by_one():
    """A fooling point before any other, then the higher loss, then the later one."""
    points = torch.arange(6.0).view(6, 1, 1, 1)
    outputs = {False: torch.tensor([[1.0, 0.0]]), True: torch.tensor([[0.0, 1.0]])}
    best, row = Best(torch.full((1, 1, 1), -1.0), torch.zeros(1, dtype=torch.long), False), torch.zeros(1, dtype=torch.long)
    held = []
    for point, fools, value in zip(points, (False, False, True, False, True, True), (2.0, 1.0, 0.0, 3.0, -1.0, 0.0)):
        best.offer(row, row, point, outputs[fools], torch.tensor([value]))
        held.append(best.adv.item())
    assert held == [0, 0, 2, 2, 2, 5]


@pytest.mark.parametrize("name", TARGETED)
def test_losses_towards_a_class_rise_with_it_and_fall_with_the_label(name):
    logits, labels = torch.zeros(1, 5, dtype=torch.float64), torch.zeros(1, dtype=torch.long)
    logits[0] = torch.tensor([2.0, 1.0, 0.5, 0.2, -1.0])
    before = TARGETED[name](logits, labels, labels + 3)
    towards, away = logits.clone(), logits.clone()
    towards[0, 3] += 0.1
    away[0, 0] += 0.1
    assert TARGETED[name](towards, labels, labels + 3) > before
    if name != "dlr":  # its scale follows the highest logit
        assert TARGETED[name](away, labels, labels + 3) < before


def test_an_image_broken_on_its_way_to_any_target_is_followed_no_further():
    labels, wanted = torch.tensor([0, 0, 0]), torch.tensor([[1, 1, 1], [2, 2, 2]])
    part = Part(torch.zeros(3, 1, 1, 1), labels, torch.arange(3), torch.zeros(3, 3), wanted, "margin")
    rows = torch.arange(6)
    assert part.going(rows).all()
    part.best.fooled[4] = True  # image 1 on its way to the second target
    assert part.going(rows).tolist() == [True, False, True, True, False, True]
    assert part.going(torch.tensor([1, 5])).tolist() == [False, True]
