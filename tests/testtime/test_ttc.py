"""TTC against values of the released code, and its limits."""

import pytest
import torch
from torch.testing import assert_close

from ironclip.backbones import assemble
from ironclip.backbones.tiny import tiny_backbone
from ironclip.core.errors import UsageError
from ironclip.core.types import Adaptation
from ironclip.testtime import build
from ironclip.testtime._base import AdaptingClassifier, image_keys


@pytest.fixture(scope="module")
def scene():
    draw = torch.Generator().manual_seed(1)
    images = torch.randint(256, (4, 3, 32, 32), generator=draw) / 255
    with torch.no_grad():
        return assemble(tiny_backbone(), ("cat", "dog", "tram")), images, 2 * torch.rand(images.shape, generator=draw) - 1


def test_limits(scene):
    base, images, noise = scene
    with torch.no_grad():
        assert_close(build("ttc", {"eps": 0.0})(base)(images), base(images))
        alone = build("ttc", {"tau": 0.0}).counter(base, images, noise)
        assert_close(alone, (images + 4 / 255 * noise).clamp(0, 1) - images)
        assert_close(build("ttc", {"steps": 0, "tau": 9.0}).counter(base, images, noise), alone)
        many = build("ttc", {"tau": 9.0, "beta": 0.0, "steps": 3})
        iterates = many.iterates(base, images, images + alone)
        assert_close(many.counter(base, images, noise), iterates.mean(0))
        last = build("ttc", {"tau": 9.0, "beta": 50.0, "steps": 3}).counter(base, images, noise)
        assert_close(last, iterates[-1], atol=1e-6, rtol=0)


def test_the_counterattack_stays_in_its_ball_and_moves_the_features(scene):
    base, images, noise = scene
    method = build("ttc", {"tau": 9.0, "steps": 4})
    delta = method.counter(base, images, noise)
    assert delta.abs().max() <= 4 / 255 + 1e-6
    assert (images + delta).min() >= 0
    assert (images + delta).max() <= 1
    own = base.encode_image(images)
    moved = [(base.encode_image(images + one) - own).norm(dim=1) for one in method.iterates(base, images, images + delta * 0.1)]
    assert (moved[-1] > moved[0]).all()


def test_the_gate_uses_the_original_encoder_unless_told_otherwise(scene):
    base, images, noise = scene
    with torch.no_grad():
        blurred = assemble(base.backbone, base.classes, Adaptation(pixels=(lambda x: x * 0 + 0.5 + x * 1e-3,)))
    noisy = (images + 4 / 255 * noise).clamp(0, 1)
    original = build("ttc", {}).shift(blurred, images, noisy)
    assert_close(original, build("ttc", {}).shift(base, images, noisy))
    assert (build("ttc", {"gate": "base"}).shift(blurred, images, noisy) < 0.1 * original).all()


def surrogate(base, name, **options):
    defended = build("ttc", options)(base)
    return next(one for one in defended.method.surrogates(defended) if one.name == name)


def test_the_sloping_gate_is_the_method_where_it_is_steep(scene):
    base, images, _ = scene
    method = build("ttc", {})
    keys = image_keys(images, 0)
    shifts = method.shift(base, images, (images + method.eps * method.noise(images, keys)).clamp(0, 1))
    tau = float(shifts.sort().values[1:3].mean())  # two images on either side
    with torch.no_grad():
        exact = build("ttc", {"tau": tau})(base)(images).log_softmax(1)
        assert_close(surrogate(base, "gate", tau=tau, softness=1e-4)(images), exact, rtol=1e-4, atol=1e-4)
        assert not torch.allclose(surrogate(base, "gate", tau=tau, softness=10.0)(images), exact, atol=1e-4)
    assert "gate" not in [one.name for one in build("ttc", {"tau": 0.0}).surrogates(build("ttc", {"tau": 0.0})(base))]


def test_the_sloping_gate_shows_the_way_out_of_the_counterattack(scene):
    """Where the counterattack changes the answer, the slope of its class goes through the gate, which a step hides."""
    base, images, _ = scene
    defended = build("ttc", {"tau": 9.0})(base)
    method, keys = build("ttc", {"tau": 0.5, "softness": 1.0}), image_keys(images, 0)
    noise = method.noise(images, keys)
    start = (images + method.eps * noise).clamp(0, 1)
    leaf = images.clone().requires_grad_()
    method.shift(base, leaf, (leaf + method.eps * noise).clamp(0, 1)).sum().backward()
    out = leaf.grad
    with torch.no_grad():
        alone, pushed = base(start).softmax(1), defended(images).softmax(1)
    sought = (alone - pushed).argmax(1)  # the class that gains most if the image is left alone

    def slope(function):
        leaf = images.clone().requires_grad_()
        function(leaf).log_softmax(1).gather(1, sought[:, None]).sum().backward()
        return leaf.grad

    sloping = surrogate(base, "gate", tau=0.5, softness=1.0)
    frozen = method.shift(base, images, start).detach()
    still = build("ttc", {"tau": 0.5, "softness": 1.0})
    still.shift = lambda *_: frozen  # the same gate, whose slope nobody sees
    through = slope(sloping) - slope(AdaptingClassifier(still, base, still.gated))
    cosine = torch.nn.functional.cosine_similarity(through.flatten(1), out.flatten(1))
    assert (cosine > 0.999).all()


@pytest.mark.parametrize(
    "options", [{"eps": 2}, {"step_size": 0}, {"steps": -1}, {"beta": -1}, {"tau": -0.1}, {"gate": "no"}, {"softness": 0}]
)
def test_bad_options_fail_at_construction(options):
    with pytest.raises(UsageError, match=next(iter(options))):
        build("ttc", options)
