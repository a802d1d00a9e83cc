"""8-bit images stay in the ball; black-box attacks get scores and nothing else."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from ironclip.core.errors import UsageError
from ironclip.core.tensors import project
from ironclip.core.threat import Threat
from ironclip.loops.scoring import check_budget, full_precision, quantised, targets
from ironclip.records.record import describe


def is_level(pixels: torch.Tensor) -> torch.Tensor:
    return (pixels * 255 - (pixels * 255).round()).abs() < 1e-4


@given(
    seed=st.integers(0, 10_000),
    radius=st.sampled_from([0.0, 0.1, 0.5, 1.0, 4.0, 8.3]),
    how=st.sampled_from(["round", "floor"]),
    kind=st.sampled_from(["linf", "l2"]),
    whole=st.booleans(),
)
@settings(max_examples=100, deadline=None)
def test_a_rounded_picture_is_in_the_ball_and_on_a_level_or_clean(seed, radius, how, kind, whole):
    generator = torch.Generator().manual_seed(seed)
    images = torch.rand(4, 3, 5, 5, generator=generator)
    images = (images * 255).round() / 255 if whole else images
    eps = radius / 255 * (5 if kind == "l2" else 1)
    corners = images + eps * torch.randn(images.shape, generator=generator).sign()
    threat = Threat(norm=kind, eps=eps, quantised=True)
    rounded = quantised(project(corners, images, eps, kind), images, threat, how)
    check_budget("any", rounded, images, torch.arange(4), threat)
    assert (is_level(rounded) | (rounded == images)).all()
    if whole or (radius >= 1 and kind == "linf"):
        assert is_level(rounded).all()


@pytest.mark.parametrize("how", ["round", "floor"])
def test_corners_of_the_ball_around_bytes_are_left_as_they_are(how):
    images = torch.arange(256).float().view(1, 1, 16, 16) / 255
    threat = Threat(eps=4 / 255, quantised=True)
    for sign in (-1, 1):
        adv = project(images + sign * threat.eps, images, threat.eps)
        assert torch.equal((quantised(adv, images, threat, how) * 255).round(), (adv * 255).round())


def test_floor_is_the_level_below_and_round_the_nearest():
    images, threat = torch.full((1, 1, 1, 1), 100 / 255), Threat(eps=4 / 255, quantised=True)
    adv = torch.full((1, 1, 1, 1), 102.7 / 255)
    assert float(quantised(adv, images, threat, "floor") * 255) == pytest.approx(102)
    assert float(quantised(adv, images, threat, "round") * 255) == pytest.approx(103)
    assert quantised(adv, images, threat, "none") is adv


def test_a_level_outside_the_ball_gives_way_to_the_one_inside():
    """Clean 100.4, radius 1: 99.4 floors to 99, which is 1.4 away; the level inside is 100."""
    images, threat = torch.full((1, 1, 1, 1), 100.4 / 255), Threat(eps=1 / 255, quantised=True)
    adv = images - 1 / 255
    assert float(quantised(adv, images, threat, "floor") * 255) == pytest.approx(100)


def test_the_scores_of_a_black_box_are_the_classifiers():
    classifier = torch.nn.Linear(4, 3)
    (target,) = targets(classifier, (), {"any": None}, Threat(knowledge="black-box"))  # type: ignore[arg-type, dict-item]
    images = torch.rand(2, 4, requires_grad=True)
    scores = target.function(images)
    assert torch.equal(scores, classifier(images))
    with pytest.raises(UsageError, match="the threat is black-box"):
        scores.sum().backward()


def test_full_precision_gives_back_what_it_found():
    before = torch.get_float32_matmul_precision(), torch.backends.cudnn.allow_tf32
    with full_precision():
        assert torch.get_float32_matmul_precision() == "highest"
    assert (torch.get_float32_matmul_precision(), torch.backends.cudnn.allow_tf32) == before


def test_attacks_are_described_as_their_own_room_does():
    from ironclip import attacks

    for attack in (attacks.PGD(4 / 255, steps=7), attacks.FGSM(1 / 255)):
        assert describe(attack) == attacks.describe(attack)
