"""AdvMask against closed forms and the invariants of its method sheet: gate, LAFA, gradients, guards, storage, stacks."""

import pytest
import torch
from torch.nn.functional import cross_entropy
from torch.testing import assert_close

from ironclip.attacks.pgd import PGD
from ironclip.backbones import assemble
from ironclip.backbones.tiny import tiny_backbone
from ironclip.core.errors import AdaptationClash, CheckpointError, UnsupportedEdit, UsageError
from ironclip.core.losses import js_each, kl_to_clean
from ironclip.core.merging import merge
from ironclip.core.schedule import Schedule
from ironclip.core.types import Adaptation, Mask, Trace
from ironclip.defenses import build
from ironclip.defenses.advmask import AdvMask, confidence_weights, lafa
from ironclip.loops.training import State, fit

ADAM = Schedule(epochs=4, batch_size=8, optimizer="adamw", lr=0.003, weight_decay=0.0, warmup_epochs=0)
INSIDE = "transformer.resblocks.0.attn.in_proj_weight"
OUT = "transformer.resblocks.0.attn.out_proj.weight"


def classifier(defense, backbone, classes):
    return assemble(backbone, classes, defense.adaptation(backbone, classes))


def stirred(backbone, classes, seed: int = 3, **options) -> AdvMask:
    """With about a quarter of the weights dropped."""
    defense = AdvMask(backbone, classes, **options)
    drawn = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for scores in defense.scores:
            scores.copy_(torch.rand(scores.shape, generator=drawn) * 0.02)
    return defense


def shift(function, images, labels, **options):
    return (images + 0.02).clamp(0, 1)


# ---- the masked tower (section 8: 1, 3, 5, 8)


def test_a_fresh_mask_is_the_backbone_bit_for_bit(backbone, batch):
    fresh = classifier(AdvMask(backbone, batch.classes), backbone, batch.classes)
    assert torch.equal(fresh(batch.images), assemble(backbone, batch.classes)(batch.images))


def test_a_masked_tower_is_the_tower_with_masked_weights(backbone, batch):
    defense, other = stirred(backbone, batch.classes), tiny_backbone()
    for name, scores in zip(defense.held, defense.scores, strict=True):
        with torch.no_grad():
            other.image_weight(name).mul_(scores > 0.005)
    expected = assemble(other, batch.classes)(batch.images)
    assert_close(classifier(defense, backbone, batch.classes)(batch.images), expected, atol=1e-6, rtol=1e-6)


def test_without_any_attention_weight_the_branch_is_the_bias_of_its_projection(backbone, batch):
    defense = AdvMask(backbone, batch.classes)
    with torch.no_grad():
        for scores in defense.scores:
            scores.zero_()
    trace = Trace()
    classifier(defense, backbone, batch.classes).encode_image(batch.images, trace=trace)
    block = backbone.image.net.transformer.resblocks[0]
    hidden = trace.inputs[0] + block.attn.out_proj.bias
    assert_close(trace.inputs[1], hidden + block.mlp(block.ln_2(hidden)), atol=1e-5, rtol=0)


def test_weights_are_multiplied_once_a_step_whatever_the_attack(batch):
    backbone, asked = tiny_backbone(), []
    own = backbone.image_weight
    backbone.image_weight = lambda name: asked.append(name) or own(name)  # called where a mask meets its weight
    defense = AdvMask(backbone, batch.classes)
    asked.clear()
    defense.loss(backbone, batch, PGD(eps=1 / 255, steps=5, keep="last"))
    assert sorted(asked) == sorted(defense.held)


# ---- gradients (section 8: 4, 10, 11)


def test_scores_get_the_slope_of_the_weight_times_the_weight_also_where_they_are_dropped(batch):
    backbone = tiny_backbone().double()
    defense = stirred(backbone, batch.classes, alignment="none")
    images, masks = batch.images.double(), defense.masks()
    loss = cross_entropy(classifier(defense, backbone, batch.classes)(images), batch.labels)
    slopes = torch.autograd.grad(loss, list(defense.scores))
    weights = {name: (backbone.image_weight(name) * masks[name]).requires_grad_() for name in defense.held}
    plain = cross_entropy(assemble(backbone, batch.classes, Adaptation(image_weights=weights))(images), batch.labels)
    for name, slope, found in zip(weights, torch.autograd.grad(plain, list(weights.values())), slopes, strict=True):
        assert_close(found, slope * backbone.image_weight(name), atol=1e-12, rtol=1e-9)
        assert found[~masks[name]].abs().max() > 0


def test_nothing_but_the_scores_is_trained(backbone, batch, attack):
    defense = AdvMask(backbone, batch.classes)
    sum(defense.loss(backbone, batch, attack).values()).backward()
    assert len(list(defense.parameters())) == 2 * backbone.spec.image_layers
    assert all(scores.grad.abs().max() > 0 for scores in defense.scores)
    assert all(parameter.grad is None for parameter in backbone.parameters())


def test_the_attack_sees_the_mask(backbone, batch):
    attack = PGD(eps=4 / 255, steps=3, keep="last")
    found = [
        attack(classifier(d, backbone, batch.classes).detached(), batch.images, batch.labels)
        for d in (stirred(backbone, batch.classes), stirred(backbone, batch.classes, seed=4))
    ]
    assert not torch.equal(*found)


def test_the_inner_attack_climbs_the_cross_entropy_alone(backbone, batch, spy):
    AdvMask(backbone, batch.classes).loss(backbone, batch, spy)
    (call,) = spy.calls
    assert getattr(call, "loss", None) is None
    assert not any(weight.requires_grad for weight in call.function.image_weights.values())
    assert torch.equal(call.indices, batch.indices)


# ---- the objective (sections 4 and 8: 9)


def blocks(defense, backbone, batch, images):
    trace, made = Trace(), classifier(defense, backbone, batch.classes)
    made.encode_image(images, trace=trace)
    return made(images), [trace.inputs[layer] for layer in (1, 2)]


@pytest.mark.parametrize("weighted", [True, False])
def test_lafa_written_out(backbone, batch, weighted):
    defense = stirred(backbone, batch.classes, adaptive_weight=weighted)
    terms = defense.loss(backbone, batch, shift)
    logits, clean = blocks(defense, backbone, batch, batch.images)
    moved_logits, moved = blocks(defense, backbone, batch, shift(None, batch.images, None))
    clean, moved = ([t.detach() for t in side] for side in (clean, moved))
    sure = [float(logits[i].detach().softmax(0)[label]) for i, label in enumerate(batch.labels)]
    total = 0.0
    for layer in range(2):
        for i in range(8):
            omega = sure[i] / (sum(sure) / 8) if weighted else 1.0
            total += omega * float((clean[layer][i] - moved[layer][i]).square().mean()) / (2 * 8)
    assert float(terms["lafa"].detach()) == pytest.approx(50 * total, rel=1e-4)
    assert_close(terms["adv_ce"], cross_entropy(moved_logits, batch.labels))


def test_lafa_is_zero_without_an_attack_and_does_not_care_for_order(backbone, batch):
    defense = stirred(backbone, batch.classes)
    assert float(defense.loss(backbone, batch, lambda f, images, labels, **o: images)["lafa"].detach()) == 0
    drawn = torch.Generator().manual_seed(0)
    clean, adv = ([torch.randn(5, 3, 4, generator=drawn) for _ in range(3)] for _ in range(2))
    weights, order = torch.rand(5, generator=drawn), torch.tensor([3, 1, 0, 4, 2])
    permuted = lafa([t[order] for t in clean], [t[order] for t in adv], weights[order])
    assert_close(permuted, lafa(clean, adv, weights))
    assert_close(lafa(clean, adv, torch.ones(5)), lafa(clean, adv))
    assert_close(lafa(clean, adv, summed=True), 12 * lafa(clean, adv))
    scaled = lafa([2 * t for t in clean], [5 * t for t in adv], unit=True)
    assert_close(scaled, lafa(clean, adv, unit=True))


def test_confidence_weights_have_mean_one_and_no_gradient():
    logits = (3 * torch.randn(6, 4, generator=torch.Generator().manual_seed(0))).requires_grad_()
    labels = torch.tensor([0, 1, 2, 3, 0, 1])
    weights = confidence_weights(logits, labels)
    assert float(weights.mean()) == pytest.approx(1, abs=1e-5)
    assert not weights.requires_grad
    assert_close(confidence_weights(torch.zeros(6, 4), labels), torch.ones(6))


@pytest.mark.parametrize("kind", ["js", "kl"])
def test_divergences_instead_of_features(backbone, batch, kind):
    defense = stirred(backbone, batch.classes, alignment=kind, align_weight=3.0)
    made = classifier(defense, backbone, batch.classes)
    clean, moved = made(batch.images), made(shift(None, batch.images, None))
    expected = {"js": js_each(clean, moved).mean(), "kl": kl_to_clean(moved, clean)}[kind]
    assert_close(defense.loss(backbone, batch, shift)[kind], 3 * expected)
    assert AdvMask(backbone, batch.classes, alignment=kind).align_weight == 1


def test_the_clean_side_may_be_held_constant(backbone, batch):
    both, one = (stirred(backbone, batch.classes, detach_clean=flag) for flag in (False, True))
    terms = [defense.loss(backbone, batch, shift)["lafa"] for defense in (both, one)]
    assert_close(*terms)
    slopes = [torch.autograd.grad(term, d.scores[0])[0] for term, d in zip(terms, (both, one), strict=True)]
    assert (slopes[0] - slopes[1]).abs().max() > 1e-4 * slopes[0].abs().max()


def test_the_class_token_alone(backbone, batch):
    term = stirred(backbone, batch.classes, align_tokens="cls").loss(backbone, batch, shift)["lafa"]
    defense = stirred(backbone, batch.classes)
    logits, clean = blocks(defense, backbone, batch, batch.images)
    _, moved = blocks(defense, backbone, batch, shift(None, batch.images, None))
    weights = confidence_weights(logits, batch.labels)
    assert_close(term, 50 * lafa([t[:, :1] for t in clean], [t[:, :1] for t in moved], weights))


def test_the_tokens_that_reach_the_logits_are_all_but_the_patches_after_the_last_block(backbone, batch):
    term = stirred(backbone, batch.classes, align_tokens="reaching").loss(backbone, batch, shift)["lafa"]
    defense = stirred(backbone, batch.classes)
    logits, clean = blocks(defense, backbone, batch, batch.images)
    _, moved = blocks(defense, backbone, batch, shift(None, batch.images, None))
    ours, theirs = ([*found[:-1], found[-1][:, :1]] for found in (clean, moved))
    assert_close(term, 50 * lafa(ours, theirs, confidence_weights(logits, batch.labels)))


# ---- training: guards, resume, storage (sections 6, 7, 8: 6, 7, 13)


def test_few_steps_become_enough_by_passing_over_the_images_again(backbone, batch):
    defense = AdvMask(backbone, batch.classes)
    long = Schedule(epochs=30, optimizer="adamw", lr=8e-5, weight_decay=0.0, warmup_epochs=0)
    assert defense.passes(long, 1) == 17  # one-shot EuroSAT: 30 steps become 510
    assert defense.passes(long, 50) == 1
    patient = AdvMask(backbone, batch.classes, min_steps=0)
    with pytest.warns(UserWarning, match=r"in 30 steps a score moves by 0\.0012 at most, but a bit flips 0\.005 away"):
        assert patient.passes(long, 1) == 1
    with pytest.warns(UserWarning, match="sgd moves a score by its gradient"):
        defense.passes(Schedule(epochs=30), 17)
    stack = build("nap+advmask", backbone, batch.classes, given={"advmask.min_steps": 90})
    assert stack.passes(ADAM, 10) == 3


def test_a_mask_that_dropped_nothing_is_not_kept(backbone, batch):
    with pytest.raises(UsageError, match=r"the mask still keeps every weight: no score fell by 0\.005"):
        AdvMask(backbone, batch.classes).learned()


def test_weight_decay_never_reaches_the_scores(backbone, batch):
    (group,) = AdvMask(backbone, batch.classes, lr_ratio=0.5).parameter_groups(2.0)
    assert (group["lr"], group["weight_decay"]) == (1.0, 0.0)
    decayed, plain = (AdvMask(backbone, batch.classes) for _ in range(2))
    for defense, decay in ((decayed, 0.5), (plain, 0.0)):
        attack = PGD(eps=1 / 255, steps=1, keep="last")
        schedule = Schedule(epochs=2, batch_size=8, optimizer="adamw", lr=0.003, weight_decay=decay, warmup_epochs=0)
        fit(defense, backbone, lambda epoch: [batch], attack, schedule=schedule)
    assert torch.equal(decayed.scores[0], plain.scores[0])


def test_bits_serve_as_well_as_scores_and_a_resumed_training_ends_alike(backbone, batch, attack):
    whole, resumed, states = AdvMask(backbone, batch.classes), AdvMask(backbone, batch.classes), []
    fit(whole, backbone, lambda epoch: [batch], attack, schedule=ADAM, save=states.append)
    half: State = states[1]
    fit(resumed, backbone, lambda epoch: [batch], attack, schedule=ADAM, resume=half)
    stored = whole.learned()
    assert all(torch.equal(tensor, resumed.learned()[name]) for name, tensor in stored.items())
    assert all(torch.equal(a, b) for a, b in zip(whole.scores, resumed.scores, strict=True))
    loaded = AdvMask(backbone, batch.classes)
    loaded.load_learned(stored)
    assert all(torch.equal(tensor, loaded.learned()[name]) for name, tensor in stored.items())
    outputs = [classifier(d, backbone, batch.classes)(batch.images) for d in (whole, loaded)]
    assert torch.equal(*outputs)
    assert 0 < loaded.diagnostics()["kept"] < 1
    with pytest.raises(CheckpointError, match="bits are of other weights"):
        AdvMask(backbone, batch.classes, targets="mlp").load_learned(stored)


def test_shares_of_kept_weights_by_layer(backbone, batch):
    defense = AdvMask(backbone, batch.classes)
    with torch.no_grad():
        defense.scores[0][32:48] = 0  # k, first head of two
        defense.scores[1][:, 16:] = 0  # out reads the second head from these columns
    found = defense.diagnostics()
    assert found[f"kept.{INSIDE}"] == pytest.approx(5 / 6)
    assert found["kept"] == pytest.approx(1 - (16 * 32 + 16 * 32) / 8192)


def test_training_finds_a_mask_that_is_more_robust(backbone, batch):
    attack = PGD(eps=2 / 255, step_size=1 / 255, steps=3, keep="last")
    defense = AdvMask(backbone, batch.classes)
    schedule = Schedule(epochs=25, batch_size=8, optimizer="adamw", lr=0.001, weight_decay=0.0, warmup_epochs=0)
    fit(defense, backbone, lambda epoch: [batch], attack, schedule=schedule)

    def loss(made):
        adv = PGD(eps=2 / 255, steps=10)(made, batch.images, batch.labels)
        with torch.no_grad():
            return float(cross_entropy(made(adv), batch.labels))

    before, after = assemble(backbone, batch.classes), classifier(defense, backbone, batch.classes).detached()
    assert loss(after) < 0.6 * loss(before)


# ---- surrogates (section 9)


def test_surrogates_are_the_whole_network_and_unsaturated_logits(backbone, batch):
    stack = build("apt+advmask", backbone, batch.classes, given={"apt.length": 2})
    mask = stack.parts["advmask"]
    mask.load_state_dict(stirred(backbone, batch.classes).state_dict())
    made = classifier(stack, backbone, batch.classes).detached()
    whole, tempered = stack.surrogates(made)
    context = stack.parts["apt"].adaptation(backbone, batch.classes)
    assert torch.equal(whole(batch.images), assemble(backbone, batch.classes, context)(batch.images))
    assert_close(tempered(batch.images), made(batch.images) / 10)
    assert whole.classes == tempered.classes == made.classes
    assert mask.surrogates(lambda images: images) == ()


# ---- stacks (merge rules)


@pytest.mark.parametrize("name", ["nap+advmask", "apt+advmask"])
def test_stacks_train_save_and_load(backbone, batch, attack, name):
    given = {"nap+advmask": {"nap.length": 2}, "apt+advmask": {"apt.length": 2}}[name]
    first, second = (build(name, backbone, batch.classes, given=given) for _ in range(2))
    terms = first.loss(backbone, batch, attack)
    part = name.split("+")[0]
    assert set(terms) == {f"{part}.adv_ce", "advmask.adv_ce", "advmask.lafa"}
    fit(first, backbone, lambda epoch: [batch], attack, schedule=ADAM)
    stored = first.learned()
    assert sum(tensor.dtype == torch.uint8 for tensor in stored.values()) == 4
    assert not any("scores" in key for key in stored)
    second.load_learned(stored)
    with torch.no_grad():
        pair = [classifier(stack, backbone, batch.classes)(batch.images) for stack in (first, second)]
    assert torch.equal(*pair)
    with pytest.raises(RuntimeError, match="of no part of this stack"):
        second.load_learned({**stored, "parts.other.x": torch.zeros(1)})


def test_aligned_tokens_are_those_of_the_image_not_the_prompts(backbone, batch):
    """Prompts are the same on both sides; counted among the tokens they would dilute the mean."""
    stack = build("nap+advmask", backbone, batch.classes, given={"nap.length": 3})
    whole = stack.adaptation(backbone, batch.classes)
    term = stack.parts["advmask"].loss(backbone, batch, shift, adaptation=whole)["lafa"]
    made, sides = assemble(backbone, batch.classes, whole), []
    for images in (batch.images, shift(None, batch.images, None)):
        trace = Trace()
        made.encode_image(images, trace=trace)
        sides.append([trace.inputs[layer][:, :17] for layer in (1, 2)])
    assert_close(term, 50 * lafa(*sides, confidence_weights(made(batch.images), batch.labels)))


def test_masks_multiply_and_meet_replaced_weights(backbone, batch):
    a, b = (stirred(backbone, batch.classes, seed=seed).adaptation(backbone, batch.classes) for seed in (1, 2))
    both = merge(a, b).image_weights[INSIDE]
    assert isinstance(both, Mask)
    assert torch.equal(both.values, a.image_weights[INSIDE].values * b.image_weights[INSIDE].values)
    value = torch.full_like(backbone.image_weight(INSIDE), 2.0)
    for pair in ((a, Adaptation(image_weights={INSIDE: value})), (Adaptation(image_weights={INSIDE: value}), a)):
        assert torch.equal(merge(*pair).image_weights[INSIDE], 2 * a.image_weights[INSIDE].values)
    with pytest.raises(AdaptationClash, match="prompt templates"):
        merge(*(AdvMask(backbone, batch.classes, templates=[t]).adaptation(backbone, batch.classes) for t in ("a {}", "b {}")))


# ---- refusals

REFUSED = [
    ({"targets": "heads"}, "unknown target 'heads'"),
    ({"targets": []}, "targets must name at least one"),
    ({"targets": ["q", "w"]}, "unknown target 'w'"),
    ({"layers": [2]}, "layers are whole numbers from 0 to 1; got 2"),
    ({"score_init": 0.005}, r"score_init must be a number of above 0\.005; got 0\.005"),
    ({"threshold": -1}, "threshold"),
    ({"alignment": "mmd"}, "alignment must be one of lafa, js, kl, none; got 'mmd'"),
    ({"align_weight": 0}, "align_weight must be a number of above 0"),
    ({"adaptive_weight": 1}, "adaptive_weight must be true or false"),
    ({"detach_clean": "no"}, "detach_clean must be true or false"),
    ({"align_tokens": "grid"}, "align_tokens must be one of all, cls"),
    ({"align_reduction": "max"}, "align_reduction"),
    ({"align_norm": "l1"}, "align_norm"),
    ({"min_steps": -1}, "min_steps must be a whole number"),
    ({"lr_ratio": 0}, "lr_ratio"),
    ({"treshold": 0.1}, "did you mean 'threshold'"),
]


@pytest.mark.parametrize(("options", "message"), REFUSED)
def test_options_that_cannot_be_fail_at_construction(backbone, batch, options, message):
    with pytest.raises(UsageError, match=message) as caught:
        build("advmask", backbone, batch.classes, given=options)
    assert "\n" not in str(caught.value)


def test_a_tower_without_blocks_is_refused(rn50):
    with pytest.raises(UnsupportedEdit, match="no transformer blocks"):
        AdvMask(rn50, ["a", "b"])
