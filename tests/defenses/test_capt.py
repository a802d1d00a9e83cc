"""CAPT: counts, alpha, the direction of KL, the limits of its weights, the guide, and what is logged."""

import math

import pytest
import torch
from torch.nn.functional import cross_entropy
from torch.testing import assert_close

from ironclip.attacks.pgd import PGD
from ironclip.backbones import assemble
from ironclip.backbones.tiny import tiny_backbone
from ironclip.core.errors import UnsupportedEdit, UsageError
from ironclip.core.losses import kl_each, kl_to_clean
from ironclip.core.types import Adaptation
from ironclip.defenses import _frozen, build
from ironclip.defenses.capt import ALPHAS, CAPT, KLS, ratio
from ironclip.loops.training import Schedule, fit

MODES = [*ALPHAS, "constant"]
PLAIN = ("a photo of a {}.",)  # what the prompts start from, as a template


def make(backbone, classes, seed: int = 0, **options) -> CAPT:
    return CAPT(backbone, classes, generator=torch.Generator().manual_seed(seed), **options)


def stirred(backbone, classes, **options) -> CAPT:
    """A CAPT whose prompts are far from their start."""
    defense = make(backbone, classes, **options)
    for parameter in defense.parameters():
        parameter.data += 0.3 * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(parameter.numel()))
    return defense


def through(defense, backbone, classes):
    return assemble(backbone, classes, defense.adaptation(backbone, classes))


def still(function, images, labels, **options):
    """An attack of radius zero."""
    return images


def total(defense, backbone, batch, attack) -> torch.Tensor:
    return torch.stack(list(defense.loss(backbone, batch, attack).values())).sum()


def certain(*probabilities: float) -> torch.Tensor:
    """[B, 2] logits that give the first class these probabilities."""
    first = torch.tensor(probabilities, dtype=torch.float64).clamp(1e-300)
    return torch.stack([first.log(), (1 - first).clamp_min(1e-300).log()], dim=1)


TRUTH = torch.zeros(3, dtype=torch.long)


# ---- counts


@pytest.mark.parametrize(
    ("prompts", "numbers"), [("coupled", 3_555_072), ("independent", 23_040), ("text", 9_216), ("image", 13_824)]
)
def test_counts_on_vit_b(vit_b, prompts, numbers):
    assert sum(p.numel() for p in make(vit_b, ["a", "b"], prompts=prompts).parameters()) == numbers


def test_the_guide_owns_nothing_that_is_learned_or_saved(backbone, batch):
    with_guide, without = (make(backbone, batch.classes, guide=guide) for guide in ("same_backbone", "none"))
    with_guide.loss(backbone, batch, still)
    assert list(with_guide.state_dict()) == list(without.state_dict())
    assert not list(with_guide.buffers())


# ---- alpha


def test_ratio_at_hand_numbers():
    assert_close(ratio(certain(0.3, 0.6, 0.2), certain(0.3, 0.2, 0.6), TRUTH), torch.tensor([0.5, 0.75, 0.25]).double())


def test_ratio_at_its_limits():
    found = ratio(certain(0.0, 0.5, 0.0), certain(0.5, 0.0, 0.0), TRUTH)
    assert_close(found, torch.tensor([0.0, 1.0, 0.0]).double(), atol=1e-7, rtol=0)  # the guard keeps 0 / 0 finite


def test_ratio_rises_with_the_frozen_and_falls_with_the_tuned_confidence():
    steps, half = torch.linspace(0.01, 0.99, 20).tolist(), [0.5] * 20
    labels = torch.zeros(20, dtype=torch.long)
    assert (ratio(certain(*steps), certain(*half), labels).diff() > 0).all()
    assert (ratio(certain(*half), certain(*steps), labels).diff() < 0).all()


def test_softmin_of_cross_entropies_is_the_ratio():
    frozen, tuned = torch.randn(2, 40, 5, generator=torch.Generator().manual_seed(0), dtype=torch.float64) * 4
    labels = torch.arange(40) % 5
    assert_close(ALPHAS["ce_softmin"](frozen, tuned, labels), ratio(frozen, tuned, labels), atol=1e-4, rtol=0)


def test_the_other_modes_at_hand_numbers():
    frozen = certain(0.9, 0.6, 0.2)
    tuned = certain(0.1, 0.1, 0.1)
    assert_close(ALPHAS["frozen_conf"](frozen, tuned, TRUTH), torch.tensor([0.9, 0.6, 0.2]).double())
    assert_close(ALPHAS["batch_acc"](frozen, tuned, TRUTH), torch.full((3,), 2 / 3).double())


@pytest.mark.parametrize("mode", ALPHAS)
def test_no_gradient_flows_through_alpha(backbone, batch, attack, mode):
    """The gradient is that of the same loss with alpha given as numbers."""
    defense = stirred(backbone, batch.classes, alpha_mode=mode)
    found = torch.autograd.grad(total(defense, backbone, batch, attack), list(defense.parameters()))
    classifier = through(defense, backbone, batch.classes)
    adv = attack(classifier.detached(), batch.images, batch.labels, indices=batch.indices)
    clean, moved = classifier(batch.images), classifier(adv)
    frozen = assemble(backbone, batch.classes, Adaptation(templates=PLAIN))(batch.images)
    alpha = ALPHAS[mode](frozen, clean, batch.labels).tolist()
    weighted = [(1 - a) * t + a * f for a, t, f in zip(alpha, kl_each(moved, clean), kl_each(moved, frozen), strict=True)]
    expected = cross_entropy(clean, batch.labels) + 3.0 * torch.stack(weighted).mean()
    for mine, theirs in zip(found, torch.autograd.grad(expected, list(defense.parameters())), strict=True):
        assert_close(mine, theirs, atol=1e-5, rtol=1e-4)


# ---- KL


def test_the_direction_of_kl_at_hand_numbers():
    adv, reference = certain(0.5), certain(0.9)
    forward = 0.9 * math.log(0.9 / 0.5) + 0.1 * math.log(0.1 / 0.5)
    backward = 0.5 * math.log(0.5 / 0.9) + 0.5 * math.log(0.5 / 0.1)
    assert KLS["ref||adv"](adv, reference).item() == pytest.approx(forward)
    assert KLS["adv||ref"](adv, reference).item() == pytest.approx(backward)


@pytest.mark.parametrize("kl", KLS)
def test_a_still_attack_leaves_the_frozen_term_alone(backbone, batch, kl):
    terms = stirred(backbone, batch.classes, kl=kl).loss(backbone, batch, still)
    assert terms["consistency_kl"].abs() < 1e-6
    assert terms["guidance"] > 1e-3


# ---- limits of the weights


def test_without_weight_it_is_clean_prompt_tuning(backbone, batch, spy):
    defense = stirred(backbone, batch.classes, lam=0.0)
    terms = defense.loss(backbone, batch, spy)
    assert spy.calls == []
    assert list(terms) == ["clean_ce"]
    assert_close(terms["clean_ce"], cross_entropy(through(defense, backbone, batch.classes)(batch.images), batch.labels))


def test_alpha_zero_is_trades_and_so_is_no_guide(backbone, batch, attack):
    zero = stirred(backbone, batch.classes, alpha_mode="constant", alpha=0.0)
    classifier = through(zero, backbone, batch.classes)
    adv = attack(classifier.detached(), batch.images, batch.labels, indices=batch.indices)
    clean = classifier(batch.images)
    expected = cross_entropy(clean, batch.labels) + 3.0 * kl_to_clean(classifier(adv), clean)
    assert_close(total(zero, backbone, batch, attack), expected)
    unguided = stirred(backbone, batch.classes, guide="none")
    assert_close(total(unguided, backbone, batch, attack), expected)
    assert list(unguided.loss(backbone, batch, attack)) == ["clean_ce", "consistency_kl"]


def test_alpha_one_is_the_frozen_guidance_alone(backbone, batch, attack):
    defense = stirred(backbone, batch.classes, alpha_mode="constant", alpha=1.0, lam=2.0)
    terms = defense.loss(backbone, batch, attack)
    assert terms["consistency_kl"] == 0
    classifier = through(defense, backbone, batch.classes)
    adv = attack(classifier.detached(), batch.images, batch.labels, indices=batch.indices)
    frozen = assemble(backbone, batch.classes, Adaptation(templates=PLAIN))(batch.images)
    assert_close(terms["guidance"], 2.0 * kl_to_clean(classifier(adv), frozen))


def test_the_loss_is_linear_in_a_constant_alpha(backbone, batch, attack):
    options = {"alpha_mode": "constant"}
    ends = [total(stirred(backbone, batch.classes, alpha=a, **options), backbone, batch, attack) for a in (0.0, 1.0)]
    between = total(stirred(backbone, batch.classes, alpha=0.3, **options), backbone, batch, attack)
    assert_close(between, 0.7 * ends[0] + 0.3 * ends[1])


# ---- the guide


def test_untouched_prompts_that_say_the_template_agree_with_the_guide(backbone, batch):
    """Context words start as the template's own, so without image prompts both models are the same: alpha is one half."""
    defense = make(backbone, batch.classes, prompts="text", depth=1, templates=PLAIN)
    terms = defense.loss(backbone, batch, still)
    assert_close(
        through(defense, backbone, batch.classes)(batch.images),
        defense.consistency.guide.logits(backbone, batch.images, batch.classes),
    )
    assert terms["guidance"].abs() < 1e-6
    assert defense.diagnostics()["alpha_cons"] == pytest.approx(0.5, abs=1e-5)


def test_the_guide_sees_clean_images_and_stays_the_same_while_training(backbone, batch, attack):
    defense = make(backbone, batch.classes, prompts="independent")
    before = defense.consistency.guide.logits(backbone, batch.images, batch.classes)
    seen = []
    plain = defense.consistency.guide.logits
    defense.consistency.guide.logits = lambda backbone, images, classes: seen.append(images) or plain(backbone, images, classes)
    schedule = Schedule(epochs=2, lr=0.05, warmup_epochs=0)
    fit(defense, backbone, lambda epoch: [batch], attack, schedule=schedule)
    assert len(seen) == 2
    assert all(torch.equal(images, batch.images) for images in seen)
    after = plain(backbone, batch.images, batch.classes)
    assert torch.equal(before, after)
    assert not after.requires_grad
    assert not torch.equal(through(defense, backbone, batch.classes)(batch.images), after)


def test_another_backbone_guides_where_it_is_named(backbone, batch, monkeypatch):
    other = tiny_backbone(seed=5)
    loaded = []
    monkeypatch.setattr(_frozen, "load", lambda name, **options: loaded.append(name) or other)
    defense = make(backbone, batch.classes, guide="another")
    assert loaded == []  # a finished run is used without its guide
    defense.prepare(backbone, [batch])
    found = defense.consistency.guide.logits(backbone, batch.images, batch.classes)
    assert loaded == ["another"]
    assert_close(found, assemble(other, batch.classes, Adaptation(templates=PLAIN))(batch.images))
    assert not torch.equal(found, make(backbone, batch.classes).consistency.guide.logits(backbone, batch.images, batch.classes))


def test_a_guide_of_another_size_or_name_is_refused_before_training(backbone, batch):
    with pytest.raises(UsageError, match="mini takes images of 64 pixels and tiny of 32"):
        make(backbone, batch.classes, guide="mini").prepare(backbone, [batch])
    with pytest.raises(UsageError, match="mini-robust"):
        make(backbone, batch.classes, guide="mini-robost").prepare(backbone, [batch])


def test_the_guide_follows_the_classes_and_the_templates(backbone, batch):
    guide = make(backbone, batch.classes, templates=("a painting of a {}.",)).consistency.guide
    others = ("dog", "boat")
    guide.logits(backbone, batch.images, batch.classes)
    expected = assemble(backbone, others, Adaptation(templates=("a painting of a {}.",)))(batch.images)
    assert_close(guide.logits(backbone, batch.images, others), expected)


# ---- the inner attack


def test_the_inner_attack_is_on_cross_entropy_or_on_kl(backbone, batch, spy):
    make(backbone, batch.classes).loss(backbone, batch, spy)
    defense = stirred(backbone, batch.classes, inner="kl")
    defense.loss(backbone, batch, spy)
    assert spy.calls[0].loss is None
    clean = through(defense, backbone, batch.classes)(batch.images)
    moved = clean.flip(0).detach()
    assert_close(spy.calls[1].loss(moved, batch.labels), kl_each(moved, clean))
    assert not spy.calls[1].loss(moved, batch.labels).requires_grad


def test_an_inner_attack_on_kl_needs_a_random_start(backbone, batch):
    with pytest.raises(UsageError, match="random start"):
        make(backbone, batch.classes, inner="kl").loss(backbone, batch, PGD(eps=0.1, steps=1, start="zero"))


# ---- the trace of alpha


@pytest.mark.parametrize("mode", MODES)
def test_the_mean_of_alpha_is_logged(backbone, batch, attack, mode):
    events = []
    defense = make(backbone, batch.classes, alpha_mode=mode, alpha=0.25 if mode == "constant" else None)
    fit(
        defense, backbone, lambda epoch: [batch], attack,
        schedule=Schedule(epochs=3, lr=0.02, warmup_epochs=0), callback=events.append,
    )  # fmt: skip
    trace = [event["diagnostics"]["alpha_cons"] for event in events if event["event"] == "epoch"]
    assert len(trace) == 3
    assert all(0 <= value <= 1 for value in trace)
    assert (len(set(trace)) == 1) == (mode in ("constant", "frozen_conf", "batch_acc"))  # the others follow the tuned model


def test_the_spread_of_single_alphas_and_the_alignment_are_logged(backbone, batch, attack):
    defense = stirred(backbone, batch.classes)
    classifier = through(defense, backbone, batch.classes)
    frozen = defense.consistency.guide.logits(backbone, batch.images, batch.classes)
    single = ALPHAS["ratio"](frozen, classifier(batch.images).detach(), batch.labels)
    features = torch.nn.functional.normalize(classifier.encode_image(batch.images), dim=-1)
    cosines = (features * classifier.text_features[batch.labels]).sum(-1)
    defense.loss(backbone, batch, attack)
    found = defense.diagnostics()
    assert found["alpha_std"] == pytest.approx(float(single.std(correction=0)), abs=1e-5)
    assert (found["alpha_min"], found["alpha_max"]) == pytest.approx((float(single.min()), float(single.max())), abs=1e-5)
    assert found["alpha_std"] > 0
    assert found["alignment_clean"] == pytest.approx(float(cosines.detach().mean()), abs=1e-5)
    assert found["alignment_adv"] < found["alignment_clean"]


# ---- in a stack


def test_it_trains_in_a_stack_through_the_whole_and_logs_under_its_name(backbone, batch, attack):
    events, given = [], {"capt.prompts": "text", "avp_pixel.tokens": 2}
    stack = build("capt+avp_pixel", backbone, batch.classes, generator=torch.Generator().manual_seed(0), given=given)
    start = {name: tensor.clone() for name, tensor in stack.state_dict().items()}
    schedule = Schedule(epochs=2, lr=0.05, warmup_epochs=0)
    fit(stack, backbone, lambda epoch: [batch], attack, schedule=schedule, callback=events.append)
    assert list(events[-1]["terms"]) == ["capt.clean_ce", "capt.consistency_kl", "capt.guidance", "avp_pixel.adv_ce"]
    assert "capt.alpha_std" in events[-1]["diagnostics"]
    assert all(not torch.equal(value, start[name]) for name, value in stack.state_dict().items() if value.numel())


# ---- options that cannot be right

REFUSED = [
    ({"prompts": "deep"}, "prompts must be one of coupled, independent, text, image; got 'deep'"),
    ({"alpha_mode": "mean"}, "alpha_mode must be one of"),
    ({"alpha_mode": "constant"}, "alpha goes with alpha_mode='constant'"),
    ({"alpha": 0.5}, "alpha goes with alpha_mode='constant'"),
    ({"alpha_mode": "constant", "alpha": 1.5}, "alpha must be a number of at least 0 and at most 1; got 1.5"),
    ({"guide": "none", "alpha_mode": "frozen_conf"}, "no frozen model to weigh"),
    ({"guide": ""}, "name of a backbone"),
    ({"lam": -1.0}, "lam must be a number of at least 0"),
    ({"lam": float("nan")}, "lam must be a number"),
    ({"kl": "js"}, "kl must be one of"),
    ({"inner": "margin"}, "inner must be one of ce, kl"),
    ({"length": 0}, "length must be a whole number of at least 1"),
    ({"length": 80}, "holds at most"),
    ({"depth": 3}, "prompt depth must be 1 to 2"),
    ({"templates": ("a photo",)}, "a template needs {}"),
]


@pytest.mark.parametrize(("options", "message"), REFUSED, ids=str)
def test_options_that_cannot_be_right_are_refused_in_one_line(backbone, batch, options, message):
    with pytest.raises(UsageError, match=message) as caught:
        make(backbone, batch.classes, **options)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("prompts", ["coupled", "independent"])
def test_a_tower_without_tokens_takes_text_prompts_alone(rn50, prompts):
    with pytest.raises(UnsupportedEdit, match="no token sequence"):
        make(rn50, ["a", "b"], prompts=prompts)
    assert make(rn50, ["a", "b"], prompts="text")
