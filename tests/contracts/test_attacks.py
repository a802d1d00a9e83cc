"""What every attack of the catalogue must pass; an attack joins by being registered.

Each attack is built with few steps; a test of an option is run for the attacks that have it.
"""

import json
import pickle
import random
import subprocess
import sys
from dataclasses import FrozenInstanceError, fields, replace

import numpy as np
import pytest
import torch
from torch.nn import functional as F
from torch.testing import assert_close
from toys import convnet, linear, pictures, predicted, rowwise

from ironclip.attacks import ATTACKS, CATALOGUE, build, describe, rebuild
from ironclip.core.errors import DataError, IronclipError, NonFinite, UsageError

# A transfer attack needs a classifier with class names and a source backbone: tests/attacks/test_transfer.py.
NAMES = sorted(set(CATALOGUE) - {"transfer"})
LABELLED = [name for name in NAMES if name != "feature"]  # the others raise a distance of embeddings, whatever the label
OPTIMAL = [name for name in LABELLED if name != "di"]  # follows gradients of resized images, so it misses the corner
QUICK = {"steps": 9, "restarts": 1, "seed": 3, "queries": 60}


def has(name, option):
    return option in {field.name for field in fields(ATTACKS[name])}


def having(*wanted, among=NAMES):
    """The attacks that have all of these options."""
    return [name for name in among if all(has(name, option) for option in wanted)]


def quick(name, eps=0.1, **wanted):
    """The attack with few steps and the wanted options."""
    return build(name, eps=eps, **{**{option: value for option, value in QUICK.items() if has(name, option)}, **wanted})


def patient(name):
    """Random search finds the optimum of a linear model after some thousand queries of four by four pixels."""
    return {"queries": 1200} if has(name, "queries") else {}


def variants(name):
    """The attack and its siblings: every value of its closed options that changes the computation."""
    options = [{}]
    for option, values in {
        "norm": ["l2"], "keep": ["last"], "mode": ["compact"], "box": ["forward"], "start": ["zero", "one_sided", "gaussian"],
        "loss": ["margin", "dlr"], "targeted": [True], "restarts": [2], "random_start": [True],
    }.items():  # fmt: skip
        options += [{option: value} for value in values if has(name, option)]
    if has(name, "loss"):
        options.append({"loss": "kl", "random_start": True} if has(name, "random_start") else {"loss": "kl"})
    return options


ALL = [pytest.param(name, options, id=f"{name}-{options or 'default'}") for name in NAMES for options in variants(name)]


def scene(classes=5, dtype=torch.float32, model=convnet):
    model, images = model(classes, dtype=dtype), pictures(dtype=dtype)
    return model, images, predicted(model, images)


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


@pytest.mark.parametrize("name", NAMES)
def test_an_empty_batch_comes_back_empty(name):
    model, images, labels = scene()
    assert quick(name)(model, images[:0], labels[:0]).shape == (0, 3, 4, 4)


@pytest.mark.parametrize("name", NAMES)
def test_logits_that_are_not_finite_stop_the_attack_and_name_the_images(name):
    model, images, labels = scene()

    def broken(x):
        return model(x) / (x[:, 0, 0, 0] != 0.5).to(x)[:, None]

    images = images.clamp(0.2, 0.8)
    images[[1, 4], 0, 0, 0] = 0.5
    with pytest.raises(NonFinite, match=r"images 11, 14; check"):
        quick(name, 0)(broken, images, labels, indices=torch.arange(10, 10 + len(images)))


BAD_INPUT = {
    "bytes": (lambda x, y: ((x * 255).byte(), y), DataError, "images must be float32 in [0, 1]; got uint8: divide by 255 first"),
    "half": (lambda x, y: (x.half(), y), DataError, "half precision cannot hold the radius"),
    "grey levels": (lambda x, y: (x * 255, y), DataError, "must lie in [0, 1], before normalisation; got values from 0 to 255"),
    "normalised": (lambda x, y: (x - 0.5, y), DataError, "got values from -0.5 to 0.5"),
    "nan": (lambda x, y: (x / x.new_tensor(0), y), DataError, "must lie in [0, 1]"),
    "no batch": (lambda x, y: (x.flatten(), y), DataError, "images must be a batch [B, ...]; got shape (576,)"),
    "label K": (lambda x, y: (x, y * 0 + 5), DataError, "labels must be below the number of classes, 5; got 5"),
    "label -1": (lambda x, y: (x, y * 0 - 1), DataError, "labels must be 0 or more; got -1"),
    "label count": (lambda x, y: (x, y[:3]), DataError, "expected one label for each of 12 images; got shape (3,)"),
    "label type": (lambda x, y: (x, y.float()), DataError, "labels must be class numbers (int64); got float32"),
}


@pytest.mark.parametrize("name", LABELLED)
@pytest.mark.parametrize(("spoil", "kind", "message"), BAD_INPUT.values(), ids=list(BAD_INPUT))
def test_bad_input_gives_one_clear_line(name, spoil, kind, message):
    model, images, labels = scene()
    with pytest.raises(kind) as caught:
        quick(name)(model, *spoil(images, labels))
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("name", NAMES)
def test_rounding_beyond_the_box_is_tolerated(name):
    model, images, labels = scene()
    adv = quick(name, 0)(model, images * (1 + 1e-6) - 5e-7, labels)
    assert adv.min() >= 0
    assert adv.max() <= 1


@pytest.mark.parametrize("name", LABELLED)
def test_functions_that_are_no_classifier_are_refused(name):
    _, images, labels = scene()
    with pytest.raises(UsageError, match=r"at least two classes; the function returned 1 logit"):
        quick(name)(linear(1), images, labels * 0)
    with pytest.raises(UsageError, match=r"needs logits \[12, K\]; the function returned shape \(12, 3, 4, 4\)"):
        quick(name)(lambda x: x, images, labels)
    with pytest.raises(DataError, match=r"one index for each of 12 images; got shape \(2,\)"):
        quick(name)(linear(), images, labels, indices=torch.arange(2))
    with torch.inference_mode(), pytest.raises(UsageError, match="inference_mode"):
        quick(name)(linear(), images, labels)


BAD_OPTIONS = [
    ({"eps": 4}, "got 4. Did you mean 4/255?"),
    ({"eps": -0.1}, "eps must be 0 or more"),
    ({"eps": "big"}, "eps is a number or a fraction such as 4/255; got 'big'"),
    ({"norm": "l3"}, "norm must be one of linf, l2; got 'l3'"),
    ({"steps": -1}, "steps must be a whole number of at least 0; got -1"),
    ({"steps": 1.5}, "steps must be a whole number"),
    ({"restarts": 0}, "restarts must be a whole number of at least 1; got 0"),
    ({"step_size": 0}, "step_size must be above 0; got 0"),
    ({"step_size": "-1/255"}, "step_size must be 0 or more and finite; got -1/255"),
    ({"step_size": "small"}, "step_size is a number or a fraction such as 4/255; got 'small'"),
    ({"targeted": "yes"}, "targeted must be true or false; got 'yes'"),
    ({"eval_mode": 1}, "eval_mode must be true or false; got 1"),
    ({"seed": -1}, "seed must be a whole number of at least 0; got -1"),
    ({"seed": 2**63}, "seed must be below 2^63"),
    ({"start": "unifrom"}, "start must be one of"),
    ({"keep": "worst"}, "keep must be one of"),
    ({"mode": "fast"}, "mode must be one of"),
    ({"loss": "cross"}, "loss must be one of"),
    ({"loss": "kl", "targeted": True}, "cannot be targeted"),
    ({"epss": 0.1}, "unknown option of {name} 'epss'; did you mean 'eps'?"),
]


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        pytest.param(name, options, message, id=f"{name}-{options}")
        for options, message in BAD_OPTIONS
        for name in (NAMES if "epss" in options else having(*options))
    ],
)
def test_options_that_cannot_be_right_fail_when_the_attack_is_built(name, options, message):
    with pytest.raises(UsageError) as caught:
        build(name, **{"eps": 0.1, **options})
    assert message.format(name=name) in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(("name", "options"), ALL)
def test_an_attack_is_a_value_that_survives_json(name, options):
    attack = quick(name, "4/255", **options)
    assert attack.eps == 4 / 255
    if has(name, "step_size"):
        assert replace(attack, step_size="1/255").step_size == 1 / 255
    stored = json.loads(json.dumps(describe(attack)))
    assert stored["attack"] == name
    assert rebuild(stored) == attack
    assert hash(attack) == hash(rebuild(stored))
    assert pickle.loads(pickle.dumps(attack)) == attack
    assert replace(attack, eps=1 / 255) != attack
    assert repr(attack).startswith(ATTACKS[name].__name__ + "(eps=")
    with pytest.raises(FrozenInstanceError):
        attack.eps = 1


@pytest.mark.parametrize("name", having("loss"))
def test_a_loss_that_is_a_function_is_described_but_not_rebuilt(name):
    attack = quick(name, loss=F.mse_loss)
    stored = json.loads(json.dumps(describe(attack)))
    assert stored["loss"] == "torch.nn.functional:mse_loss"
    with pytest.raises(UsageError, match="loss must be one of"):
        rebuild(stored)


def test_wrong_names_and_missing_radii_are_answered_with_what_exists():
    with pytest.raises(UsageError, match="unknown attack 'pgdd'; did you mean 'pgd'"):
        build("pgdd", eps=0.1)
    with pytest.raises(UsageError, match="pgd needs eps"):
        build("pgd")
    with pytest.raises(IronclipError, match="unknown attack ''"):
        rebuild({"eps": 0.1})
    with pytest.raises(UsageError, match="int is not an attack of the catalogue"):
        describe(3)


def test_listing_attacks_loads_no_torch():
    code = "import sys; from ironclip.attacks import CATALOGUE; raise SystemExit('torch' in sys.modules or not CATALOGUE)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_every_attack_lives_in_the_file_of_its_name_and_has_a_line():
    for name, entry in CATALOGUE.items():
        assert ATTACKS[name].__module__ == f"ironclip.attacks.{name.replace('-', '_')}"
        assert ATTACKS[name].__name__ == entry.kind
        assert 10 < len(entry.line) < 131
