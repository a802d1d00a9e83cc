"""Images made on another backbone: inside the ball, every one perturbed, and only the class names are taken from the target."""

import json

import pytest
import torch

from ironclip.attacks import Transfer, describe, rebuild
from ironclip.backbones import assemble, load
from ironclip.core.errors import UsageError


class Target:
    classes = ("a red circle", "a blue square", "a green star")

    def __call__(self, images):
        raise AssertionError("the target is not asked")


def images(count=3):
    return torch.rand(count, 3, 64, 64, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("attack", ["mim", "pgd", "di"])
def test_every_picture_is_perturbed_inside_the_ball_and_fools_the_source(attack):
    made = Transfer(8 / 255, inner=attack, steps=3)
    clean, labels = images(), torch.tensor([0, 1, 2])
    adv = made(Target(), clean, labels)
    assert (adv - clean).abs().max() <= 8 / 255 + 1e-6
    assert (adv != clean).flatten(1).any(1).all()
    source = assemble(load("mini"), Target.classes)
    loss = [torch.nn.functional.cross_entropy(source(x), labels) for x in (clean, adv)]
    assert loss[1] > loss[0]
    assert made(Target(), clean, labels).equal(adv)
    assert Transfer(0, inner=attack, steps=3)(Target(), clean, labels).equal(clean)


def test_what_cannot_be_transferred_is_said():
    labels = torch.tensor([0, 1, 2])
    with pytest.raises(UsageError, match="needs a classifier with class names"):
        Transfer(0.1)(lambda x: x, images(), labels)
    with pytest.raises(UsageError, match="mini sees 64 pixels, the images have 32"):
        Transfer(0.1)(Target(), images()[..., :32, :32], labels)
    with pytest.raises(UsageError, match="inner must be one of"):
        Transfer(0.1, inner="fgsm")


def test_it_is_a_value():
    attack = Transfer("4/255", source="mini-robust", inner="di", steps=3)
    assert rebuild(json.loads(json.dumps(describe(attack)))) == attack
