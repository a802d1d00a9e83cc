"""Projection, keyed randomness, ascent and the context managers."""

import numpy as np
import pytest
import tagged
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn
from torch.testing import assert_close
from toys import convnet, linear, pictures

from ironclip.core import philox
from ironclip.core.errors import NonFinite, UsageError
from ironclip.core.tensors import (
    ascend,
    evaluating,
    frozen,
    generator,
    key,
    keyed_uniform,
    norm,
    per_image,
    project,
    steepest,
    value_and_slope,
)

unit = st.floats(0, 1, width=32)
anything = st.floats(-3, 3, width=32)


@given(st.lists(st.tuples(unit, anything), min_size=1, max_size=20), st.floats(0, 1, width=32))
def test_linf_projection_is_the_nearest_point_pixel_by_pixel(pixels, eps):
    images = torch.tensor([[x for x, _ in pixels]])
    adv = torch.tensor([[a for _, a in pixels]])
    found = project(adv, images, eps)
    for (x, a), p in zip(pixels, found[0].tolist()):
        low, high = max(0.0, x - eps), min(1.0, x + eps)
        assert p == pytest.approx(min(max(a, low), high), abs=1e-6)
        assert 0 <= p <= 1
        assert abs(p - x) <= eps + 1e-6


@given(st.lists(st.tuples(unit, anything), min_size=1, max_size=20), st.floats(0, 3, width=32))
def test_l2_projection_stays_in_ball_and_box_and_keeps_inner_points(pixels, eps):
    images = torch.tensor([[x for x, _ in pixels]])
    adv = torch.tensor([[a for _, a in pixels]])
    found = project(adv, images, eps, "l2")
    assert (found - images).norm() <= eps + 1e-5
    assert found.min() >= 0
    assert found.max() <= 1
    inner = images + (found - images) / 2
    assert_close(project(inner, images, eps, "l2"), inner)


def test_l2_projection_scales_onto_the_sphere_where_the_box_is_inactive():
    images, adv = torch.full((1, 2), 0.5), torch.tensor([[0.8, 0.9]])
    assert_close(project(adv, images, 0.25, "l2"), torch.tensor([[0.65, 0.70]]))


def test_projection_with_no_radius_returns_the_images_exactly():
    images = pictures()
    for kind in ("linf", "l2"):
        assert project(images + 0.3, images, 0.0, kind).equal(images)


def test_projection_without_the_box_leaves_the_unit_cube():
    images, adv = torch.zeros(1, 2), torch.tensor([[-1.0, 1.0]])
    assert_close(project(adv, images, 0.1, box=False), torch.tensor([[-0.1, 0.1]]))
    assert_close(project(adv, images, 0.1), torch.tensor([[0.0, 0.1]]))


def test_norms_and_steepest_directions_written_out():
    delta = torch.tensor([[3.0, -4.0], [0.0, 0.0]])
    assert norm(delta, "linf").tolist() == [4, 0]
    assert norm(delta, "l2").tolist() == [5, 0]
    assert steepest(delta).tolist() == [[1, -1], [0, 0]]
    assert_close(steepest(delta, "l2"), torch.tensor([[0.6, -0.8], [0.0, 0.0]]))
    assert per_image(torch.ones(2), torch.ones(2, 3, 4, 4)).shape == (2, 1, 1, 1)


def test_keys_are_63_bit_and_differ_for_neighbours_and_orders():
    seeds = {key(a, b) for a in range(20) for b in range(20)}
    assert len(seeds) == 400
    assert all(0 <= seed < 2**63 for seed in seeds)
    assert key(1, 2) != key(1, 2, 0)


def test_keyed_noise_depends_on_the_key_alone():
    whole = keyed_uniform((3, 4), seed=5, indices=[7, 2, 9])
    assert keyed_uniform((3, 4), 5, [2])[0].equal(whole[1])
    assert keyed_uniform((3, 4), 5, [9, 7]).equal(whole[[2, 0]])
    assert not keyed_uniform((3, 4), 5, [2], restart=1)[0].equal(whole[1])
    assert not keyed_uniform((3, 4), 6, [2])[0].equal(whole[1])
    assert keyed_uniform((3, 4), 5, []).shape == (0, 3, 4)


def test_keyed_noise_is_uniform_and_leaves_the_global_generator():
    before = torch.get_rng_state()
    noise = keyed_uniform((1000,), 0, range(20))
    assert torch.get_rng_state().equal(before)
    assert noise.min() >= -1
    assert noise.max() < 1
    assert abs(noise.mean()) < 0.02
    assert abs(noise.var() - 1 / 3) < 0.02
    assert torch.rand(3, generator=generator(1, 2)).equal(torch.rand(3, generator=generator(1, 2)))


def test_words_are_those_of_the_published_generator():
    """The first known answer of Random123's `philox4x64 10`, and numpy's words under large and small keys."""
    answer = [0x16554D9ECA36314C, 0xDB20FE9D672D0FDC, 0xD7E772CEE186176B, 0x7E68B68AEC7BA23B]
    assert np.random.Philox(key=0, counter=2**256 - 1).random_raw(4).tolist() == answer
    keys = [0, 1, 2**63 - 1, key(3, 4, 5)]
    words = philox.random_words(keys, 1000, "cpu").numpy().view(np.uint64)
    for each, row in zip(keys, words, strict=True):
        assert row.tolist() == np.random.Philox(key=each).random_raw(4000).tolist()


@pytest.mark.parametrize("count", [1, 7, 8, 1001])
def test_noise_of_another_device_has_the_same_bits(count, monkeypatch):
    here = keyed_uniform((count,), 3, [5, 0, 2**40], restart=2)
    with tagged.second_device(monkeypatch):
        there = keyed_uniform((count,), 3, [5, 0, 2**40], restart=2, device="meta")
    assert there.inner.equal(here)


def test_slope_equals_the_plain_gradient_and_touches_no_other():
    model, images = convnet(), pictures()
    outputs, values, slope = value_and_slope(model, lambda logits: logits[:, 0] ** 2, images)
    assert all(parameter.grad is None for parameter in model.parameters())
    assert not images.requires_grad
    assert not any(result.requires_grad for result in (outputs, values, slope))
    leaf = images.clone().requires_grad_()
    logits = model(leaf)
    (logits[:, 0] ** 2).sum().backward()
    assert leaf.grad is not None
    assert_close(slope, leaf.grad)
    assert_close(outputs, logits.detach())
    assert_close(values, logits.detach()[:, 0] ** 2)


def test_slope_exists_under_no_grad():
    with torch.no_grad():
        *_, slope = value_and_slope(linear(), lambda logits: logits[:, 0], pictures())
    assert slope.abs().sum() > 0


def test_a_function_without_gradient_is_refused():
    with pytest.raises(UsageError, match="no gradient with respect to the images"):
        value_and_slope(lambda images: linear()(images.detach()).detach(), lambda logits: logits[:, 0], pictures())


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_a_value_that_is_not_finite_names_the_images(bad):
    scale = torch.ones(12)
    scale[[3, 5]] = bad
    with pytest.raises(NonFinite, match="images 3, 5;"):
        value_and_slope(linear(), lambda logits: logits[:, 0] * scale, pictures())
    with pytest.raises(NonFinite, match="images 103, 105;"):
        value_and_slope(linear(), lambda logits: logits[:, 0] * scale, pictures(), torch.arange(100, 112))


def test_a_slope_that_is_not_finite_is_refused_even_where_the_value_is_finite():
    with pytest.raises(NonFinite, match="gradient"):
        value_and_slope(lambda images: images.flatten(1), lambda flat: (flat[:, 0] * 0).sqrt(), pictures())


def test_ascent_follows_the_recursion_written_out():
    model, images, start = convnet(), pictures(), pictures(seed=2)
    seen = []
    found = ascend(
        model, lambda logits: logits[:, 1], project(start, images, 0.1), images, eps=0.1, step_size=0.03, steps=4,
        observe=lambda adv, outputs, values: seen.append((adv, outputs, values)),
    )  # fmt: skip
    adv = project(start, images, 0.1)
    for at, outputs, values in seen:
        assert_close(at, adv)
        leaf = adv.clone().requires_grad_()
        logits = model(leaf)
        assert_close(outputs, logits.detach())
        assert_close(values, logits.detach()[:, 1])
        (slope,) = torch.autograd.grad(logits[:, 1].sum(), leaf)
        adv = project(adv + 0.03 * slope.sign(), images, 0.1)
    assert len(seen) == 4
    assert_close(found, adv)


def test_ascent_without_the_box_differentiates_at_the_clipped_point():
    images = torch.full((1, 1), 0.98)
    seen = []
    found = ascend(
        lambda x: x, lambda x: -((x[:, 0] - 0.99) ** 2), torch.tensor([[1.05]]), images, eps=0.1, step_size=0.02, steps=2,
        box=False, observe=lambda adv, *_: seen.append(adv.item()),
    )  # fmt: skip
    assert seen == pytest.approx([1.0, 1.0])
    assert found.item() == pytest.approx(1.01)


class Owner(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.part = linear()
        self.fixed = nn.Parameter(torch.ones(1), requires_grad=False)

    def encode(self, images):
        return self.part(images)


@pytest.mark.parametrize("handle", [lambda owner: owner, lambda owner: owner.encode])
def test_frozen_and_evaluating_restore_every_flag_even_after_an_error(handle):
    owner = Owner().train()
    owner.part[0].eval()
    flags = [p.requires_grad for p in owner.parameters()]
    modes = [m.training for m in owner.modules()]

    def fail_inside():
        with frozen(handle(owner), len), evaluating(handle(owner), len):
            assert not any(p.requires_grad for p in owner.parameters())
            assert not any(m.training for m in owner.modules())
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fail_inside()
    assert [p.requires_grad for p in owner.parameters()] == flags
    assert [m.training for m in owner.modules()] == modes


def test_a_seed_beyond_64_bits_is_refused_in_one_line() -> None:
    with pytest.raises(UsageError, match="at most 64 bits; got 99999"):
        key(3, 10**20 - 1)
