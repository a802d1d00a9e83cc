"""The surrogates of DEFEAT: their values, their gradients, and that attacking them all finds what one attack misses."""

import pytest
import torch
import torch.nn.functional as F
from torch.testing import assert_close

from ironclip.attacks import build as build_attack
from ironclip.attacks.pgd import PGD
from ironclip.backbones import assemble
from ironclip.core.tensors import value_and_slope
from ironclip.core.threat import Threat
from ironclip.core.types import Adaptation, ImageOutput
from ironclip.defenses import build
from ironclip.defenses._defeat_attacks import SHARES, TEMPERATURES
from ironclip.defenses.defeat import DEFEAT
from ironclip.loops.evaluation import evaluate

SOFT = [f"soft-{tau:g}" for tau in TEMPERATURES]
BALANCED = ["balanced", *(f"balanced-{share:g}" for share in SHARES[1:])]
FUSED = ["shield-held", "class-held", *SOFT, *BALANCED]  # those with the value of the classifier itself
OTHERS = ["class-branch", "shield-branch", "unquantised", "patches", "hand-prompts"]


def drawn(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


@pytest.fixture(scope="module")
def world(backbone, batch):
    """(classifier, its surrogates by name), with codes among the latents so that both branches say something."""
    defense = DEFEAT(backbone, batch.classes, length=4, codes=24, latent_width=8, generator=drawn())
    defense.prepare(backbone, [batch])
    with torch.no_grad():
        classifier = assemble(backbone, batch.classes, defense.adaptation(backbone, batch.classes))
    return classifier, {surrogate.name: surrogate for surrogate in defense.surrogates(classifier)}


def slope(function, batch):
    return value_and_slope(function, lambda logits: F.cross_entropy(logits, batch.labels, reduction="none"), batch.images)[2]


def test_every_surrogate_has_a_name_the_classes_and_a_gradient(world, batch):
    classifier, found = world
    assert set(found) == {*FUSED, *OTHERS}
    for surrogate in found.values():
        assert surrogate.classes == classifier.classes
        assert surrogate(batch.images).shape == (8, 4)
        assert slope(surrogate, batch).flatten(1).abs().amax(1).min() > 0
        assert torch.equal(surrogate(batch.images), surrogate(batch.images))


@pytest.mark.parametrize("name", FUSED)
def test_surrogates_with_another_gradient_have_the_value_of_the_classifier(world, batch, name):
    classifier, found = world
    assert_close(found[name](batch.images), classifier(batch.images), atol=1e-5, rtol=0)
    assert not torch.allclose(slope(found[name], batch), slope(classifier, batch), rtol=1e-2)


def test_values_of_the_others(world, batch, backbone):
    classifier, found = world
    features = classifier.encode_image(batch.images)
    assert_close(found["class-branch"](batch.images), classifier.head.cosine(ImageOutput(features), classifier.text_features))
    halves = found["class-branch"](batch.images) + found["shield-branch"](batch.images)
    assert_close(halves / 2, classifier(batch.images), atol=1e-5, rtol=0)
    bare = assemble(backbone, batch.classes, Adaptation())
    assert torch.equal(found["hand-prompts"](batch.images), bare(batch.images))


def test_held_branches_split_the_gradient(world, batch):
    classifier, found = world
    parts = slope(found["shield-held"], batch) + slope(found["class-held"], batch)
    assert_close(parts, slope(classifier, batch), atol=1e-5, rtol=1e-3)


@pytest.mark.parametrize(("name", "share"), list(zip(BALANCED, SHARES, strict=True)))
def test_a_balanced_gradient_is_the_sum_of_unit_gradients(world, batch, name, share):
    _, found = world
    unit = [F.normalize(slope(found[part], batch).flatten(1), dim=1) for part in ("shield-held", "class-held")]
    assert_close(slope(found[name], batch).flatten(1), share * unit[0] + (1 - share) * unit[1], atol=1e-5, rtol=1e-3)


@pytest.mark.parametrize(("name", "width"), [("unquantised", 16 * 8), ("patches", 16 * 16)])
def test_an_attack_on_features_meets_latents_and_patches(world, batch, name, width):
    _, found = world
    features = found[name].encode_image(batch.images)
    assert features.shape == (8, width)
    assert found[name].encode_image.__self__ is found[name]  # so an attack knows whose parameters to freeze
    adv = build_attack("feature", eps=4 / 255, steps=3, seed=0)(found[name], batch.images, batch.labels)
    moved = (found[name].encode_image(adv) - features).square().sum(1)
    noise = PGD(eps=4 / 255, steps=0, keep="last")(found[name], batch.images, batch.labels)
    assert (moved > (found[name].encode_image(noise) - features).square().sum(1)).all()


def test_a_surrogate_treats_each_image_alone(world, batch):
    _, found = world
    for surrogate in found.values():
        whole = surrogate(batch.images)
        assert_close(surrogate(batch.images[2:3])[0], whole[2], atol=1e-4, rtol=1e-4)


def test_the_worst_case_is_no_better_than_any_attack_alone(world, batch):
    classifier, found = world
    attack, threat = {"pgd": PGD(eps=2 / 255, steps=3)}, Threat(eps=2 / 255, knowledge="adaptive")
    whole = evaluate(classifier, attack, [batch], threat, surrogates=tuple(found.values()), stop_early=False)
    robust = sum(sample.robust for sample in whole.samples)
    assert {name.removeprefix("pgd/") for name in whole.samples[0].adversarial} == {"pgd", *found}
    for name in whole.samples[0].adversarial:
        alone = sum(sample.right and sample.adversarial[name] == sample.label for sample in whole.samples)
        assert robust <= alone


def test_a_stack_hands_on_the_surrogates(backbone, batch):
    given = {"defeat.length": 0, "defeat.codes": 24, "defeat.latent_width": 8, "nap.refiner_layers": 0}
    stack = build("nap+defeat", backbone, batch.classes, given=given, generator=drawn())
    with torch.no_grad():
        classifier = assemble(backbone, batch.classes, stack.adaptation(backbone, batch.classes))
        found = {surrogate.name: surrogate for surrogate in stack.surrogates(classifier)}
        assert set(found) == {*FUSED, *OTHERS}
        assert_close(found["soft-1"](batch.images), classifier(batch.images), atol=1e-5, rtol=0)
