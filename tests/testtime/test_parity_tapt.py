"""TAPT against values of the released code: selection, view statistics, distances, the whole loss and its gradient."""

import pytest
import torch
from parity import assert_matches, load_case, notes_of

from ironclip.testtime import _statistics, build
from ironclip.testtime._prompts import marginal_entropy, most_confident, share
from ironclip.testtime._statistics import Moments, Source, alignment, moments

DTYPES = {"float64": torch.float64, "float32": torch.float32}
STORED = notes_of("tapt")["tensors"]
KINDS = [name.removesuffix(".adv") for name in STORED if name.endswith(".adv")]


@pytest.fixture(params=DTYPES, ids=DTYPES)
def case(request):
    return load_case("tapt", DTYPES[request.param])


def references(case):
    tensors = case[0]
    return {
        kind: Moments(tensors[f"reference.mean_{kind}"], tensors[f"reference.var_{kind}"])
        for kind in ("adv", "clean")
    }  # fmt: skip


def released(sizes, source=None):
    """The method on the constants of the case; l1 as in the whole loss."""
    options = {
        "select": sizes["selection_ratio"],
        "weight": sizes["weight"],
        "gamma": sizes["gamma"],
        "sigma": sizes["mmd_sigma"],
    }
    range_ = {"align_from": sizes["align_from"], "align_to": sizes["align_to"]}
    return build("tapt", {"source": source or "none", **options, **range_})


def used(found, layers):
    """The statistics of the layers that are compared: as released, the last configured one is left out."""
    return Moments(*(part[..., layers.start : layers.stop, :, :] for part in (found.mean, found.variance)))


def test_selection_entropy_and_statistics_are_the_released_ones(case):
    tensors, notes = case
    selected = most_confident(tensors["logits"][None], share(notes["constants"]["selection_ratio"], len(tensors["logits"])))[0]
    assert_matches(case, "selected", selected)
    assert_matches(case, "entropy_loss", marginal_entropy(tensors["logits"][selected]))
    found = moments(tensors["tokens"][:, selected])
    assert_matches(case, "mean", found.mean)
    assert_matches(case, "variance", found.variance)


@pytest.mark.parametrize("kind", KINDS)
def test_distances_are_the_released_ones(case, kind, monkeypatch):
    tensors, notes = case
    sizes = notes["constants"]
    layers = released(sizes).layers(sizes["layers"])
    found, multi = used(moments(tensors["tokens"][:, tensors["selected"]]), layers), sizes["multi"]
    monkeypatch.setattr(_statistics, "SWITCH", multi["switch_fraction"])
    monkeypatch.setattr(_statistics, "STEEPNESS", multi["steepness"])
    options = {"sigma": sizes["mmd_sigma"], "step": multi["step"], "steps": multi["steps"]}
    for which, reference in references(case).items():
        if f"{kind}.{which}" in tensors:
            value = alignment(kind, Moments(found.mean[None], found.variance[None]), used(reference, layers), **options)
            assert value.shape == (1,)
            assert_matches(case, f"{kind}.{which}", value[0])


def test_the_whole_loss_and_its_gradient_are_the_released_ones(case):
    tensors, notes = case
    sizes, known = notes["constants"], references(case)
    source = Source(known["adv"], known["clean"])
    method = released(sizes, source)
    leaf = tensors["tokens"].clone().requires_grad_()
    selected = tensors["selected"]
    found = used(moments(leaf[:, selected]), method.layers(sizes["layers"]))
    distance = method.alignment(Moments(found.mean[None], found.variance[None]), sizes["layers"])[0]
    total = marginal_entropy(tensors["logits"][selected]) + distance
    assert_matches(case, "total", total)
    (gradient,) = torch.autograd.grad(total, leaf)
    assert_matches(case, "gradient", gradient)
