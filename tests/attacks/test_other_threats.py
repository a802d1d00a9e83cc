"""l1, patches and painted words: changes stay within the threat, known optima are reached, no threat is taken for another."""

import json

import pytest
import torch
from torch.testing import assert_close
from toys import convnet, linear, pictures, predicted

from ironclip.attacks import build, default, describe, rebuild
from ironclip.attacks._climb_l1 import sparse
from ironclip.attacks.patch import cut, first_corners, pasted
from ironclip.attacks.typographic import paint
from ironclip.core.errors import UsageError
from ironclip.core.tensors import dual, norm, project, steepest
from ironclip.core.threat import Threat, parse_radii


def greedy(image, weight, eps):
    """The largest rise of <weight, x'> in ball and box together: the steepest pixels first, each as far as it can go."""
    rise, left = 0.0, eps
    for place in weight.abs().argsort(descending=True).tolist():
        room = 1 - float(image[place]) if weight[place] > 0 else float(image[place])
        moved = min(room, left)
        rise, left = rise + float(weight[place].abs()) * moved, left - moved
    return rise


def slow_projection(delta, image, eps):
    """The nearest allowed change of one image, by halving an interval for the threshold."""
    room = torch.where(delta > 0, 1 - image, image)

    def change(cut):
        return delta.sign() * torch.minimum((delta.abs() - cut).clamp_min(0), room)

    if change(0.0).abs().sum() <= eps:
        return change(0.0)
    low, high = 0.0, float(delta.abs().max())
    for _ in range(100):
        middle = (low + high) / 2
        low, high = (middle, high) if change(middle).abs().sum() > eps else (low, middle)
    return change(high)


@pytest.mark.parametrize("eps", [0.1, 2.0, 9.0, 100.0])
def test_the_l1_projection_is_the_nearest_point_of_ball_and_box(eps):
    images = pictures(dtype=torch.float64)
    adv = images + torch.randn(images.shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    found = project(adv, images, eps, "l1")
    for one, moved, image in zip(found, adv, images):
        assert_close(one - image, slow_projection(moved - image, image, eps), atol=1e-9, rtol=0)
    assert norm(found - images, "l1").max() <= eps + 1e-9
    assert project(found, images, eps, "l1").allclose(found, atol=1e-9)
    assert_close(project(adv, images, 1e9, "l1", box=False), adv)


def test_l1_and_linf_are_dual_and_the_steepest_l1_step_moves_one_number():
    slope = torch.randn(4, 3, 4, 4, generator=torch.Generator().manual_seed(1))
    for kind in ("linf", "l2", "l1"):
        assert_close((slope * steepest(slope, kind)).flatten(1).sum(1), dual(slope, kind))
        assert_close(norm(steepest(slope, kind), kind), torch.ones(4))
    assert ((steepest(slope, "l1") != 0).flatten(1).sum(1) == 1).all()


def test_a_sparse_step_moves_the_largest_entries_alike():
    slope = torch.tensor([[[[4.0, -3.0, 0.5, 0.1]]]])
    assert_close(sparse(slope, torch.tensor([0.5])), torch.tensor([[[[0.5, -0.5, 0.0, 0.0]]]]))
    assert_close(sparse(slope, torch.tensor([0.0])), torch.tensor([[[[1.0, 0.0, 0.0, 0.0]]]]))


@pytest.mark.parametrize("eps", [1.0, 4.0])
def test_apgd_l1_reaches_the_greedy_optimum_of_a_linear_model(eps):
    model, images = linear(2, dtype=torch.float64), pictures(dtype=torch.float64)
    labels = predicted(model, images)
    adv = build("apgd", eps=eps, norm="l1", steps=100)(model, images, labels)
    assert norm(adv - images, "l1").max() <= eps + 1e-6
    assert adv.min() >= 0
    assert adv.max() <= 1
    rows = model[1].weight.detach()
    shares = []
    for image, moved, label in zip(images, adv, labels):
        weight = rows[1 - label] - rows[label]
        shares.append(float(((moved - image).flatten() * weight).sum()) / greedy(image.flatten(), weight, eps))
    assert min(shares) > 0.9
    assert max(shares) < 1 + 1e-6
    assert sum(shares) / len(shares) > 0.95


def test_standard_fast_in_l1_has_members_that_can():
    attack = build("standard-fast", eps=4.0, norm="l1")
    assert {member.norm for member in attack.members.values()} == {"l1"}
    model, images = convnet(), pictures()
    adv = attack(model, images, predicted(model, images))
    assert norm(adv - images, "l1").max() <= 4.0 + 1e-4
    assert (predicted(model, adv) != predicted(model, images)).float().mean() > 0.5


@pytest.mark.parametrize("name", ["pgd", "cw", "fab", "square", "autoattack", "mim", "adaptive", "fgsm", "di", "feature"])
@pytest.mark.parametrize("kind", ["l1", "patch", "text"])
def test_an_attack_in_other_norms_refuses_and_says_what_fits(name, kind):
    with pytest.raises(UsageError, match=r"is an attack in linf and l2; got norm='\w+'; use (apgd|patch|typographic)"):
        build(name, eps=0.5, norm=kind)


@pytest.mark.parametrize(("name", "kind"), [("patch", "linf"), ("typographic", "patch"), ("patch", "text")])
def test_a_patch_and_a_text_are_no_balls(name, kind):
    with pytest.raises(UsageError, match="is an attack in"):
        build(name, eps=0.5, norm=kind)
    with pytest.raises(UsageError, match="is no ball around an image"):
        project(pictures(), pictures(), 0.1, "patch")


def test_the_default_attack_follows_the_threat():
    found = {kind: default("white-box", test_time=False, norm=kind) for kind in ("linf", "l2", "l1", "patch", "text")}
    assert found == {
        "linf": "standard-fast",
        "l2": "standard-fast",
        "l1": "standard-fast",
        "patch": "patch",
        "text": "typographic",
    }
    assert default("adaptive", test_time=True) == "adaptive"


def test_every_threat_is_named_and_has_a_radius_of_its_own():
    assert str(Threat(norm="patch", eps=0.05)) == "white-box patch 0.05"
    assert Threat(norm="l1", eps=12).radius == "l1-12"
    assert parse_radii("12", "l1") == [12.0]
    for kind in ("patch", "text"):
        with pytest.raises(UsageError, match="is a share of the image's area"):
            Threat(norm=kind, eps=1.5)
        with pytest.raises(UsageError, match="needs a radius of its own"):
            parse_radii(None, kind)


def big(count=4, side=16):
    return torch.rand(count, 3, side, side, generator=torch.Generator().manual_seed(3))


def quadrant(images):
    """Two classes; only the mean of the lower right 4 x 4 pixels decides."""
    brightness = images[:, :, 12:, 12:].mean((1, 2, 3))
    return torch.stack([brightness, 0.7 - brightness], 1) * 20


def test_the_covered_share_is_that_of_the_rectangle_around_all_changes():
    delta = torch.zeros(2, 3, 10, 20)
    delta[0, 1, 2, 3] = delta[0, 0, 5, 12] = 0.1
    for kind in ("patch", "text"):
        assert_close(norm(delta, kind), torch.tensor([4 * 10 / 200, 0.0]))


def test_a_patch_finds_the_place_that_decides_and_changes_nothing_else():
    images = big()
    labels = quadrant(images).argmax(1)
    attack = build("patch", eps=16 / 256, steps=30)
    adv = attack(quadrant, images, labels)
    assert (quadrant(adv).argmax(1) != labels).all()
    assert norm(adv - images, "patch").max() <= 16 / 256 + 1e-6
    assert adv.min() >= 0
    assert adv.max() <= 1


def test_a_patch_moves_towards_the_place_that_decides():
    images = big()
    labels = torch.zeros(4, dtype=torch.long)
    start = torch.tensor([[12, 9]] * 4)
    moved = build("patch", eps=0.06)._moved(quadrant, images, labels, torch.zeros(4, 3, 4, 4), start, 3)
    assert moved.tolist() == [[12, 12]] * 4


def test_the_first_places_are_the_most_sensitive_and_lie_apart():
    slope = torch.zeros(1, 3, 16, 16)
    slope[:, :, 2:6, 2:6], slope[:, :, 9:13, 10:14] = 2.0, 1.0
    assert [corner.tolist() for corner in first_corners(slope, 4, 2)] == [[[2, 2]], [[9, 10]]]
    assert len(first_corners(slope, 16, 3)) == 3


def test_cutting_is_the_inverse_of_pasting():
    images, corner, content = big(), torch.tensor([[0, 0], [12, 12], [3, 7], [5, 1]]), torch.rand(4, 3, 4, 4)
    assert cut(pasted(images, content, corner), corner, 4).equal(content)


class Reader:
    """Three classes; an image shows class 1 as soon as anything dark is painted on it."""

    classes = ("cat", "dog", "a rather long name of a class")

    def __call__(self, images):
        dark = (images < 0.05).float().mean((1, 2, 3))
        return torch.stack([torch.full_like(dark, 0.01), dark, torch.zeros_like(dark)], 1)


def test_words_mislead_a_model_that_reads_them_and_stay_within_their_share():
    images, labels = 0.5 + 0.3 * big(side=32), torch.zeros(4, dtype=torch.long)
    adv = build("typographic", eps=0.1)(Reader(), images, labels)
    assert (Reader()(adv).argmax(1) == 1).all()
    assert norm(adv - images, "text").max() <= 0.1
    assert norm(adv - images, "text").min() > 0.02


@pytest.mark.parametrize("words", ["cat", "a rather long name of a class", "", "\u05e9\u05dc\u05d5\u05dd\n\x00", "x" * 500])
@pytest.mark.parametrize("place", [(0.0, 0.0), (1.0, 1.0), (0.5, 0.5)])
def test_any_name_is_painted_inside_its_rectangle(words, place):
    image = torch.full((3, 96, 64), 0.5)
    painted = paint(image, words, 0.2, place, (1.0, 0.0))
    assert 0 < float(norm((painted - image)[None], "text")) <= 0.2
    assert painted.min() >= 0
    assert painted.max() <= 1


def test_words_need_names_and_room():
    images, labels = big(), torch.zeros(4, dtype=torch.long)
    with pytest.raises(UsageError, match="has no attribute classes"):
        build("typographic", eps=0.1)(quadrant, images, labels)
    with pytest.raises(UsageError, match="is too small to be read"):
        build("typographic", eps=0.001)(Reader(), 0.5 + 0.3 * images, labels)
    with pytest.raises(UsageError, match="is less than one pixel"):
        build("patch", eps=0.001)(quadrant, images, labels)


@pytest.mark.parametrize(("name", "eps", "function"), [("patch", 0.06, quadrant), ("typographic", 0.1, Reader())])
def test_results_depend_on_seed_and_index_alone(name, eps, function):
    images = big(side=16 if name == "patch" else 32)
    labels, attack = torch.ones(4, dtype=torch.long), build(name, eps=eps, **({"steps": 5} if name == "patch" else {}))
    whole = attack(function, images, labels, indices=torch.arange(10, 14))
    alone = [attack(function, images[at : at + 1], labels[at : at + 1], indices=[10 + at]) for at in range(4)]
    assert torch.cat(alone).allclose(whole, atol=1e-6)
    assert rebuild(json.loads(json.dumps(describe(attack)))) == attack
    assert build(name, eps=0)(function, images, labels).equal(images)
