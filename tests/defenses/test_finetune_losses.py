"""Losses of TeCoA, FARE, TGA-ZSR and PMG-AFT, written out term by term."""

import math

import pytest
import torch
from finetuned import stirred
from finetuned_tower import METHODS, STILL, classifier
from torch.nn.functional import cross_entropy, interpolate, softmax
from torch.testing import assert_close

from ironclip.backbones import assemble
from ironclip.core.losses import squared_distance_each
from ironclip.core.types import Trace
from ironclip.defenses import build
from ironclip.defenses.fare import FARE
from ironclip.defenses.pmg_aft import IMAGENET_MEAN, IMAGENET_STD, PMG
from ironclip.defenses.tecoa import TeCoA
from ironclip.defenses.tga_zsr import TGA, logits_and_map, map_distance


def test_without_a_radius_the_losses_are_those_of_clean_images(backbone, batch):
    images, labels = batch.images, batch.labels
    made = {name: stirred(build(name, backbone, batch.classes)) for name in METHODS}
    terms = {name: defense.loss(backbone, batch, STILL) for name, defense in made.items()}
    logits = {name: classifier(defense, backbone, batch.classes)(images) for name, defense in made.items()}
    for name in ("tecoa", "tga_zsr", "pmg_aft"):
        assert_close(terms[name]["adv_ce"], cross_entropy(logits[name], labels))
    assert_close(terms["tga_zsr"]["adv_map"] / 0.08, terms["tga_zsr"]["clean_map"] / 0.05)
    assert terms["pmg_aft"]["clean_kl"].abs() < 1e-6
    gap = squared_distance_each(*(made["fare"].classifier(backbone, batch.classes, None).encode_image(images),
                                  backbone.encode_image(images)))  # fmt: skip
    assert_close(terms["fare"]["adv_features"], gap.mean())


def test_fare_starts_at_zero_without_a_radius_and_above_with_one(backbone, batch, attack):
    defense = FARE(backbone, batch.classes)
    assert defense.loss(backbone, batch, STILL)["adv_features"] < 1e-8
    assert defense.loss(backbone, batch, attack)["adv_features"] > 1e-3


def test_fare_attacks_its_own_loss_and_needs_no_labels(backbone, batch, attack):
    defense, found = stirred(FARE(backbone, batch.classes), 0.01), []

    def watch(function, images, labels, **given):
        found.append((attack(function, images, labels, **given), given["loss"], function))
        return found[-1][0]

    value = defense.loss(backbone, batch, watch)["adv_features"]
    blind = type(batch)(batch.images, torch.zeros_like(batch.labels), batch.indices, batch.classes)
    assert torch.equal(defense.loss(backbone, blind, watch)["adv_features"], value)
    adv, loss, function = found[0]
    rows = torch.arange(len(batch))
    assert_close(loss(function(adv), rows).mean(), value)
    assert_close(loss(function(adv), rows), squared_distance_each(function(adv), backbone.encode_image(batch.images)))
    assert_close(loss(function(adv)[[5, 2]], rows[[5, 2]]), loss(function(adv), rows)[[5, 2]])
    assert value > loss(function(batch.images), rows).mean()


def test_fares_optional_terms(backbone, batch, attack):
    base, both, own = (
        stirred(FARE(backbone, batch.classes, **given), 0.01)
        for given in ({}, {"clean_weight": 0.25}, {"trades": True, "clean_weight": 0.25})
    )
    terms = both.loss(backbone, batch, attack)
    assert_close(terms["adv_features"], 0.75 * base.loss(backbone, batch, attack)["adv_features"])
    tuned = both.classifier(backbone, batch.classes, None).encode_image
    target = backbone.encode_image(batch.images)
    assert_close(terms["clean_features"], 0.25 * squared_distance_each(tuned(batch.images), target).mean())
    adv = attack(tuned, batch.images, torch.arange(8), loss=lambda f, rows: squared_distance_each(f, tuned(batch.images)[rows]))
    expected = 0.75 * squared_distance_each(tuned(adv), tuned(batch.images)).mean()
    assert_close(own.loss(backbone, batch, attack)["adv_features"], expected)


@pytest.mark.parametrize("weight", [0.0, 0.25, 1.0])
def test_tecoa_mixes_clean_and_adversarial_cross_entropy(backbone, batch, weight):
    defense = stirred(TeCoA(backbone, batch.classes, adv_weight=weight))
    terms = defense.loss(backbone, batch, lambda function, images, labels, **given: images.flip(0))
    function = classifier(defense, backbone, batch.classes)
    expected = {
        "adv_ce": weight * cross_entropy(function(batch.images.flip(0)), batch.labels),
        "clean_ce": (1 - weight) * cross_entropy(function(batch.images), batch.labels),
    }
    assert set(terms) == {"adv_ce"} - ({"adv_ce"} if not weight else set()) | ({"clean_ce"} if weight < 1 else set())
    for name, term in terms.items():
        assert_close(term, expected[name])


@pytest.mark.parametrize("given", [{}, {"kl_reduction": "sum"}, {"guide_weight": 0.5, "clean_weight": 2.0}], ids=str)
def test_pmg_terms_written_out(backbone, batch, given):
    defense = stirred(PMG(backbone, batch.classes, **given))
    with torch.no_grad():
        terms = defense.loss(backbone, batch, lambda function, images, labels, **options: images.flip(0))
        tuned, original = classifier(defense, backbone, batch.classes), defense.original(backbone, batch.classes)
        adv = softmax(tuned(batch.images.flip(0)), 1).tolist()
        guide, clean = softmax(original(batch.images.flip(0)), 1).tolist(), softmax(tuned(batch.images), 1).tolist()
    totals = [
        sum(p * math.log(p / q) for t, a in zip(target, adv, strict=True) for p, q in zip(t, a, strict=True))
        for target in (guide, clean)
    ]
    over = 1 if "kl_reduction" in given else 8
    assert float(terms["guide_kl"]) == pytest.approx(given.get("guide_weight", 1.0) * totals[0] / over, rel=1e-4)
    assert float(terms["clean_kl"]) == pytest.approx(given.get("clean_weight", 1.0) * totals[1] / over, rel=1e-4)


def test_pmg_targets_the_guide_is_constant_and_the_clean_one_only_if_asked(backbone, batch):
    slopes = []
    for detach in (False, True):
        defense = stirred(PMG(backbone, batch.classes, detach_clean=detach))
        terms = defense.loss(backbone, batch, lambda function, images, labels, **options: images.flip(0))
        slopes.append(torch.autograd.grad(terms["clean_kl"], defense.image.proj)[0])
    assert (slopes[0] - slopes[1]).abs().max() > 1e-4


def test_imagenets_normalisation_reaches_both_models(backbone, batch):
    defense = stirred(PMG(backbone, batch.classes, normalisation="imagenet"))
    mean, std = (torch.tensor(values).view(3, 1, 1) for values in (IMAGENET_MEAN, IMAGENET_STD))
    expected = backbone.image((batch.images - mean) / std)
    assert_close(defense.original(backbone, batch.classes).encode_image(batch.images), expected, atol=1e-5, rtol=0)
    weights = defense.adaptation(backbone, batch.classes).image_weights
    found = classifier(defense, backbone, batch.classes).encode_image(batch.images)
    assert_close(found, backbone.image((batch.images - mean) / std, weights=weights), atol=1e-5, rtol=0)


@pytest.mark.parametrize("norm", ["token_axis", "feature"])
def test_maps_by_a_slow_loop(backbone, batch, norm):
    function, trace = assemble(backbone, batch.classes), Trace(grid=True)
    logits, maps = logits_and_map(function, batch.images, batch.labels, norm)
    features = backbone.encode_image(batch.images, trace=trace)
    assert_close(logits, function(batch.images), atol=1e-5, rtol=0)
    assert maps.shape == (8, 32 * 32)
    for i, label in enumerate(batch.labels):
        tokens = torch.cat([features[i : i + 1], trace.projected[i]])
        lengths = tokens.square().sum(0 if norm == "token_axis" else 1, keepdim=True).sqrt()
        scores = torch.stack([token @ function.text_features[label] for token in (tokens / lengths)[1:]])
        scores = (scores - scores.min()) / (scores.max() - scores.min())
        large = interpolate(scores.view(1, 1, 4, 4), size=(32, 32), mode="bilinear")
        assert_close(maps[i], large.flatten(), atol=1e-5, rtol=0)


def test_equal_maps_have_no_distance_and_a_finite_slope(backbone, batch, attack):
    maps = torch.rand(3, 16, requires_grad=True)
    for kind in ("l2", "l1", "cos"):
        distance = map_distance(maps, maps.detach().clone(), kind)
        assert distance.abs() < 1e-6
        assert bool(torch.autograd.grad(distance, maps)[0].isfinite().all())
    terms = TGA(backbone, batch.classes).loss(backbone, batch, attack)
    assert terms["clean_map"] < 1e-4
    assert terms["adv_map"] > 1e-2
