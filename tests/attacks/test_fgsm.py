"""FGSM is one step of length eps from the image itself."""

import pytest
import torch
from torch.nn import functional as F
from torch.testing import assert_close
from toys import convnet, fgsm, linear, pgd, pictures, predicted

from ironclip.attacks import FGSM
from ironclip.core.errors import UsageError


def scene():
    model, images = convnet(), pictures()
    return model, images, predicted(model, images)


def test_fgsm_is_the_formula_written_out():
    model, images, labels = scene()
    leaf = images.clone().requires_grad_()
    (slope,) = torch.autograd.grad(F.cross_entropy(model(leaf), labels, reduction="sum"), leaf)
    assert_close(fgsm(model, images, labels, eps=0.05), (images + 0.05 * slope.sign()).clamp(0, 1))


def test_fgsm_is_pgd_with_one_step_of_eps_and_no_start():
    model, images, labels = scene()
    one_step = pgd(model, images, labels, eps=0.05, step_size=0.05, steps=1, start="zero", keep="last")
    assert fgsm(model, images, labels, eps=0.05).equal(one_step)
    assert FGSM(eps=0.05)(model, images, labels).equal(one_step)


def test_random_start_takes_a_longer_step_from_uniform_noise():
    model, images, labels = scene()
    found = FGSM(eps=0.05, random_start=True, seed=2)(model, images, labels)
    assert found.equal(pgd(model, images, labels, eps=0.05, step_size=1.25 * 0.05, steps=1, keep="last", seed=2))
    assert FGSM(eps=0.04, random_start=True).derived == {"step_size": 0.05}
    assert FGSM(eps=0.04).derived == {"step_size": 0.04}
    assert not found.equal(FGSM(eps=0.05, random_start=True, seed=3)(model, images, labels))


def test_fgsm_is_optimal_against_a_linear_model_of_two_classes():
    model, images = linear(2), pictures()
    labels = predicted(model, images)
    weight = model[1].weight.detach()
    towards = (weight[1 - labels] - weight[labels]).sign().view_as(images)
    assert_close(fgsm(model, images, labels, eps=0.1), (images + 0.1 * towards).clamp(0, 1))


def test_kl_needs_a_start_that_is_not_the_image():
    with pytest.raises(UsageError, match="no gradient at the clean image"):
        FGSM(eps=0.1, loss="kl")
    with pytest.raises(UsageError, match="no gradient at the clean image"):
        fgsm(*scene(), eps=0.1, loss="kl")
