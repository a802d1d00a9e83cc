"""Objectives of the prompt baselines: values written out, what is attacked and how often towers run; their presets."""

import math
from types import SimpleNamespace

import pytest
import torch
from torch.testing import assert_close

from ironclip.attacks.pgd import PGD
from ironclip.backbones import assemble
from ironclip.core.errors import UsageError
from ironclip.core.types import Batch
from ironclip.defenses import build
from ironclip.defenses._families import Objective, mixed
from ironclip.loops.training import collapsed
from ironclip.presets import preset
from ironclip.protocols.config import configure

CLEAN, ADV = torch.tensor([[2.0, 0.0, -1.0], [0.5, 1.0, 0.0]]), torch.tensor([[0.0, 1.0, -1.0], [0.5, -1.0, 1.5]])
FEATURES, MOVED = torch.tensor([[1.0, 0.0], [0.6, 0.8]]), torch.tensor([[0.6, 0.8], [0.0, 2.0]])
TABLE = Batch(torch.zeros(2, 3, 4, 4), torch.tensor([0, 2]), torch.arange(2), ("a", "b", "c"))
METHODS = ("fap", "advmaple", "advvlp", "adv_vpt")


class Table:
    """A classifier that reads its outputs off a table: the clean ones for images of zeros."""

    def __init__(self, clean=CLEAN, adv=ADV, features=FEATURES, moved=MOVED) -> None:
        self.rows = {0.0: (features, clean), 1.0: (moved, adv)}

    def features_and_logits(self, images):
        return self.rows[float(images.max())]

    def detached(self):
        return self


def shift(function, images, labels, **given):
    return images + 1


def kl(p, q) -> float:
    p, q = (torch.tensor(x).softmax(0).tolist() for x in (p, q))
    return sum(a * math.log(a / b) for a, b in zip(p, q, strict=True))


def expected(term: str) -> float:
    total = 0.0
    for clean, adv, z, moved in zip(CLEAN.tolist(), ADV.tolist(), FEATURES.tolist(), MOVED.tolist(), strict=True):
        length = math.hypot(*moved)
        cos = (z[0] * moved[0] + z[1] * moved[1]) / length
        gaps = [abs(a - b / length) for a, b in zip(z, moved, strict=True)]
        weight = {
            "kl": 1, "cos": 1 + cos, "mae": 1 / (3 * sum(gaps) / 2), "mse": 1 / (3 * sum(g * g for g in gaps) / 2)
        }[term]  # fmt: skip
        total += kl(clean, adv) * weight / 2
    return total


@pytest.mark.parametrize("term", ["kl", "cos", "mae", "mse"])
def test_the_consistency_terms_written_out(term):
    terms = Objective(term, weight=1.5)(Table(), TABLE, shift)
    natural = -(CLEAN[0].log_softmax(0)[0] + CLEAN[1].log_softmax(0)[2]) / 2
    assert_close(terms["clean_ce"], natural)
    assert float(terms["consistency_kl"]) == pytest.approx(1.5 * expected(term), rel=1e-5)


def test_the_reference_of_kl_is_the_clean_prediction():
    there, back = (Objective("kl")(t, TABLE, shift)["consistency_kl"] for t in (Table(), Table(clean=ADV, adv=CLEAN)))
    assert abs(float(there - back)) > 0.02


def test_the_loss_lowers_similarity_where_the_predictions_disagree():
    """d L / d cos = weight * KL / B of each image; KL held fixed, because it does not depend on these features."""
    moved = MOVED.clone().requires_grad_()
    term = Objective("cos", weight=1.5)(Table(moved=moved), TABLE, shift)["consistency_kl"]
    (slope,) = torch.autograd.grad(term, moved)
    cos = torch.cosine_similarity(moved, FEATURES)
    (direction,) = torch.autograd.grad(cos.sum(), moved)
    each = torch.tensor([kl(c, a) for c, a in zip(CLEAN.tolist(), ADV.tolist(), strict=True)])
    assert (each > 0).all()
    assert_close(slope, 1.5 * each[:, None] / 2 * direction)


@pytest.mark.parametrize("term", ["kl", "cos", "mae", "mse"])
def test_without_a_perturbation_the_consistency_term_is_zero(term):
    terms = Objective(term)(Table(adv=CLEAN, moved=FEATURES), TABLE, shift)
    assert float(terms["consistency_kl"]) == pytest.approx(0, abs=1e-6)


@pytest.mark.parametrize(("mix", "first"), [("full", 0), ("half", 2), ("clean", 5)])
def test_a_mixed_batch_keeps_its_first_images_clean(mix, first):
    batch = Batch(torch.rand(5, 3, 4, 4), torch.arange(5), torch.arange(5) + 7, tuple("abcde"))
    calls = []

    def attack(function, images, labels, *, indices):
        calls.append((labels, indices))
        return images + 1

    images = mixed(Table(), batch, attack, mix)
    assert torch.equal(images[:first], batch.images[:first])
    assert torch.equal(images[first:], batch.images[first:] + 1)
    for labels, indices in calls:
        assert torch.equal(labels, batch.labels[first:])
        assert torch.equal(indices, batch.indices[first:])
    assert len(calls) == (first < 5)


def test_constant_outputs_raise_the_collapse_flag():
    flat = Table(clean=torch.zeros(2, 3), adv=torch.zeros(2, 3))
    fallen = {name: float(term) for name, term in Objective("cos", 1.5)(flat, TABLE, shift).items()}
    assert collapsed(fallen, 3)
    sound = {name: float(term) for name, term in Objective("cos", 1.5)(Table(), TABLE, shift).items()}
    assert not collapsed(sound, 3)


# ---- one step of the methods


@pytest.mark.parametrize(("method", "images"), [("fap", 1 + 2 + 1), ("advmaple", 2 + 1), ("advvlp", 2 + 1), ("adv_vpt", 2 + 1)])
def test_a_step_runs_the_text_tower_once_and_the_clean_branch_once(backbone, batch, monkeypatch, method, images):
    """Image passes: clean branch where there is one, two inner steps, the attacked batch."""
    ran = {"image": 0, "text": 0}

    def counted(which, run):
        def call(*args, **given):
            ran[which] += 1
            return run(*args, **given)

        return call

    defense = build(method, backbone, batch.classes)
    for which in ran:
        monkeypatch.setattr(backbone, f"encode_{which}", counted(which, getattr(backbone, f"encode_{which}")))
    defense.loss(backbone, batch, PGD(4 / 255, steps=2, keep="last"))
    assert ran == {"image": images, "text": 1}


@pytest.mark.parametrize("method", METHODS)
def test_the_inner_attack_sees_a_constant_classifier(backbone, batch, spy, method):
    defense = build(method, backbone, batch.classes)
    logits = assemble(backbone, batch.classes, defense.adaptation(backbone, batch.classes))(batch.images)
    defense.loss(backbone, batch, spy)
    (call,) = spy.calls
    assert torch.equal(call.images, batch.images)
    assert torch.equal(call.indices, batch.indices)
    assert torch.equal(call.function(batch.images), logits)
    assert not call.function.text_features.requires_grad


# ---- options and presets


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"term": "ce", "weight": 0}, "weight must be a number of above 0"),
        ({"term": "cos", "weight": -1}, "weight must be a number of at least 0"),
        ({"term": "l2"}, "term must be one of ce, kl, cos, mae, mse"),
        ({"term": "ce", "mix": "third"}, "mix must be one of full, half, clean"),
        ({"term": "kl", "mix": "half"}, "term='kl' compares both views"),
    ],
)
def test_objectives_that_cannot_be_right_are_refused(options, message):
    with pytest.raises(UsageError, match=message):
        Objective(**options)


def test_an_inner_attack_on_kl_without_a_random_start_is_refused():
    attack = SimpleNamespace(start="zero")
    with pytest.raises(UsageError, match=r"attack\.start=uniform"):
        Objective("cos")(Table(), TABLE, attack)


@pytest.mark.parametrize("method", METHODS)
def test_presets_hold_both_published_families(backbone, method):
    configs = {name: configure({**preset(f"{method}/{name}"), "dataset": "shapes"}) for name in ("default", "group", "quick")}
    for name, (epochs, size, augment) in {"default": (10, 4, "squash"), "group": (100, 32, "rrc_flip")}.items():
        config = configs[name]
        assert (config.schedule.epochs, config.schedule.batch_size, config.augment) == (epochs, size, augment)
        assert (config.schedule.lr, config.schedule.momentum, config.schedule.weight_decay) == (0.0035, 0.9, 5e-4)
        assert config.eps == pytest.approx(1 / 255)
        assert (config.attack.relative_step, config.attack.options["steps"]) == (1.0, 2)
    for config in configs.values():
        build(method, backbone, ["a", "b"], given=config.options)
    if method != "fap":
        assert [configs[name].options["mix"] for name in ("default", "group")] == ["full", "half"]
