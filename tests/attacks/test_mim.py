"""Momentum: the recurrence written out, and what it reduces to."""

import pytest
import torch
from toys import convnet, linear, mim, pgd, pictures, predicted

from ironclip.attacks import MIM
from ironclip.core.errors import UsageError
from ironclip.core.losses import cross_entropy_each


def scene():
    model, images = convnet(), pictures()
    return model, images, predicted(model, images)


def test_the_recurrence_written_out():
    model, images, labels = scene()
    eps, steps = 0.06, 4
    adv, memory = images.clone(), torch.zeros_like(images)
    for _ in range(steps):
        leaf = adv.clone().requires_grad_()
        (slope,) = torch.autograd.grad(cross_entropy_each(model(leaf), labels).sum(), leaf)
        memory = 1.0 * memory + slope / slope.abs().sum((1, 2, 3), keepdim=True)
        adv = (adv + eps / steps * memory.sign()).clamp(images - eps, images + eps).clamp(0, 1)
    assert torch.allclose(mim(model, images, labels, eps=eps, steps=steps), adv, atol=1e-6)


def test_without_memory_it_is_pgd():
    model, images, labels = scene()
    plain = pgd(model, images, labels, eps=0.06, step_size=0.01, steps=5, start="zero", keep="last")
    assert MIM(0.06, step_size=0.01, steps=5, decay=0.0)(model, images, labels).equal(plain)
    assert not MIM(0.06, step_size=0.01, steps=5, decay=1.0)(model, images, labels).equal(plain)


def test_best_is_at_least_as_good_as_last_and_as_no_attack():
    model, images, labels = scene()
    loss = [cross_entropy_each(model(x), labels) for x in (images, MIM(0.06)(model, images, labels))]
    best = cross_entropy_each(model(MIM(0.06, keep="best")(model, images, labels)), labels)
    assert (best >= loss[0] - 1e-6).all()
    fooled = (model(MIM(0.06)(model, images, labels)).argmax(1) != labels).sum()
    assert (model(MIM(0.06, keep="best")(model, images, labels)).argmax(1) != labels).sum() >= fooled


def test_two_classes_of_a_linear_model_are_solved_exactly():
    model, images = linear(2), pictures()
    labels = predicted(model, images)
    weight = model[1].weight.detach()
    towards = (weight[1 - labels] - weight[labels]).sign().view_as(images)
    assert torch.allclose(MIM(0.1)(model, images, labels), (images + 0.1 * towards).clamp(0, 1), atol=1e-6)


def test_options():
    assert MIM(0.1, steps=5).derived == {"step_size": 0.02}
    with pytest.raises(UsageError, match="decay must be a number of at least 0"):
        MIM(0.1, decay=-1)
