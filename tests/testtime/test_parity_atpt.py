"""A-TPT against values of the released code, stage by stage: tokens, attention, gradients, maps, mixing, tuning, ensemble."""

import pytest
import torch
from parity import assert_matches, load_case, notes_of, words
from reference import reference_backbone
from torch.testing import assert_close

from ironclip.backbones import assemble
from ironclip.testtime import atpt, build
from ironclip.testtime._base import features_of
from ironclip.testtime._prompts import entropy, picked
from ironclip.testtime._random_views import Views
from ironclip.testtime._relevance import clipped, enlarged, ingredients, rolled_out, token_weights, zones

DTYPES = {"float64": torch.float64, "float32": torch.float32}
ZONES = list(notes_of("atpt")["constants"].get("zones", {}))


@pytest.fixture(scope="module", params=DTYPES, ids=DTYPES)
def world(request):
    """(base with the tunable prompt, case) in one precision."""
    backbone = reference_backbone(DTYPES[request.param])
    case = load_case("atpt", backbone.dtype)
    with torch.no_grad():
        base = make(case).prepared(assemble(backbone, case[1]["constants"]["classes"]))
    return base, case


def make(case, zone=None, **options):
    tensors, sizes = case[0], case[1]["constants"]
    fixed = {name: sizes[name] for name in ("views", "lr", "weight_decay", "neighbours", "temperature", "layer_weights")}
    fixed |= {"select": sizes["selection_ratio"], "clip": sizes["clip_quantile"]}
    prompt = words(torch.cat([tensors["tokens"][0, : 1 + len(tensors["ctx"])], tensors["tokens"].amax()[None]]))
    return build("atpt", {"variant": "code", "prompt": prompt, **fixed, **sizes["zones"].get(zone, {}), **options})


def test_the_start_is_the_context_of_the_domain_prompt(world):
    base, (tensors, _) = world
    assert torch.equal(base.start, tensors["ctx"])


def test_tokens_attention_and_gradients_of_the_last_two_blocks(world):
    base, case = world
    made = ingredients(base, case[0]["bases"][1:].to(base.backbone.dtype), base.text_features)
    assert_matches(case, "map_class", made.classes)
    assert_matches(case, "view1.class", made.classes[:1])
    assert_matches(case, "view1.attention", made.attention[0])
    assert_matches(case, "view1.block_inputs", made.tokens[0])
    assert_matches(case, "view1.gradients", made.gradients[0])
    assert_matches(case, "token_products", made.products)
    assert_matches(case, "view1.token_products", made.products[0])
    assert_matches(case, "view1.token_weights", token_weights(made.products)[0])


def test_maps_in_float64(world):
    base, case = world
    bases = case[0]["bases"][1:].to(base.backbone.dtype)
    if bases.dtype != torch.float64:
        pytest.skip("the map of a patch token is decided by rounding in float32")
    maps = make(case).maps(base, bases)
    assert_matches(case, "relevance_map", maps)
    assert_matches(case, "relevance_map_pixels", enlarged(maps, bases.shape[-1]))


def free_map(base, case):
    """Class-to-patch attention of the last block, of sum 1 in each head, mean over heads."""
    made = ingredients(base, case[0]["bases"][1:].to(base.backbone.dtype), base.text_features)
    attention = made.attention[:, 1, :, 0, 1:]
    return (attention / attention.sum(-1, keepdim=True)).mean(1).unflatten(1, (base.backbone.spec.grid,) * 2)


def test_the_gradient_free_map(world):
    assert_matches(world[1], "last_block_attention_map", free_map(*world))


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
    mixed = method.mixed(tensors["relevance_map"].double()[None], Views(bases, mixes, betas))[0]
    expected = tensors[f"{zone}.views"][1:].double()
    same = sure[:, None].expand_as(expected)
    tolerance = case[1]["tensors"][f"{zone}.views"]["atol_float64"]
    assert_close(mixed[same], expected[same], atol=tolerance, rtol=0)
    assert sure.double().mean() > 0.5  # the comparison is not empty


@pytest.mark.parametrize("zone", ZONES)
def test_the_whole_chain_in_float64(world, zone, monkeypatch):
    """From the crops to the answer, on maps of our own. Pixels whose map lies within 1e-7 of a threshold get the stored zone."""
    base, case = world
    tensors, notes = case
    if base.backbone.dtype != torch.float64:
        pytest.skip("maps amplify the rounding of float32: every later value is stated for float64 alone")
    tie = tensors[f"{zone}.mask_uncertain"].bool()

    def tied(pixels, p_high, p_low):
        stored = (tensors[f"{zone}.mask_{kind}"].bool() for kind in ("high", "low"))
        own = zones(pixels, p_high, p_low)
        return tuple(torch.where(tie, theirs, ours) for theirs, ours in zip(stored, own, strict=True))

    monkeypatch.setattr(atpt, "zones", tied)
    method = make(case, zone)
    bases, mixes, betas = (tensors[name][1:].double()[None] for name in ("bases", "mixes", "betas"))
    mixed = method.mixed(method.maps(base, bases), Views(bases, mixes, betas))
    views = torch.cat([tensors["bases"][None, :1].double(), mixed], dim=1)
    features = features_of(base, views)
    tuned = method.tune(base, features)
    third = make(case, zone, vote=notes["constants"]["views"] // 3)
    found = {
        "views": views[0], "zero_shot_logits": base(views[0, :1])[0], "logits_initial": tuned.start[0],
        "view_entropy": entropy(tuned.start[0]), "selected": tuned.selected[0],
        "loss": entropy(picked(tuned.start, tuned.selected)).mean(),
        "gradient": method.first_gradient(base, picked(features, tuned.selected), False)[0], "ctx_tuned": tuned.context[0],
        "logits_tuned": tuned.logits[0], "reliability_weight_diagonal_masked": method.parts().vote.weights(features)[0],
        "prediction_diagonal_masked": method.parts().vote.answer(tuned)[0],
        "prediction_third_of_views_diagonal_masked": third.parts().vote.answer(tuned)[0],
    }  # fmt: skip
    for name, value in found.items():
        assert_matches(case, f"{zone}.{name}", value)


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
    same("gradient", method.first_gradient(base, picked(features, tuned.selected), False)[0])
    same("ctx_tuned", tuned.context[0])
    same("logits_tuned", tuned.logits[0])
    same("reliability_weight_diagonal_masked", method.parts().vote.weights(features)[0])
    same("prediction_diagonal_masked", method.parts().vote.answer(tuned)[0])
    third = make(case, zone, vote=notes["constants"]["views"] // 3)
    same("prediction_third_of_views_diagonal_masked", third.parts().vote.answer(tuned)[0])


def test_the_row_of_the_class_token_is_that_of_the_whole_product(world):
    base, case = world
    made = ingredients(base, case[0]["bases"][1:].to(base.backbone.dtype), base.text_features)
    mixed = made.attention.mean(2) * token_weights(made.products)[:, :, None]
    hops = mixed + torch.eye(mixed.shape[-1]).to(mixed)
    hops = hops / (hops.sum(-1, keepdim=True) + 1e-8)
    low, high = case[1]["constants"]["layer_weights"]
    average = (low * hops[:, 0] + high * hops[:, 1]) / (low + high)
    whole = hops[:, 1] @ (average / (average.sum(-1, keepdim=True) + 1e-8))
    assert_close(rolled_out(made, rollout="token_gradient", layer_weights=(low, high)), whole[:, 0], atol=1e-7, rtol=1e-6)
    assert (
        clipped(whole[:, 0, 1:].unflatten(1, (base.backbone.spec.grid,) * 2), case[1]["constants"]["clip_quantile"]).amax() <= 1
    )
