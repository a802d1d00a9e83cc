"""CLIPure: its equations as a loop, what its constants do, its Gaussian prior, and what an attacker differentiates."""

import math

import pytest
import torch
import torch.nn.functional as F
from torch.testing import assert_close

from ironclip.core.errors import UsageError
from ironclip.core.types import Batch
from ironclip.testtime import build
from ironclip.testtime.clipure import GaussianPrior, kept, towards, turned


def unit(*shape, seed=0):
    return F.normalize(torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64), dim=-1)


def at_angles(text, degrees, seed=1):
    """[n, E] unit rows at these angles to text."""
    other = unit(len(degrees), len(text), seed=seed)
    other = F.normalize(other - (other @ text)[:, None] * text, dim=-1)
    angle = torch.tensor(degrees, dtype=torch.float64)[:, None] * math.pi / 180
    return angle.cos() * text + angle.sin() * other


def angle(e, text):
    return (e @ text).clamp(-1, 1).acos() * 180 / math.pi


def cosine(e, text, steps, step, **options):
    return turned(e, lambda at, _: towards(at, text), steps, step, **options)


def test_an_iteration_is_the_loop_written_out():
    text, embeddings = unit(12), 3 * unit(4, 12, seed=2)
    found = cosine(embeddings, text, 3, 0.7)
    for e, one in zip(embeddings, found, strict=True):
        for _ in range(3):
            leaf = e.clone().requires_grad_()
            (g,) = torch.autograd.grad(-(leaf @ text) / (leaf.norm() * text.norm()), leaf)
            r = e.norm()
            u = e / r - 0.7 * (r * g) / (r * g).norm()
            e = r * u / u.norm()
        assert_close(one, e)


def test_an_even_number_of_released_steps_is_zero_shot_and_an_odd_one_goes_past_the_template():
    text = unit(16)
    e = at_angles(text, [60.0, 72.0, 80.0, 88.0])
    assert_close(cosine(e, text, 10, 30.0), e, atol=1e-11, rtol=0)
    turn = math.degrees(math.atan(30.0))
    assert_close(angle(cosine(e, text, 9, 30.0), text), turn - angle(e, text), atol=1e-6, rtol=0)
    far = at_angles(text, [110.0])
    assert not torch.allclose(cosine(far, text, 10, 30.0), far, atol=0.1)


def test_a_small_step_turns_by_its_arc_tangent_and_keeps_the_length():
    text = unit(16)
    e = 2 * at_angles(text, [70.0, 80.0])
    seen = []
    last = cosine(e, text, 5, 0.05, seen=seen)
    angles = torch.stack([angle(F.normalize(each, dim=-1), text) for each in seen])
    assert_close(angles[:-1] - angles[1:], torch.full((5, 2), math.degrees(math.atan(0.05)), dtype=torch.float64))
    assert_close(last.norm(dim=1), torch.full((2,), 2.0, dtype=torch.float64))


def test_limits_and_the_released_constants(base, images):
    with torch.no_grad():
        plain = base(images)
        for options in ({"steps": 0}, {"step": 0.0}):
            assert_close(build("clipure", options)(base)(images), plain, atol=1e-4, rtol=1e-4)
        assert not torch.allclose(build("clipure", {})(base)(images), plain, atol=1e-2)
        named = build("clipure", {"templates": "a sketch of a {}."})(base).base
        other = build("clipure", {})(base).base
    assert_close(named.blank.norm(), torch.tensor(1.0))  # the mean of one unit row
    assert not torch.allclose(named.blank, other.blank, atol=1e-4)


def test_the_prior_is_the_best_guess_where_embeddings_are_normal():
    """With x_0 from N(mean, covariance): no other function of x_t has a smaller error; the closed form in one dimension."""
    prior = GaussianPrior(torch.tensor([2.0]).double(), torch.tensor([[4.0]]).double())
    time = torch.tensor([500])
    a = float(kept(time))
    expected = 2 + math.sqrt(a) * 4 / (a * 4 + 1 - a) * (3 - math.sqrt(a) * 2)
    assert float(prior(torch.tensor([[3.0]]).double(), time)) == pytest.approx(expected)
    many = torch.randn(4000, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64) * torch.tensor([1.0, 2.0, 3.0])
    fitted = GaussianPrior.of(many)
    assert_close(fitted.mean, torch.zeros(3, dtype=torch.float64), atol=0.2, rtol=0)
    assert fitted.covariance[2, 2] > fitted.covariance[0, 0] > 0


def test_the_generative_variant_fits_its_prior_and_the_record_is_told(base, images):
    method = build("clipure", {"variant": "generative", "steps": 2})
    with pytest.raises(UsageError, match="no prior yet"):
        method(base)
    with pytest.raises(UsageError, match="at least two"):
        method.prepare(base, iter(()))
    method.prepare(base, iter([Batch(images, torch.zeros(3).long(), torch.arange(3), base.classes)]))
    assert "3 clean training images" in method.notes[0]
    with torch.no_grad():
        assert not torch.allclose(method(base)(images), base(images), atol=1e-3)
    assert [one.name for one in method.surrogates(method(base))] == ["straight", "unrolled", "draws"]
    given = build("clipure", {"variant": "generative", "prior": lambda noisy, time: 0.5 * noisy})
    assert given(base)(images).isfinite().all()


@pytest.mark.parametrize("options", [{"step": 0.05}, {"step": 0.05, "variant": "generative", "prior": torch.tanh}])
def test_the_unrolled_surrogate_is_the_derivative_and_the_straight_one_leaves_the_loop_out(base, images, options):
    if "prior" in options:
        options = options | {"prior": lambda noisy, time: noisy.tanh()}
    method = build("clipure", options)
    stood = method(base).base
    e, keys = unit(3, 16).float(), [1, 2, 3]
    direction = unit(3, 16, seed=4).float()

    def answer(at):
        with torch.no_grad():
            return method.answer(stood, method.purified(stood, at, keys))[:, 0].double()

    h = 1e-2
    change = (answer(e + h * direction) - answer(e - h * direction)) / (2 * h)
    leaf = e.clone().requires_grad_()
    (slope,) = torch.autograd.grad(method.answer(stood, method.purified(stood, leaf, keys, graph=True))[:, 0].sum(), leaf)
    assert_close((slope * direction).sum(1).double(), change, atol=0.15, rtol=0.05)
    for surrogate in method.surrogates(method(base))[:2]:
        with torch.no_grad():
            assert_close(surrogate(images), method(base)(images), atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("options", [{"variant": "no"}, {"steps": -1}, {"step": -1}, {"prior": "x"}])
def test_bad_options_fail_at_construction(options):
    with pytest.raises(UsageError, match=next(iter(options))):
        build("clipure", options)
