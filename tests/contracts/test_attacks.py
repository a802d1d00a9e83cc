"""What every attack of the catalogue must pass; an attack joins by being registered.

Each attack is built with few steps; a test of an option is run for the attacks that have it."""

import random

import numpy as np
import pytest
import torch
from quick_attacks import ALL, LABELLED, NAMES, has, having, quick, scene
from torch.nn import functional as F
from torch.testing import assert_close
from toys import convnet, linear, pictures, predicted, rowwise

from ironclip.attacks import describe, rebuild

OPTIMAL = [name for name in LABELLED if name != "di"]  # follows gradients of resized images, so it misses the corner


def patient(name):
    """Random search finds the optimum of a linear model after some thousand queries of four by four pixels."""
    return {"queries": 1200} if has(name, "queries") else {}


@pytest.mark.parametrize(("name", "options"), ALL)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("eps", [1 / 255, 0.3, 1.0])
def test_the_result_lies_in_the_ball_and_in_the_box(name, options, dtype, eps):
    model, images, labels = scene(dtype=dtype)
    adv = quick(name, eps, **options)(model, images, labels)
    length = torch.linalg.vector_norm((adv - images).flatten(1), ord=2 if options.get("norm") == "l2" else torch.inf, dim=1)
    assert adv.dtype == dtype
    assert adv.shape == images.shape
    assert not adv.requires_grad
    assert length.max() <= eps + 1e-6
    assert adv.min() >= 0
    assert adv.max() <= 1
    assert adv.isfinite().all()


@pytest.mark.parametrize(("name", "options"), ALL)
def test_no_radius_returns_the_images_exactly(name, options):
    model, images, labels = scene()
    assert quick(name, 0, **options)(model, images, labels).equal(images)


@pytest.mark.parametrize(("name", "options"), ALL)
def test_nothing_is_left_behind(name, options):
    model, images, labels = scene()
    model.train()
    model[0].eval()
    model[0].weight.requires_grad_(False)
    model[-1].weight.grad = torch.ones_like(model[-1].weight)
    given = images.clone(), labels.clone()

    def state():
        return (
            {name: value.tolist() for name, value in model.state_dict().items()},
            [parameter.requires_grad for parameter in model.parameters()],
            [None if parameter.grad is None else parameter.grad.tolist() for parameter in model.parameters()],
            [module.training for module in model.modules()],
            torch.is_grad_enabled(),
            torch.get_rng_state().tolist(),
            random.getstate(),
            np.random.get_state()[1].tolist(),  # noqa: NPY002
        )

    before = state()
    quick(name, **options)(model, images, labels)
    assert state() == before
    assert images.equal(given[0])
    assert labels.equal(given[1])


@pytest.mark.parametrize(("name", "options"), ALL)
def test_same_seed_same_result_and_no_grad_is_no_hindrance(name, options):
    model, images, labels = scene()
    attack = quick(name, **options)
    first = attack(model, images, labels)
    torch.manual_seed(123)
    with torch.no_grad():
        assert attack(model, images, labels).equal(first)
    assert rebuild(describe(attack))(model, images, labels).equal(first)


@pytest.mark.parametrize(("name", "options"), ALL)
def test_results_depend_neither_on_batch_size_nor_on_order(name, options):
    model, images, labels = scene(model=rowwise)
    attack = quick(name, **options)
    positions = torch.arange(100, 100 + len(images))
    whole = attack(model, images, labels, indices=positions)
    shuffled = torch.randperm(len(images), generator=torch.Generator().manual_seed(0))
    assert attack(model, images[shuffled], labels[shuffled], indices=positions[shuffled]).equal(whole[shuffled])
    for size in (1, 5):
        parts = [
            attack(model, images[at : at + size], labels[at : at + size], indices=positions[at : at + size])
            for at in range(0, len(images), size)
        ]
        assert torch.cat(parts).equal(whole)


@pytest.mark.parametrize(("name", "options"), ALL)
def test_a_constant_added_to_the_logits_changes_nothing(name, options):
    model, images, labels = scene(dtype=torch.float64)
    attack = quick(name, **options)
    assert_close(attack(lambda x: model(x) + 8, images, labels), attack(model, images, labels), rtol=0, atol=1e-9)


@pytest.mark.parametrize("name", having("loss"))
@pytest.mark.parametrize("loss", ["margin", "dlr"])
def test_margin_and_dlr_ignore_the_scale_of_the_logits(name, loss):
    model, images, labels = scene(dtype=torch.float64)
    attack = quick(name, loss=loss)
    assert_close(attack(lambda x: model(x) * 10, images, labels), attack(model, images, labels), rtol=0, atol=1e-9)


@pytest.mark.parametrize("name", OPTIMAL)
def test_a_linear_model_falls_just_beyond_the_analytic_distance_and_not_before(name):
    """Half-spaces: an image leaves its class within |z_y - z_t| / ||w_y - w_t||_1, where the box is inactive."""
    model = linear(2, dtype=torch.float64)
    images = 0.4 + 0.2 * pictures(dtype=torch.float64)
    labels = predicted(model, images)
    logits, weight = model(images).detach(), model[1].weight.detach()
    distance = (logits[:, 0] - logits[:, 1]).abs() / (weight[0] - weight[1]).abs().sum()
    for at in range(2 if patient(name) else len(images)):
        one, label = images[at : at + 1], labels[at : at + 1]
        beyond, before = (quick(name, factor * distance[at].item(), **patient(name)) for factor in (1.01, 0.99))
        assert distance[at] < 0.4
        assert (predicted(model, beyond(model, one, label)) != label).all()
        assert (predicted(model, before(model, one, label)) == label).all()


@pytest.mark.parametrize("name", LABELLED)
def test_robust_accuracy_falls_with_the_radius_from_clean_accuracy(name):
    model, images = linear(), pictures(60)
    labels = predicted(model, images)
    labels[:6] = (labels[:6] + 1) % 5
    accuracy = [
        (predicted(model, quick(name, eps)(model, images, labels)) == labels).double().mean().item()
        for eps in (0, 1 / 255, 0.02, 0.05, 0.1, 0.3)
    ]
    assert accuracy[0] == 0.9
    assert accuracy == sorted(accuracy, reverse=True)
    assert accuracy[-1] <= 0.2


@pytest.mark.parametrize("name", having("mode"))
@pytest.mark.parametrize("restarts", [1, 3])
@pytest.mark.parametrize("eps", [0.01, 0.05, 0.2])
def test_compaction_leaves_robust_accuracy_as_it_is(name, restarts, eps):
    model, images = convnet(), pictures(40)
    labels = predicted(model, images)
    labels[:4] = (labels[:4] + 1) % 5
    options = {"restarts": restarts} if has(name, "restarts") else {}
    full, compact = (quick(name, eps, mode=mode, **options) for mode in ("full", "compact"))
    right_full = predicted(model, full(model, images, labels)) == labels
    right_compact = predicted(model, compact(model, images, labels)) == labels
    assert right_full.equal(right_compact)
    assert (full(model, images, labels) != images).flatten(1).any(1).all()
    assert compact(model, images, labels)[:4].equal(images[:4])


@pytest.mark.parametrize("name", having("targeted"))
def test_targets_are_reached_where_the_radius_allows_it(name):
    model, images = linear(3), pictures()
    targets = (predicted(model, images) + 1) % 3
    adv = quick(name, 1.0, targeted=True)(model, images, targets)
    before, after = (F.cross_entropy(model(x), targets, reduction="none") for x in (images, adv))
    assert (after < before).all()
    assert (predicted(model, adv) == targets).double().mean() > 0.8


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("classes", [2, 3, 4, 5])
def test_any_number_of_classes_from_two(name, classes):
    model, images, labels = scene(classes)
    adv = quick(name)(model, images, labels)
    assert F.cross_entropy(model(adv), labels) > F.cross_entropy(model(images), labels)


@pytest.mark.parametrize("name", having("loss"))
def test_any_function_of_any_output_can_be_raised(name):
    model, images, labels = scene()
    features = torch.nn.Sequential(*model[:-1]).eval()
    clean = features(images).detach()

    def distance(outputs, labels):
        return (outputs - clean + 1e-3).square().sum(1)

    adv = quick(name)(features, images, labels, loss=distance)
    assert (distance(features(adv), labels) > distance(clean, labels)).all()


@pytest.mark.parametrize("name", LABELLED)
def test_an_image_already_wrong_is_attacked_all_the_same(name):
    model, images, labels = scene()
    wrong = (labels + 1) % 5
    adv = quick(name, **({"mode": "full"} if has(name, "mode") else {}))(model, images, wrong)
    assert (adv != images).flatten(1).any(1).all()
    assert (predicted(model, adv) != wrong).all()


@pytest.mark.parametrize("name", NAMES)
def test_masked_gradients_do_not_carry_the_attack_out_of_the_ball(name):
    model, images, labels = scene()
    for masked in (lambda x: model((x * 16).round() / 16), lambda x: (model(x) * 1e3).half().float()):
        adv = quick(name)(masked, images, labels)
        assert (adv - images).abs().max() <= 0.1 + 1e-6
        assert (predicted(masked, adv) == labels).sum() <= len(labels)
