"""A-TPT against values of the released code, stage by stage: tokens, attention, gradients, maps, mixing, tuning, ensemble."""

import pytest
import torch
from parity import assert_matches, load_case
from reference import reference_backbone
from torch.testing import assert_close

from ironclip.backbones import assemble
from ironclip.testtime import build
from ironclip.testtime._base import features_of
from ironclip.testtime._prompts import entropy, picked
from ironclip.testtime._relevance import clipped, enlarged, ingredients, rolled_out, token_weights, zones

DTYPES = {"float64": torch.float64, "float32": torch.float32}
ZONES = ("default", "three_zones")


@pytest.fixture(scope="module", params=DTYPES, ids=DTYPES)
def world(request):
    """(base with the tunable prompt, case) in one precision."""
    backbone = reference_backbone(DTYPES[request.param])
    case = load_case("atpt", backbone.dtype)
    with torch.no_grad():
        base = make(case).stand(assemble(backbone, case[1]["constants"]["classes"]))
    return base, case


def make(case, zone="default", **options):
    sizes = case[1]["constants"]
    fixed = {"views": sizes["views"], "select": sizes["selection_ratio"], "lr": sizes["lr"]}
    fixed |= {"neighbours": sizes["neighbours"], "temperature": sizes["temperature"], "clip": sizes["clip_quantile"]}
    return build("atpt", {"variant": "code", "prompt": "a object photo of a", **fixed, **sizes["zones"][zone], **options})


def test_the_start_is_the_context_of_the_domain_prompt(world):
    base, (tensors, _) = world
    assert torch.equal(base.start, tensors["ctx"])


def test_tokens_attention_and_gradients_of_the_last_two_blocks(world):
    base, case = world
    made = ingredients(base, case[0]["bases"][1:].to(base.backbone.dtype), base.text_features)
    assert_matches(case, "map_class", made.classes)
    assert_matches(case, "view1.attention", made.attention[0])
    assert_matches(case, "view1.block_inputs", made.tokens[0])
    assert_matches(case, "view1.gradients", made.gradients[0])
    assert_matches(case, "token_products", made.products)
    assert_matches(case, "view1.token_products", made.products[0])
    assert_matches(case, "view1.token_weights", token_weights(made.products)[0])


def test_maps_in_float64(world):
    base, case = world
    bases = case[0]["bases"][1:].to(base.backbone.dtype)
    if bases.dtype == torch.float32:
        made = ingredients(base, bases, base.text_features)
        attention = made.attention[:, 1, :, 0, 1:]
        free = (attention / attention.sum(-1, keepdim=True)).mean(1).unflatten(1, (4, 4))
        assert_matches(case, "last_block_attention_map", free)
        return
    maps = make(case).maps(base, bases)
    assert_matches(case, "relevance_map", maps)
    assert_matches(case, "relevance_map_pixels", enlarged(maps, 32))


@pytest.mark.parametrize("zone", ZONES)
def test_zones_and_mixing_of_the_stored_maps(world, zone):
    _, case = world
    tensors, sizes = case[0], case[1]["constants"]["zones"][zone]
    pixels = tensors["relevance_map_pixels"].double()
    high, low = zones(pixels, sizes["p_high"], sizes["p_low"])
    sure = tensors[f"{zone}.mask_uncertain"] == 0
    assert torch.equal(high[sure].byte(), tensors[f"{zone}.mask_high"][sure])
    assert torch.equal(low[sure].byte(), tensors[f"{zone}.mask_low"][sure])
    method = make(case, zone)
    bases, mixes, betas = (tensors[name][1:].double()[None] for name in ("bases", "mixes", "betas"))
    mixed = method.mixed(tensors["relevance_map"].double()[None], bases, mixes, betas)[0]
    expected = tensors[f"{zone}.views"][1:].double()
    same = sure[:, None].expand_as(expected)
    assert_close(mixed[same], expected[same], atol=2e-7, rtol=0)
    assert sure.double().mean() > 0.97


@pytest.mark.parametrize("zone", ZONES)
def test_tuning_and_ensemble_of_the_stored_views(world, zone):
    base, case = world
    tensors, notes = case
    kind = "float64" if base.backbone.dtype == torch.float64 else "float32"

    def same(name, value):
        tolerance = notes["tensors"][f"{zone}.{name}"][f"atol_{kind}_from_stored_views"]
        if tolerance is not None:
            assert_close(value.detach().double(), tensors[f"{zone}.{name}"].double(), atol=tolerance, rtol=0)

    method = make(case, zone)
    views = tensors[f"{zone}.views"].to(base.backbone.dtype)[None]
    features = features_of(base, views)
    tuned = method.tune(base, features)
    same("zero_shot_logits", base(views[0, :1])[0])
    same("logits_initial", tuned.start[0])
    same("view_entropy", entropy(tuned.start[0]))
    assert torch.equal(tuned.selected[0], tensors[f"{zone}.selected"])
    same("loss", entropy(picked(tuned.start, tuned.selected)).mean())
    same("gradient", method._first_slope(base, picked(features, tuned.selected), False)[0])
    same("ctx_tuned", tuned.context[0])
    same("logits_tuned", tuned.logits[0])
    same("reliability_weight_diagonal_masked", method.weights(features)[0])
    same("prediction_diagonal_masked", method.answer(tuned)[0])
    third = make(case, zone, vote=notes["constants"]["views"] // 3)
    same("prediction_third_of_views_diagonal_masked", third.answer(tuned)[0])


def test_the_row_of_the_class_token_is_that_of_the_whole_product(world):
    base, case = world
    made = ingredients(base, case[0]["bases"][1:4].to(base.backbone.dtype), base.text_features)
    mixed = made.attention.mean(2) * token_weights(made.products)[:, :, None]
    hops = mixed + torch.eye(mixed.shape[-1]).to(mixed)
    hops = hops / (hops.sum(-1, keepdim=True) + 1e-8)
    average = (0.5 * hops[:, 0] + hops[:, 1]) / 1.5
    whole = hops[:, 1] @ (average / (average.sum(-1, keepdim=True) + 1e-8))
    assert_close(rolled_out(made, rollout="token_gradient"), whole[:, 0], atol=1e-7, rtol=1e-6)
    assert clipped(whole[:, 0, 1:].unflatten(1, (4, 4)), 0.99).amax() <= 1
