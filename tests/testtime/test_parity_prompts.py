"""TPT, C-TPT and R-TPT against values of the released codes: features, selection, loss, gradients, context, logits, weights."""

from dataclasses import replace

import pytest
import torch
from parity import assert_matches, load_case, words
from reference import reference_backbone
from torch.testing import assert_close

from ironclip.backbones import assemble, splice
from ironclip.testtime import build
from ironclip.testtime._base import features_of
from ironclip.testtime._parts import Selected
from ironclip.testtime._prompts import dispersion, entropy, neighbour_weights, picked

DTYPES = {"float64": torch.float64, "float32": torch.float32}
METHODS = ("tpt", "ctpt", "rtpt")


@pytest.fixture(scope="module", params=DTYPES, ids=DTYPES)
def backbone(request):
    return reference_backbone(DTYPES[request.param])


@pytest.fixture(params=METHODS)
def world(request, backbone):
    """(method's name, base with the tunable prompt, unit features of the stored views [1, V, E], case)."""
    case = load_case(request.param, backbone.dtype)
    tensors, notes = case
    with torch.no_grad():
        base = make(request.param, case).prepared(assemble(backbone, notes["constants"]["classes"]))
        features = features_of(base, tensors["views"].to(backbone.dtype)[None])
    return request.param, base, features, case


def make(name, case, **options):
    tensors, sizes = case[0], case[1]["constants"]
    options["prompt"] = words(torch.cat([tensors["tokens"][0, : 1 + len(tensors["ctx"])], tensors["tokens"].amax()[None]]))
    if "lambda" in sizes:
        options["weight"] = sizes["lambda"]
    if "neighbours" in sizes:
        options |= {"neighbours": sizes["neighbours"], "temperature": sizes["temperature"]}
    return build(
        name,
        {
            "views": sizes["views"],
            "select": sizes["selection_ratio"],
            "lr": sizes["lr"],
            "weight_decay": sizes["weight_decay"],
            **options,
        },
    )


def test_the_start_is_the_stored_context_and_prompt(world):
    _, base, _, case = world
    ids = splice(base.backbone, base.classes, base.context).ids
    assert torch.equal(base.start, case[0]["ctx"])
    stored = case[0]["tokens"][:, : ids.shape[1]]
    names = slice(1 + len(case[0]["ctx"]), None)
    assert torch.equal(ids[:, names], stored[:, names])
    assert_matches(case, "text_features_initial", base.text_features)
    if "dispersion" in case[0]:
        assert_matches(case, "dispersion", dispersion(base.text_features))


def test_selection_loss_and_gradient_of_the_first_step(world):
    name, base, features, case = world
    method = make(name, case)
    tuned = method.tune(base, features)
    assert_matches(case, "logits_initial", tuned.start[0])
    assert_matches(case, "view_entropy", entropy(tuned.start[0]))
    assert_matches(case, "selected", tuned.selected[0])
    chosen = picked(features, tuned.selected)
    loss = method.parts().objective(Selected(picked(tuned.start, tuned.selected), base.text_features[None]))
    if name == "ctpt":  # the stored loss is the one without the dispersion
        loss = loss + method.weight * dispersion(base.text_features)
    assert_matches(case, "loss", loss[0])
    assert_matches(case, "gradient", method.first_gradient(base, chosen, False)[0])


def test_one_step_reaches_the_stored_context_and_logits(world):
    name, base, features, case = world
    tuned = make(name, case).tune(base, features)
    assert_matches(case, "ctx_tuned", tuned.context[0])
    assert_matches(case, "logits_tuned", tuned.logits[0])


def test_two_steps_keep_the_selection_and_reach_the_stored_context(world):
    name, base, features, case = world
    method, slopes, losses = make(name, case, steps=2), [], []
    whole, parts = method.next_gradient, method.parts()

    def spy(*args):
        slopes.append(whole(*args))
        return slopes[-1]

    def watched(seen):
        value = parts.objective(seen)
        extra = method.weight * dispersion(seen.text) if name == "ctpt" else 0.0  # the stored losses are without it
        losses.append((value + extra).detach()[0])
        return value

    method.next_gradient, method.parts = spy, lambda: replace(parts, objective=watched)
    tuned = method.tune(base, features)
    assert_matches(case, "loss_2steps", torch.stack(losses))
    assert_matches(case, "selected", tuned.selected[0])
    assert_matches(case, "gradient_second_step", slopes[0][0])
    assert_matches(case, "ctx_tuned_2steps", tuned.context[0])
    assert_matches(case, "logits_tuned_2steps", tuned.logits[0])


def test_the_shared_graph_gives_the_gradient_of_autograd(world):
    name, base, features, case = world
    method = make(name, case)
    chosen = picked(features, method.tune(base, features).selected)
    context = base.start[None]
    plain = method.next_gradient(base, context, chosen, False)
    assert_matches(case, "gradient", plain[0])
    if base.backbone.dtype == torch.float64:
        assert_close(method.first_gradient(base, chosen, False), plain, rtol=0, atol=1e-10 * float(plain.abs().amax()))


def test_the_ensemble_of_rtpt_with_the_diagonal_left_out(backbone):
    case = load_case("rtpt", backbone.dtype)
    tensors, notes = case
    method = make("rtpt", case)
    with torch.no_grad():
        base = method.prepared(assemble(backbone, notes["constants"]["classes"]))
        features = features_of(base, tensors["views"].to(backbone.dtype)[None])
    similarity = features[0] @ features[0].T
    assert_matches(case, "similarity", similarity)
    weights = method.parts().vote.weights(features)[0]
    assert_matches(case, "reliability_weight_diagonal_masked", weights)
    # the weights are softmax(score / temperature), so they give the scores up to one number
    score = method.temperature * weights.log()
    masked = similarity.masked_fill(torch.eye(len(similarity), dtype=torch.bool), -torch.inf)
    wanted = masked.topk(notes["constants"]["neighbours"], dim=1).values.mean(1)
    assert_matches(case, "reliability_score_diagonal_masked", score - score.mean() + wanted.mean())
    assert_matches(case, "prediction_diagonal_masked", method.parts().vote.answer(method.tune(base, features))[0])
    two = make("rtpt", case, steps=2)
    assert_matches(case, "prediction_diagonal_masked_2steps", two.parts().vote.answer(two.tune(base, features))[0])
    assert abs(float(weights.sum()) - 1) < 1e-5


def test_the_released_neighbour_rule_counts_what_rounds_below_one():
    features = torch.eye(4, dtype=torch.float64)[None].repeat(1, 1, 1)
    features[0, 0] *= 1 - 1e-9  # its own similarity is now below 1, so the released rule makes it its own neighbour
    kept = neighbour_weights(features, 1, 1.0, legacy_mask=True)
    assert kept[0, 0] > kept[0, 1]
    right = neighbour_weights(features, 1, 1.0)
    assert torch.allclose(right, torch.full_like(right, 0.25))
