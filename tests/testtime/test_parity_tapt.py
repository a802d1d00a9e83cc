"""TAPT against values of the released code: selection, view statistics, distances, the whole loss and its gradient."""

import pytest
import torch
from parity import assert_matches, load_case

from ironclip.testtime import build
from ironclip.testtime._prompts import marginal_entropy, most_confident
from ironclip.testtime._statistics import Moments, Source, alignment, moments

DTYPES = {"float64": torch.float64, "float32": torch.float32}


@pytest.fixture(params=DTYPES, ids=DTYPES)
def case(request):
    return load_case("tapt", DTYPES[request.param])


def references(case):
    tensors = case[0]
    return {
        kind: Moments(tensors[f"reference.mean_{kind}"], tensors[f"reference.var_{kind}"])
        for kind in ("adv", "clean")
    }  # fmt: skip


def used(found, layers):
    return Moments(found.mean[..., :layers, :, :], found.variance[..., :layers, :, :])


def test_selection_entropy_and_statistics_are_the_released_ones(case):
    tensors, notes = case
    selected = most_confident(tensors["logits"][None], int(notes["constants"]["selection_ratio"] * 10))[0]
    assert_matches(case, "selected", selected)
    assert_matches(case, "entropy_loss", marginal_entropy(tensors["logits"][selected]))
    found = moments(tensors["tokens"][:, selected])
    assert_matches(case, "mean", found.mean)
    assert_matches(case, "variance", found.variance)


@pytest.mark.parametrize("kind", ["l1", "l2", "mmd", "kl", "js", "multi"])
def test_distances_are_the_released_ones(case, kind):
    tensors, notes = case
    end = notes["constants"]["align_to"] - 1  # as released, the last configured layer is left out
    found = used(moments(tensors["tokens"][:, tensors["selected"]]), end)
    multi = notes["constants"]["multi"]
    options = {"sigma": notes["constants"]["mmd_sigma"], "step": multi["step"], "steps": multi["steps"]}
    for which, reference in references(case).items():
        if f"{kind}.{which}" in tensors:
            value = alignment(kind, Moments(found.mean[None], found.variance[None]), used(reference, end), **options)
            assert value.shape == (1,)
            assert_matches(case, f"{kind}.{which}", value[0])


def test_the_whole_loss_and_its_gradient_are_the_released_ones(case):
    tensors, notes = case
    sizes, known = notes["constants"], references(case)
    source = Source(known["adv"], known["clean"])
    method = build("tapt", {"source": source, "weight": sizes["weight"], "gamma": sizes["gamma"], "align_to": sizes["align_to"]})
    leaf = tensors["tokens"].clone().requires_grad_()
    selected = tensors["selected"]
    found = used(moments(leaf[:, selected]), len(method.layers(sizes["layers"])))
    distance = method.alignment(Moments(found.mean[None], found.variance[None]), sizes["layers"])[0]
    total = marginal_entropy(tensors["logits"][selected]) + distance
    assert_matches(case, "total", total)
    (gradient,) = torch.autograd.grad(total, leaf)
    assert_matches(case, "gradient", gradient)
