"""What every test-time method must keep, run over every file of `ironclip.testtime`: a new method is tested by existing."""

import copy

import pytest
import torch
from torch.testing import assert_close

from ironclip.attacks import build as attack
from ironclip.attacks.pgd import PGD
from ironclip.backbones import assemble
from ironclip.backbones.tiny import tiny_backbone
from ironclip.core.errors import UsageError
from ironclip.core.types import Adaptation, Batch, Context, TestTime
from ironclip.testtime import NAMES, build, method, options

CLASSES = ("cat", "golden_retriever", "school bus", "tram")
SMALL = {"views": 8, "copies": 4, "steps": 1}
every_method = pytest.mark.parametrize("name", NAMES)


@pytest.fixture(scope="module")
def backbone():
    return tiny_backbone()


@pytest.fixture(scope="module")
def base(backbone):
    with torch.no_grad():
        return assemble(backbone, CLASSES)


@pytest.fixture(scope="module")
def images():
    return torch.randint(256, (4, 3, 32, 32), generator=torch.Generator().manual_seed(1)) / 255


def make(name: str, base=None) -> TestTime:
    """The method at small sizes, prepared on a few source images for this base."""
    made = build(name, {key: value for key, value in SMALL.items() if key in options(name)})
    if base is not None:
        pictures = torch.rand(6, 3, 32, 32, generator=torch.Generator().manual_seed(7))
        made.prepare(base, iter([Batch(pictures, torch.arange(6) % len(CLASSES), torch.arange(6), CLASSES)]))
    return made


@every_method
def test_the_file_declares_one_method_with_documented_options(name):
    assert issubclass(method(name), TestTime)
    for option in options(name):
        documented = " ".join(kind.__doc__ or "" for kind in method(name).__mro__)
        assert f"{option}:" in documented or f"{option}," in documented, option


@every_method
def test_an_unknown_option_names_the_nearest(name):
    with pytest.raises(UsageError, match="did you mean 'seed'"):
        build(name, {"seeed": 1})
    with pytest.raises(UsageError, match="seed must be a whole number"):
        build(name, {"seed": -1})


@every_method
def test_one_at_a_time_equals_the_batch_in_any_order(name, base, images):
    classifier = make(name, base)(base)
    with torch.no_grad():
        whole = classifier(images)
        alone = torch.cat([classifier(image[None]) for image in images])
        back = classifier(images.flip(0)).flip(0)
        empty = classifier(images[:0])
    assert whole.shape == (4, len(CLASSES))
    assert_close(alone, whole, atol=2e-4, rtol=0)
    assert_close(back, whole, atol=2e-4, rtol=0)
    assert empty.shape == (0, len(CLASSES))


@every_method
def test_nothing_is_left_behind(name, base, images):
    classifier = make(name, base)(base)
    random = torch.get_rng_state()
    before = copy.deepcopy(base.state_dict())
    text = base.text_features.clone()
    with torch.no_grad():
        first = classifier(images)
        classifier(1 - images)
        again = classifier(images)
    assert torch.equal(first, again)
    assert torch.equal(torch.get_rng_state(), random)
    assert torch.equal(base.text_features, text)
    assert all(torch.equal(value, before[key]) for key, value in base.state_dict().items())
    assert not any(parameter.requires_grad for parameter in classifier.parameters())


@every_method
def test_gradients_reach_the_pixels_and_an_attack_raises_the_loss(name, base, images):
    classifier = make(name, base)(base)
    with torch.no_grad():
        labels = classifier(images).argmax(1)
    leaf = images.clone().requires_grad_()
    (slope,) = torch.autograd.grad(classifier(leaf).sum(), leaf)
    assert slope.isfinite().all()
    assert (slope.flatten(1).abs().amax(1) > 0).all()
    adv = PGD(eps=16 / 255, steps=4)(classifier, images, labels)
    with torch.no_grad():
        drop = classifier(images).gather(1, labels[:, None]) - classifier(adv).gather(1, labels[:, None])
    assert drop.mean() > 0
    assert base.backbone.image_weight(base.backbone.spec.image_weights[0]).grad is None


@every_method
def test_it_stands_on_a_learned_context_and_image_edits(name, backbone, images):
    vectors = backbone.embed_text(["a photo of a"]).embeddings[0, 1:5].clone()

    def edit(layer, tokens):
        return tokens * 1.05 if layer == 0 else tokens

    edit.changes_output = False
    with torch.no_grad():
        plain = assemble(backbone, CLASSES, Adaptation(context=Context(vectors + 0.1)))
        edited = assemble(backbone, CLASSES, Adaptation(context=Context(vectors + 0.1), image_edits=(edit,)))
        assert not torch.allclose(make(name, plain)(plain)(images), make(name, edited)(edited)(images), atol=1e-4)


@every_method
def test_surrogates_are_classifiers_with_gradients(name, base, images):
    above = make(name, base)
    classifier = above(base)
    for surrogate in (classifier.base, *above.surrogates(classifier)):
        leaf = images[:2].clone().requires_grad_()
        logits = surrogate(leaf)
        assert logits.shape == (2, len(CLASSES))
        assert torch.autograd.grad(logits.sum(), leaf)[0].abs().amax() > 0
        with torch.no_grad():
            assert torch.allclose(surrogate(images[:2]), logits, atol=1e-4)


@every_method
def test_the_default_attack_of_an_attacker_who_knows_the_method_runs_on_every_surrogate(name, base, images):
    given = {key: value for key, value in {"views": 4, "copies": 2}.items() if key in options(name)}  # steps as they are
    above = build(name, given)
    above.prepare(base, iter([Batch(images, torch.arange(4) % len(CLASSES), torch.arange(4), CLASSES)]))
    classifier = above(base)
    labels = torch.zeros(2, dtype=torch.long)
    for surrogate in (classifier, *above.surrogates(classifier)):
        adv = attack("adaptive", eps=4 / 255, steps=1, tries=0, targets=0)(surrogate, images[:2], labels)
        assert (adv - images[:2]).abs().max() <= 4 / 255 + 1e-6


def test_the_base_must_be_one_of_ours():
    with pytest.raises(UsageError, match="made by assemble"):
        build("aom")(torch.nn.Identity())
