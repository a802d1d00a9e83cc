"""Input diversity: what is drawn, and that each image draws for itself."""

import pytest
import torch
from torch import nn
from toys import pictures

from ironclip.attacks import DI, MIM
from ironclip.attacks.di import resized
from ironclip.core.errors import UsageError
from ironclip.core.tensors import generator


def wide(seed=0):
    """A network on images of 20 pixels."""
    torch.manual_seed(seed)
    return nn.Sequential(nn.Conv2d(3, 4, 5, stride=2), nn.GELU(), nn.Flatten(), nn.Linear(256, 4)).eval()


@pytest.fixture
def scene():
    with torch.random.fork_rng():
        model = wide()
    images = nn.functional.interpolate(pictures(6), size=(20, 20), mode="nearest")
    with torch.no_grad():
        return model, images, model(images).argmax(1)


def test_a_copy_is_smaller_and_padded_with_zeros():
    image = torch.rand(1, 3, 20, 20, generator=generator(1)) * 0.5 + 0.5
    sizes = set()
    for seed in range(40):
        copy = resized(image, 0.9, 1.0, generator(seed))
        rows = (copy[0, 0] > 0).any(1)
        sizes.add(int(rows.sum()))
        assert copy.shape == image.shape
        assert copy[0, 0][rows][:, (copy[0, 0] > 0).any(0)].min() >= 0.5 - 1e-6
    assert sizes == {18, 19}
    assert resized(image, 0.9, 0.0, generator(0)).equal(image)
    half = [resized(image, 0.9, 0.5, generator(seed)).equal(image) for seed in range(100)]
    assert 30 < sum(half) < 70


def test_without_diversity_it_is_mim(scene):
    model, images, labels = scene
    plain = DI(0.05, steps=4, step_size=0.01, probability=0.0)(model, images, labels)
    assert torch.allclose(plain, MIM(0.05, steps=4, step_size=0.01, decay=0.0)(model, images, labels), atol=1e-6)
    assert not torch.allclose(DI(0.05, steps=4, step_size=0.01)(model, images, labels), plain)


def test_the_draws_of_an_image_do_not_depend_on_its_company(scene):
    model, images, labels = scene
    attack, positions = DI(0.05, steps=5, probability=1.0), torch.arange(50, 56)
    whole = attack(model, images, labels, indices=positions)
    alone = torch.cat([attack(model, images[i : i + 1], labels[i : i + 1], indices=positions[i : i + 1]) for i in range(6)])
    assert torch.allclose(alone, whole, atol=1e-4)
    assert not attack(model, images, labels, indices=positions + 1).equal(whole)


def test_options():
    for options, words in (({"resize": 0}, "resize"), ({"probability": 1.5}, "probability"), ({"decay": -1}, "decay")):
        with pytest.raises(UsageError, match=words):
            DI(0.1, **options)
