"""NAC: its equations as a loop, and what it has in common with TTC."""

import pytest
import torch
from torch.testing import assert_close

from ironclip.core.errors import UsageError
from ironclip.testtime import build

ALWAYS = {"tau": 1e9}


@pytest.fixture(scope="module")
def noise(images):
    return 2 * torch.rand(images.shape, generator=torch.Generator().manual_seed(2)) - 1


def slow(base, image, noise, method):
    """The iterates of one image [3, H, W], written out."""
    own = base.encode_image(image[None])[0].detach()
    delta, velocity = (image + method.eps * noise).clamp(0, 1) - image, torch.zeros_like(image)
    found = [delta]
    for _ in range(method.steps):
        p = (image + delta + method.momentum * velocity).requires_grad_()
        (slope,) = torch.autograd.grad((base.encode_image(p[None])[0] - own).square().sum(), p)
        velocity = method.momentum * velocity + method.step_size * slope.sign()
        delta = (delta + velocity).clamp(-method.eps, method.eps)
        delta = torch.minimum(torch.maximum(delta, -image), 1 - image)
        found.append(delta)
    return torch.stack(found)


def test_iterates_are_the_loop_written_out(base, images, noise):
    method = build("nac", {"steps": 3, "momentum": 0.7})
    found = method.iterates(base, images, method.start(images, noise))
    for number, image in enumerate(images):
        expected = slow(base, image, noise[number], method)
        off = (found[:, number] - expected).abs() > 1e-6  # a slope of zero up to rounding may have either sign
        assert off.double().mean() < 5e-3


@pytest.mark.parametrize("options", [{"momentum": 0.0, "steps": 3}, {"steps": 1}])
def test_without_momentum_and_in_one_step_it_is_ttc(base, images, noise, options):
    plain = {key: value for key, value in options.items() if key != "momentum"}
    found = build("nac", {**ALWAYS, **options}).counter(base, images, noise)
    assert_close(found, build("ttc", {**ALWAYS, **plain}).counter(base, images, noise), atol=1e-6, rtol=0)


def test_momentum_reaches_farther_and_stays_in_ball_and_box(base, images, noise):
    sizes = {**ALWAYS, "steps": 2, "beta": 50.0, "eps": 16 / 255}
    still = 0.01 * noise  # without any noise there is no slope to follow
    fast, slow = (build("nac", {**sizes, "momentum": mu}).counter(base, images, still) for mu in (0.9, 0.0))
    assert fast.abs().max() == pytest.approx(2.9 / 255, abs=7e-4)
    assert slow.abs().max() == pytest.approx(2 / 255, abs=7e-4)
    delta = build("nac", {**ALWAYS, "steps": 6}).counter(base, images, noise)
    assert delta.abs().max() <= 4 / 255 + 1e-6
    assert (images + delta).min() >= 0
    assert (images + delta).max() <= 1


def test_bad_options_fail_at_construction():
    with pytest.raises(UsageError, match="momentum"):
        build("nac", {"momentum": 1.5})
    with pytest.raises(UsageError, match="tau"):
        build("nac", {"tau": -1})
