"""The embedding moves, whatever the label."""

import pytest
import torch
from toys import convnet, linear, pictures, predicted

from ironclip.attacks import Feature
from ironclip.attacks.feature import DISTANCES
from ironclip.core.errors import UsageError


class Tower(torch.nn.Module):
    """A classifier with an image tower, as ours are."""

    def __init__(self):
        super().__init__()
        self.net = convnet()

    def encode_image(self, images):
        return self.net[:-1](images)

    def forward(self, images):
        raise AssertionError("logits are not looked at")


@pytest.mark.parametrize("distance", list(DISTANCES))
def test_features_move_away_further_with_a_larger_radius(distance):
    tower, images = Tower().eval(), pictures()
    clean = tower.encode_image(images).detach()
    moved = []
    for eps in (0.01, 0.03, 0.1):
        adv = Feature(eps, steps=10, distance=distance)(tower, images, torch.zeros(12, dtype=torch.long))
        assert (adv - images).abs().max() <= eps + 1e-6
        moved.append(DISTANCES[distance](tower.encode_image(adv).detach(), clean))
    assert (moved[0] > 0).all()
    assert (moved[2] > moved[0]).all()
    assert moved[0].mean() < moved[1].mean() < moved[2].mean()


def test_labels_do_not_matter():
    tower, images = Tower().eval(), pictures()
    attack = Feature(0.05, steps=5)
    first = attack(tower, images, torch.zeros(12, dtype=torch.long))
    assert attack(tower, images, torch.full((12,), 4)).equal(first)


def test_one_linear_feature_reaches_its_corner():
    """|w x| of a single feature is largest at a corner of the ball; both corners are as far."""
    model, images = linear(1), 0.4 + 0.2 * pictures()
    adv = Feature(0.1, steps=20)(model, images, torch.zeros(12, dtype=torch.long))
    sign = model[1].weight.detach().sign().view(1, 3, 4, 4)
    delta = (adv - images) * sign
    assert torch.allclose(delta.abs(), torch.full_like(delta, 0.1), atol=1e-6)
    assert (delta.flatten(1).sign() == delta.flatten(1).sign()[:, :1]).all()


def test_the_class_changes_without_a_label_being_used():
    model, images = convnet(), pictures(40)
    labels = predicted(model, images)
    adv = Feature(0.2, steps=20)(model, images, labels)
    assert (predicted(model, adv) == labels).double().mean() < 0.8


def test_options():
    with pytest.raises(UsageError, match="distance must be one of squared, cosine, kl; got 'l2'"):
        Feature(0.1, distance="l2")
