"""What every attack refuses, and how it is named, described and rebuilt."""

import json
import pickle
import subprocess
import sys
from dataclasses import FrozenInstanceError, replace

import pytest
import torch
from quick_attacks import ALL, LABELLED, NAMES, has, having, quick, scene
from torch.nn import functional as F
from toys import linear

from ironclip.attacks import ATTACKS, CATALOGUE, build, describe, rebuild
from ironclip.core.errors import DataError, IronclipError, NonFinite, UsageError


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
    ({"norm": "l3"}, "norm must be one of linf, l2, l1, patch, text; got 'l3'"),
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
