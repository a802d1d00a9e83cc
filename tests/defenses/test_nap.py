"""NAP: counts, identity at the start, what is refined, where gradients go, overfitting, and attacks through the refiners."""

import pytest
import torch
from stirred_nap import classifier, count, drawn, stirred
from torch import nn
from torch.testing import assert_close

from ironclip.backbones import assemble, splice
from ironclip.backbones.tiny import tiny_backbone
from ironclip.core.errors import UnsupportedEdit, UsageError
from ironclip.core.types import Batch, Trace
from ironclip.defenses import build
from ironclip.defenses._blocks import TokenRefiner
from ironclip.defenses.nap import NAP

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
    ({"refiner_lr_mult": 0}, "refiner_lr_mult"),
    ({"mix": "half_batch", "adv_weight": 0.5}, "half_batch"),
    ({"mix": "half_batch", "radii": (0.5, 1.0)}, "half_batch"),
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
