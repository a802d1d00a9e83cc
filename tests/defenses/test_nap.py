"""NAP: counts, identity at the start, what is refined, where gradients go, overfitting, and attacks through the refiners."""

from dataclasses import dataclass
from functools import partial

import pytest
import torch
from torch import nn
from torch.nn.functional import cross_entropy
from torch.testing import assert_close

from ironclip.attacks.pgd import PGD
from ironclip.backbones import assemble, splice
from ironclip.backbones.tiny import tiny_backbone
from ironclip.core.errors import UnsupportedEdit, UsageError
from ironclip.core.types import Adaptation, Batch, Trace
from ironclip.defenses import build
from ironclip.defenses._blocks import TokenRefiner
from ironclip.defenses.nap import NAP
from ironclip.loops.training import Schedule, fit


def count(defense: nn.Module) -> int:
    return sum(p.numel() for p in defense.parameters())


def classifier(defense, backbone, classes, **options):
    return assemble(backbone, classes, defense.adaptation(backbone, classes), **options)


def drawn(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def stirred(backbone, classes, **options) -> NAP:
    """A NAP whose refiners and prompts are far from their start."""
    defense = NAP(backbone, classes, generator=drawn(), **options)
    for parameter in defense.parameters():
        parameter.data += 0.1 * torch.randn(parameter.shape, generator=drawn(parameter.numel()))
    return defense


# ---- counts (section 2)

COUNTS = [(1.0, 14_174_208, 6_303_744), (1 / 4, 3_550_464, 1_580_544), (1 / 16, 894_528, 399_744)]


@pytest.mark.parametrize(("ratio", "image", "text"), COUNTS)
@pytest.mark.parametrize("sides", ["both", "image", "text"])
def test_counts_on_vit_b(vit_b, ratio, image, text, sides):
    expected = 30_720 + (image if sides != "text" else 0) + (text if sides != "image" else 0)
    assert count(NAP(vit_b, ["a", "b"], hidden_ratio=ratio, sides=sides)) == expected


def test_count_on_vit_l(vit_l):
    assert count(NAP(vit_l, ["a", "b"])) == 64_622_592


@pytest.mark.parametrize(("length", "depth"), [(1, 1), (2, 9), (4, 12)])
def test_counts_of_prompts(vit_b, length, depth):
    assert count(NAP(vit_b, ["a", "b"], length=length, depth=depth, refiner_layers=0)) == length * depth * (768 + 512)


def test_each_tower_may_have_a_length_and_a_depth_of_its_own(vit_b):
    defense = NAP(vit_b, ["a", "b"], length=2, depth=3, text_length=4, text_depth=9, refiner_layers=0)
    assert count(defense) == 2 * 3 * 768 + 4 * 9 * 512
    with pytest.raises(UsageError, match="leave out text_depth"):
        NAP(vit_b, ["a", "b"], depth=0, text_depth=2)


def test_counts_of_other_refiners(vit_b):
    per_layer = {1: 768**2 + 768, 3: 3 * (768**2 + 768), 4: 4 * (768**2 + 768)}
    for layers, expected in per_layer.items():
        assert count(NAP(vit_b, ["a", "b"], refiner_layers=layers, sides="image")) == 30_720 + 12 * expected
    assert count(NAP(vit_b, ["a", "b"], share="all", sides="image", pre_norm="layernorm")) == 30_720 + 14_174_208 // 12


# ---- the start is the identity

VARIANTS = [{}, {"depth": 1}, {"share": "all"}, {"refiner_layers": 1}, {"refiner_layers": 3, "activation": "quickgelu"},
            {"pre_norm": "layernorm", "activation": "relu"}, {"first_prompt": "before_ln_pre"}, {"sides": "image"}]  # fmt: skip


@pytest.mark.parametrize("options", VARIANTS, ids=str)
def test_zero_refiners_change_nothing_bitwise(backbone, batch, options):
    with_refiners = NAP(backbone, batch.classes, generator=drawn(), **options)
    without = NAP(backbone, batch.classes, generator=drawn(), **{**options, "refiner_layers": 0})
    assert count(with_refiners) > count(without)
    found, expected = (classifier(d, backbone, batch.classes) for d in (with_refiners, without))
    assert torch.equal(found.text_features, expected.text_features)
    assert torch.equal(found(batch.images), expected(batch.images))


def test_zero_refiners_without_prompts_are_plain_clip(backbone, batch):
    refined = classifier(NAP(backbone, batch.classes, depth=0), backbone, batch.classes)
    assert torch.equal(refined(batch.images), assemble(backbone, batch.classes)(batch.images))


def test_depth_one_equals_deep_prompts_that_repeat_what_the_block_before_produced(backbone, batch):
    shallow, deep = (NAP(backbone, batch.classes, depth=d, refiner_layers=0, generator=drawn()) for d in (1, 2))
    deep.context.data.copy_(shallow.context)
    deep.image_prompts.tokens.data[0] = shallow.image_prompts.tokens[0]
    image, adaptation = batch.images[:1], shallow.adaptation(backbone, batch.classes)
    trace = Trace()
    backbone.encode_image(image, edits=adaptation.image_edits, trace=trace)
    deep.image_prompts.tokens.data[1] = trace.inputs[1][0, -2:]
    found = backbone.encode_image(image, edits=deep.adaptation(backbone, batch.classes).image_edits)
    assert_close(found, backbone.encode_image(image, edits=adaptation.image_edits), atol=1e-5, rtol=0)


# ---- what is refined (section 3)


def shapes_refined(defense, backbone, batch) -> dict[str, list[tuple[int, ...]]]:
    seen: dict[str, list[tuple[int, ...]]] = {"image": [], "text": []}
    for side, refiners in (("image", defense.image_refiners), ("text", defense.text_refiners)):
        for refiner in refiners.refiners:
            refiner.register_forward_hook(lambda module, args, out, side=side: seen[side].append(tuple(args[0].shape)))
    classifier(defense, backbone, batch.classes)(batch.images)
    return seen


@pytest.mark.parametrize("depth", [1, 2])
def test_image_refiners_see_class_token_and_patches_never_prompts(backbone, batch, depth):
    assert shapes_refined(NAP(backbone, batch.classes, depth=depth), backbone, batch)["image"] == [(8, 17, 32)] * 2


def test_the_correction_is_token_wise(backbone, batch):
    refiner = stirred(backbone, batch.classes).image_refiners.refiners[0]
    tokens = torch.randn(2, 17, 32, generator=drawn())
    order = torch.randperm(17, generator=drawn(1))
    assert_close(refiner(tokens[:, order]), refiner(tokens)[:, order], atol=1e-6, rtol=0)
    first, act, second = refiner.net
    assert_close(refiner(tokens), tokens + act(tokens @ first.weight.T + first.bias) @ second.weight.T + second.bias)


def test_poisoned_prompts_reach_a_refiner_through_attention_alone(backbone, batch):
    """Prompts of NaN at layer 0 never enter a refiner at layer 0; what they poison there went through the block."""
    defense, fresh = stirred(backbone, batch.classes), []
    defense.image_prompts.tokens.data[0] = torch.nan
    for refiner in defense.image_refiners.refiners:
        refiner.register_forward_hook(lambda module, args, out: fresh.append(bool(out.isnan().any())))
    backbone.encode_image(batch.images, edits=defense.adaptation(backbone, batch.classes).image_edits)
    assert fresh == [False, True]


@pytest.mark.parametrize("depth", [1, 2])
def test_text_prompts_are_not_refined_where_they_are_new(backbone, batch, depth):
    """At layers below J the positions 1 .. P hold P^l itself; behind J they are refined like any token."""
    defense = stirred(backbone, batch.classes, depth=depth)
    adaptation, trace = defense.adaptation(backbone, batch.classes), Trace()
    tokens = splice(backbone, batch.classes, adaptation.context)
    backbone.encode_text(tokens, edits=adaptation.text_edits, trace=trace)
    positions = backbone.text.net.positional_embedding[1:3]
    assert_close(trace.inputs[0][:, 1:3], (defense.context + positions).expand(4, -1, -1))
    if depth == 2:
        assert_close(trace.inputs[1][:, 1:3], defense.text_prompts.tokens[0].expand(4, -1, -1))
    else:
        plain = Trace()
        backbone.encode_text(tokens, edits=[lambda layer, t: trace.inputs[0] if layer == 0 else t], trace=plain)
        assert_close(trace.inputs[1], defense.text_refiners.refiners[1](plain.inputs[1]), atol=1e-5, rtol=0)


@pytest.mark.parametrize("options", [{}, {"depth": 1}, {"first_prompt": "before_ln_pre"}, {"share": "all"}], ids=str)
def test_the_image_pass_written_out(backbone, batch, options):
    defense = stirred(backbone, batch.classes, **options)
    depth, net, prompts = options.get("depth", 2), backbone.image.net, defense.image_prompts.tokens
    before = options.get("first_prompt") == "before_ln_pre"
    patches = net.conv1((batch.images - backbone.mean) / backbone.std).flatten(2).mT
    h = torch.cat([net.class_embedding.expand(8, 1, -1), patches], 1) + net.positional_embedding
    first = prompts[0].expand(8, -1, -1)
    h = net.ln_pre(torch.cat([h, first], 1) if before else h)
    kept, extra = h[:, :17], h[:, 17:] if before else first
    for layer, block in enumerate(net.transformer.resblocks):
        refiners = defense.image_refiners.refiners
        kept = refiners[layer % len(refiners)](kept)
        if 0 < layer < depth:
            extra = prompts[layer].expand(8, -1, -1)
        out = block(torch.cat([kept, extra], 1))
        kept, extra = out[:, :17], out[:, 17:]
    expected = net.ln_post(kept[:, 0]) @ net.proj
    found = backbone.encode_image(batch.images, edits=defense.adaptation(backbone, batch.classes).image_edits)
    assert_close(found, expected, atol=2e-5, rtol=1e-5)


def test_towers_are_independent(backbone, batch):
    base, moved = (classifier(stirred(backbone, batch.classes), backbone, batch.classes) for _ in range(2))
    moved.adaptation.image_edits[1].tokens.data += 1 + torch.arange(32)
    assert torch.equal(moved.text_features, base.text_features)
    assert (moved(batch.images) - base(batch.images)).abs().max() > 1e-3


# ---- gradients (section 8)


def test_gradients_reach_the_last_layers_first_and_the_first_after_a_step(backbone, batch, attack):
    defense = NAP(backbone, batch.classes, generator=drawn())
    optimizer = torch.optim.SGD(defense.parameters(), lr=0.1)
    for step in range(2):
        optimizer.zero_grad()
        defense.loss(backbone, batch, attack)["adv_ce"].backward()
        for side in (defense.image_refiners, defense.text_refiners):
            for refiner in side.refiners:
                first, last = refiner.net[0], refiner.net[-1]
                assert last.weight.grad.abs().max() > 0
                assert last.bias.grad.abs().max() > 0
                assert (first.weight.grad.abs().max() > 0) == (step > 0)
                assert (first.bias.grad.abs().max() > 0) == (step > 0)
        for prompts in (defense.context, defense.image_prompts.tokens, defense.text_prompts.tokens):
            assert prompts.grad.abs().flatten(1).amax(1).min() > 0
        optimizer.step()
    assert all(parameter.grad is None for parameter in backbone.parameters())


# ---- the loss (section 4)


@pytest.mark.parametrize("weight", [1.0, 0.5, 0.25])
def test_the_loss_mixes_clean_and_adversarial_cross_entropy(backbone, batch, spy, weight):
    defense = stirred(backbone, batch.classes, adv_weight=weight)
    made, labels = classifier(defense, backbone, batch.classes), batch.labels
    terms = defense.loss(backbone, batch, lambda function, images, labels, **options: images.flip(0))
    expected = weight * cross_entropy(made(batch.images.flip(0)), labels) + (1 - weight) * cross_entropy(
        made(batch.images), labels
    )
    assert_close(sum(terms.values()), expected)
    assert set(terms) == ({"adv_ce"} if weight == 1 else {"adv_ce", "clean_ce"})


def test_half_a_batch_is_attacked_with_its_own_indices(backbone, batch, spy):
    defense = stirred(backbone, batch.classes, mix="half_batch")
    terms = defense.loss(backbone, batch, spy)
    (call,) = spy.calls
    assert torch.equal(call.images, batch.images[4:])
    assert torch.equal(call.indices, batch.indices[4:])
    assert_close(terms["half_ce"], cross_entropy(classifier(defense, backbone, batch.classes)(batch.images), batch.labels))


def test_the_feature_term_is_the_distance_of_refined_tokens_to_constant_clean_ones(backbone, batch):
    defense = stirred(backbone, batch.classes, feature_weight=0.5)
    adv = (batch.images + 0.02).clamp(0, 1)
    term = defense.loss(backbone, batch, lambda *args, **options: adv)["features"]
    edits, clean, moved = defense.adaptation(backbone, batch.classes).image_edits, Trace(), Trace()
    backbone.encode_image(batch.images, edits=edits, trace=clean)
    backbone.encode_image(adv, edits=edits, trace=moved)
    gaps = [((moved.inputs[i] - clean.inputs[i])[:, :17] ** 2).mean() for i in (0, 1)]
    assert_close(term, 0.5 * (gaps[0] + gaps[1]) / 2)
    zero = defense.loss(backbone, batch, lambda function, images, labels, **options: images)["features"]
    assert not torch.autograd.grad(zero, defense.image_refiners.refiners[0].net[0].weight)[0].any()


def test_the_feature_term_sees_the_pixels_of_the_whole_stack(backbone, batch):
    defense = stirred(backbone, batch.classes, feature_weight=1.0)
    own = defense.adaptation(backbone, batch.classes)
    blind = Adaptation(pixels=(lambda x: 0 * x,), image_edits=own.image_edits, context=own.context, text_edits=own.text_edits)
    terms = defense.loss(backbone, batch, lambda *a, **o: batch.images.flip(0), adaptation=blind)
    assert float(terms["features"].detach()) == 0


def test_refiners_have_a_learning_rate_of_their_own(backbone, batch):
    defense = NAP(backbone, batch.classes, refiner_lr_mult=0.1)
    groups = defense.parameter_groups(2.0)
    assert [group["lr"] for group in groups] == [2.0, pytest.approx(0.2)]
    assert {id(p) for group in groups for p in group["params"]} == {id(p) for p in defense.parameters()}
    assert len(NAP(backbone, batch.classes, refiner_layers=0).parameter_groups(1.0)) == 1


# ---- learned contexts and class lists


def test_words_of_init_become_the_context_and_the_rest_stays(backbone, batch):
    defense = NAP(backbone, batch.classes)
    words = backbone.embed_text(["a photo"]).embeddings[0, 1:3]
    assert_close(defense.context, words, atol=0, rtol=0)
    assert defense.template == "{ctx} of a {}."
    four = NAP(backbone, batch.classes, length=4, depth=1, refiner_layers=0)
    found = classifier(four, backbone, batch.classes).text_features
    assert_close(found, assemble(backbone, batch.classes).text_features, atol=1e-5, rtol=0)
    assert NAP(backbone, batch.classes, length=5).template == "{ctx} {}."


def test_learned_tensors_serve_another_class_list(backbone, batch):
    defense, others = stirred(backbone, batch.classes), ("dog", "oak tree", "house")
    fresh = NAP(backbone, others)
    fresh.load_state_dict(defense.state_dict())
    assert torch.equal(classifier(defense, backbone, others)(batch.images), classifier(fresh, backbone, others)(batch.images))


# ---- refusals

REFUSED = [
    ({"depth": 3}, "prompt depth must be 1 to 2, the layers of the image tower; got 3"),
    ({"depth": -1}, "prompt depth"),
    ({"length": 0}, "length must be a whole number of at least 1"),
    ({"length": 90}, "holds at most 75"),
    ({"refiner_layers": -1}, "refiner_layers"),
    ({"refiner_layers": 1.5}, "refiner_layers must be a whole number"),
    ({"hidden_ratio": 0}, "hidden_ratio must be a number of above 0"),
    ({"residual_scale": float("inf")}, "residual_scale"),
    ({"activation": "swish"}, "activation must be one of gelu, relu, quickgelu; got 'swish'"),
    ({"pre_norm": "batch"}, "pre_norm must be one of"),
    ({"share": "some"}, "share must be one of"),
    ({"sides": "left"}, "sides must be one of"),
    ({"first_prompt": "first"}, "first_prompt must be one of"),
    ({"mix": "third"}, "mix must be one of"),
    ({"adv_weight": 1.5}, "adv_weight must be a number of at least 0 and at most 1; got 1.5"),
    ({"feature_weight": -1}, "feature_weight"),
    ({"refiner_lr_mult": 0}, "refiner_lr_mult"),
    ({"mix": "half_batch", "adv_weight": 0.5}, "half_batch"),
    ({"mix": "half_batch", "feature_weight": 0.5}, "half_batch"),
    ({"dropout": 1}, "dropout"),
    ({"dropout": 0.5, "refiner_layers": 1}, "at least two layers"),
    ({"refiner_decay": -1}, "refiner_decay"),
    ({"strength": "some"}, "strength must be one of fixed, tokens"),
    ({"strength": "tokens", "sides": "text"}, "there are none"),
    ({"radii": [0.0]}, "at least one of them above 0"),
    ({"radii": [2.0]}, "radii"),
    ({"depth": 0, "refiner_layers": 0}, "nothing to learn"),
    ({"dept": 2}, "did you mean 'depth'"),
]


@pytest.mark.parametrize(("options", "message"), REFUSED)
def test_options_that_cannot_be_fail_at_construction(backbone, batch, options, message):
    with pytest.raises(UsageError, match=message) as caught:
        build("nap", backbone, batch.classes, given=options)
    assert "\n" not in str(caught.value)


def test_a_tower_without_tokens_is_refused(rn50):
    with pytest.raises(UnsupportedEdit, match="no token sequence"):
        NAP(rn50, ["a", "b"])


# ---- what an adaptive attacker differentiates


def test_the_surrogates_bypass_the_refiners_their_gradient_and_push_their_tokens(backbone, batch):
    defense = stirred(backbone, batch.classes)
    full = classifier(defense, backbone, batch.classes).detached()
    bypassed, straight, tokens = defense.surrogates(full)
    assert [one.name for one in (bypassed, straight, tokens)] == ["refiners-bypassed", "straight-through", "refined-tokens"]
    bare = NAP(backbone, batch.classes, refiner_layers=0)
    bare.load_state_dict({n: t for n, t in defense.state_dict().items() if "refiners" not in n})
    plain = classifier(bare, backbone, batch.classes).detached()
    plain.text_features = full.text_features
    with torch.no_grad():
        assert_close(bypassed(batch.images), plain(batch.images))
        assert_close(straight(batch.images), full(batch.images), atol=1e-4, rtol=1e-4)
        assert not torch.allclose(bypassed(batch.images), full(batch.images), atol=1e-2)
    leaf = batch.images.clone().requires_grad_()
    slopes = [torch.autograd.grad(one(leaf).logsumexp(1).sum(), leaf)[0] for one in (full, straight, tokens)]
    assert not torch.allclose(slopes[0], slopes[1], rtol=0.1)
    assert slopes[2].abs().max() > 0
    found = tokens.encode_image(batch.images)
    trace = Trace()
    full.encode_image(batch.images, trace=trace)
    assert_close(found[:, : 17 * 32], trace.inputs[0][:, :17].flatten(1))
    assert defense.surrogates(full)[0].classes == batch.classes
    assert NAP(backbone, batch.classes, sides="text").surrogates(full) == ()


# ---- strength, radii, dropout, decay


def test_the_strength_is_one_at_the_start_and_then_follows_the_tokens(backbone, batch):
    fixed, gated = (NAP(backbone, batch.classes, generator=drawn(), strength=how) for how in ("fixed", "tokens"))
    assert count(gated) == count(fixed) + 2 * (32 + 1)
    one, other = (classifier(d, backbone, batch.classes) for d in (fixed, gated))
    assert torch.equal(one(batch.images), other(batch.images))
    refiner = gated.image_refiners.refiners[0]
    tokens = torch.randn(3, 5, 32, generator=drawn())
    assert_close(refiner.strength(tokens), torch.ones(3, 1, 1))
    refiner.gate.weight.data.normal_(generator=drawn())
    found = refiner.strength(tokens)
    mean = nn.functional.layer_norm(tokens.mean(1), (32,))
    assert_close(found.flatten(), 2 / (1 + (-(mean @ refiner.gate.weight[0])).exp()))
    assert len(set(found.flatten().tolist())) == 3
    assert all(refiner.gate is None for refiner in gated.text_refiners.refiners)


def test_parts_of_a_batch_are_attacked_at_shares_of_the_radius(backbone, batch):
    seen = {}

    @dataclass(frozen=True)
    class Noting:
        eps: float = 0.1
        step_size: float = 0.05

        def __call__(self, function, images, labels, *, indices=None, **options):
            seen[self.eps, self.step_size] = indices.tolist()
            return images + self.eps

    defense = NAP(backbone, batch.classes, generator=drawn(), radii=(0.0, 0.5, 1.0))
    terms = defense.loss(backbone, batch, Noting())
    assert seen == {(0.05, 0.025): [3, 4, 5], (0.1, 0.05): [6, 7]}
    moved = torch.cat([batch.images[:3], batch.images[3:6] + 0.05, batch.images[6:] + 0.1])
    assert_close(terms["adv_ce"], cross_entropy(classifier(defense, backbone, batch.classes)(moved), batch.labels))
    with pytest.raises(UsageError, match="need a training attack with a field eps"):
        defense.loss(backbone, batch, lambda function, images, labels, **options: images)


def test_dropout_leaves_out_hidden_units_in_training_alone_and_always_the_same_for_a_batch(backbone, batch, attack):
    options = {"dropout": 0.5}
    defense, plain = stirred(backbone, batch.classes, **options), stirred(backbone, batch.classes)
    first, again = (defense.train().loss(backbone, batch, attack)["adv_ce"] for _ in range(2))
    assert torch.equal(first, again)
    assert not torch.equal(first, plain.train().loss(backbone, batch, attack)["adv_ce"])
    assert torch.equal(
        defense.eval().loss(backbone, batch, attack)["adv_ce"], plain.eval().loss(backbone, batch, attack)["adv_ce"]
    )
    assert all(refiner.kept is None for refiner in defense.image_refiners.refiners)


def test_refiners_may_decay_alone(backbone, batch):
    prompts, refiners = NAP(backbone, batch.classes, refiner_decay=0.1).parameter_groups(1.0)
    assert refiners["weight_decay"] == 0.1
    assert "weight_decay" not in prompts


# ---- does it learn, and can it be attacked?


def robust(function, batch, eps: float, steps: int = 20) -> float:
    adv = PGD(eps=eps, steps=steps)(function, batch.images, batch.labels, indices=batch.indices)
    return float((function(adv).argmax(1) == batch.labels).double().mean())


@pytest.fixture(scope="module")
def trained(backbone, batch):
    """(defence, its classifier before training) fitted to eight images with random labels, eps 1/255."""
    defense = NAP(backbone, batch.classes, generator=drawn())
    start = NAP(backbone, batch.classes, generator=drawn())
    start.load_state_dict(defense.state_dict())
    attack = PGD(eps=1 / 255, step_size=1 / 255, steps=2, keep="last")
    fit(
        defense, backbone, lambda epoch: [batch], attack,
        schedule=Schedule(epochs=150, batch_size=8, optimizer="adamw", lr=0.01, weight_decay=0.0, clip_norm=1.0),
    )  # fmt: skip
    return defense, start


def test_eight_images_are_learned_robustly_and_their_distortion_falls(backbone, batch, trained):
    defense, start = trained
    after, before = (classifier(d, backbone, batch.classes).detached() for d in (defense, start))
    with torch.no_grad():
        assert robust(before, batch, 1 / 255) < 0.8
        assert robust(after, batch, 1 / 255) == 1.0

        def distortion(function):
            adv = PGD(eps=1 / 255)(function, batch.images, batch.labels, indices=batch.indices)
            unit = [nn.functional.normalize(function.encode_image(x), dim=-1) for x in (adv, batch.images)]
            return float((unit[0] - unit[1]).norm(dim=1).mean())

        assert distortion(after) < distortion(before)


def test_attacks_through_the_refiners_beat_transfer_and_grow_with_the_radius(backbone, batch, trained):
    defense, _ = trained
    full = classifier(defense, backbone, batch.classes).detached()
    bare = NAP(backbone, batch.classes, refiner_layers=0)
    bare.load_state_dict({n: t for n, t in defense.state_dict().items() if "refiners" not in n})
    unrefined = classifier(bare, backbone, batch.classes).detached()
    with torch.no_grad():
        for eps in (4 / 255, 16 / 255):
            attack = partial(PGD(eps=eps, steps=20), indices=batch.indices)
            through = full(attack(full, batch.images, batch.labels))
            transferred = full(attack(unrefined, batch.images, batch.labels))
            right = [(out.argmax(1) == batch.labels).sum() for out in (through, transferred)]
            assert right[0] <= right[1]
            assert cross_entropy(through, batch.labels) > cross_entropy(transferred, batch.labels)
        losses = []
        for eps in (0.0, 1 / 255, 4 / 255, 16 / 255, 64 / 255):
            adv = PGD(eps=eps, steps=20)(full, batch.images, batch.labels, indices=batch.indices)
            losses.append(float(cross_entropy(full(adv), batch.labels)))
        assert losses == sorted(losses)
        assert robust(full, batch, 64 / 255) == 0.0


def test_longer_attacks_are_no_weaker(backbone, batch, trained):
    full = classifier(trained[0], backbone, batch.classes).detached()
    with torch.no_grad():
        values = [robust(full, batch, 8 / 255, steps) for steps in (0, 1, 10, 50)]
        assert values == sorted(values, reverse=True)
        assert robust(full, batch, 0.0) == float((full(batch.images).argmax(1) == batch.labels).double().mean())


def test_float64_and_bfloat16_run_through_prompts_and_refiners(batch):
    double = tiny_backbone().double()
    wide = Batch(batch.images.double(), batch.labels, batch.indices, batch.classes)
    defense = NAP(double, batch.classes, generator=drawn())
    assert {p.dtype for p in defense.parameters()} == {torch.float64}
    loss = defense.loss(double, wide, lambda function, images, labels, **options: images)["adv_ce"]
    assert loss.dtype == torch.float64
    single = tiny_backbone()
    twin = stirred(single, batch.classes)
    assert {p.dtype for p in twin.parameters()} == {torch.float32}
    rough = classifier(twin, single, batch.classes, precision="bfloat16")(batch.images)
    assert rough.dtype == torch.float32
    assert (rough - classifier(twin, single, batch.classes)(batch.images)).abs().max() < 0.7


@pytest.mark.parametrize("pre_norm", ["none", "layernorm"])
def test_a_refiner_adds_its_scaled_residual_to_each_token(pre_norm):
    refiner = TokenRefiner(6, 4, activation="relu", scale=0.3, pre_norm=pre_norm, generator=drawn())
    for parameter in refiner.parameters():
        parameter.data = torch.randn(parameter.shape, generator=drawn(parameter.numel()))
    first, second = (part for part in refiner.net if isinstance(part, nn.Linear))
    tokens = torch.randn(2, 3, 6, generator=drawn(1))
    seen = tokens
    if pre_norm == "layernorm":
        seen = (tokens - tokens.mean(-1, keepdim=True)) / (tokens.var(-1, unbiased=False, keepdim=True) + 1e-5).sqrt()
    hidden = (seen @ first.weight.T + first.bias).clamp_min(0)
    assert_close(refiner(tokens), tokens + 0.3 * (hidden @ second.weight.T + second.bias))
