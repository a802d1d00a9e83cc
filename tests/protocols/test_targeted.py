"""Targeted success: rules that choose wrong classes, hits counted over images that are not hit already."""

import pytest
import torch

from ironclip.attacks import APGD, PGD
from ironclip.core.errors import DataError, UsageError
from ironclip.core.threat import Threat
from ironclip.core.types import Batch
from ironclip.protocols.targeted import RULES, aimed, check_rule, success, targets

EPS = 0.1
CLASSES = ("dark", "middle", "bright")


class Bands(torch.nn.Module):
    """Three classes by the mean of the image, with borders at 1/3 and 2/3."""

    classes = CLASSES

    def forward(self, images):
        mean = images.mean((1, 2, 3))
        return torch.stack([-(mean - center).square() for center in (1 / 6, 1 / 2, 5 / 6)], 1)


def batch(*means):
    images = torch.stack([torch.full((3, 2, 2), mean) for mean in means])
    labels = Bands()(images).argmax(1)
    return Batch(images, labels, torch.arange(len(means)), CLASSES)


def test_every_rule_chooses_a_wrong_class():
    logits = torch.tensor([[0.0, 1.0, 2.0], [3.0, 1.0, 2.0], [2.0, 1.0, -1.0]])
    labels = torch.tensor([0, 0, 2])
    for rule in RULES:
        assert (targets(rule, logits, labels, torch.arange(3)) != labels).all()
    assert targets("next", logits, labels, torch.arange(3)).tolist() == [1, 1, 0]
    assert targets("least-likely", logits, labels, torch.arange(3)).tolist() == [1, 1, 1]
    many = torch.zeros(300, 3)
    drawn = targets("random", many, torch.zeros(300, dtype=torch.long), torch.arange(300))
    assert set(drawn.tolist()) == {1, 2}
    assert torch.equal(drawn[100:], targets("random", many[100:], torch.zeros(200, dtype=torch.long), torch.arange(100, 300)))


def test_only_what_the_ball_lets_reach_its_target_is_a_hit():
    """0.30 and 0.62 lie within 0.1 of the border to the next class; 0.10 does not, and bright has dark as its next."""
    found = success(Bands(), PGD(EPS, steps=5), [batch(0.30, 0.62), batch(0.10, 0.9)], "next", Threat(eps=EPS))
    assert (found["success"]["count"], found["success"]["of"], found["attacked"]) == (2, 4, 4)


def test_what_is_answered_as_its_target_already_is_left_out():
    wrong = batch(0.5)
    wrong = Batch(wrong.images, torch.tensor([0]), wrong.indices, CLASSES)  # called dark, answered middle
    with pytest.raises(DataError, match="rule than next"):
        success(Bands(), PGD(EPS, steps=2), [wrong], "next", Threat(eps=EPS))


def test_rules_and_attacks_that_cannot_be_meant_are_refused():
    with pytest.raises(UsageError, match=r"--targeted .*one of next, random, least-likely; got True"):
        check_rule(True)
    with pytest.raises(UsageError, match="apgd cannot aim at a class"):
        aimed(APGD(EPS))
