"""AdvFLYP and QT-AFT: losses written out, captions that are cut, equal or missing, and what they share with FARE."""

import math

import pytest
import torch
import torch.nn.functional as F
from finetuned import stirred
from torch.testing import assert_close

from ironclip.core.errors import UsageError
from ironclip.core.types import Batch
from ironclip.defenses import _pairs, build

TEXTS = ("a small cat", "a dog of gold", "a bus", "a tram in the rain")


@pytest.fixture(scope="module")
def pairs(batch):
    return Batch(batch.images[:4], batch.labels[:4], batch.indices[:4], batch.classes, TEXTS)


def unit(features):
    return features / features.norm()


def unmoved(function, images, labels, **given):
    return images


def test_the_contrastive_term_written_out(backbone, pairs):
    defense = stirred(build("advflyp", backbone, pairs.classes))
    tuned, s = defense.classifier(backbone, pairs.classes, None), backbone.spec.logit_scale
    u = [unit(backbone.encode_text(backbone.embed_text([text]))[0]) for text in TEXTS]
    z = [unit(tuned.encode_image(image[None])[0].detach()) for image in pairs.images]
    total = 0.0
    for i in range(4):
        there = [math.exp(s * float(z[i] @ u[j])) for j in range(4)]
        back = [math.exp(s * float(z[j] @ u[i])) for j in range(4)]
        total -= (math.log(there[i] / sum(there)) + math.log(back[i] / sum(back))) / 8
    terms = defense.loss(backbone, pairs, unmoved)
    assert float(terms["adv_contrast"].detach()) == pytest.approx(total, rel=1e-4)
    assert float(terms["captions_kl"].detach()) > 0


def test_before_training_and_without_an_attack_the_regularisers_are_zero(backbone, pairs):
    defense = build("advflyp", backbone, pairs.classes)
    terms = defense.loss(backbone, pairs, unmoved)
    assert float(terms["features"].detach()) < 1e-3
    assert float(terms["captions_kl"].detach()) < 1e-5
    (slope,) = torch.autograd.grad(terms["features"], defense.image.proj)
    assert slope.isfinite().all()  # the distance of a point from itself has no slope of its own


def test_qt_aft_without_captions_is_fare_and_their_order_is_the_second_term_alone(backbone, pairs):
    ours, fare = (stirred(build(name, backbone, pairs.classes), 0.0) for name in ("qt_aft", "fare"))
    with torch.no_grad():
        for defense in (ours, fare):
            defense.image.proj += 0.1
    first = ours.loss(backbone, pairs, unmoved)
    assert_close(first["adv_features"], fare.loss(backbone, pairs, unmoved)["adv_features"])
    turned = ours.loss(backbone, Batch(pairs.images, pairs.labels, pairs.indices, pairs.classes, TEXTS[::-1]), unmoved)
    assert_close(turned["adv_features"], first["adv_features"])
    assert abs(float(turned["caption"].detach() - first["caption"].detach())) > 1e-3
    none = build("qt_aft", backbone, pairs.classes, given={"caption_weight": 0.0}).loss(backbone, pairs, unmoved)
    assert float(none["caption"].detach()) == 0


def test_the_learned_scale_stays_in_its_range(backbone, pairs):
    defense = build("qt_aft", backbone, pairs.classes)
    assert float(defense.tau.detach()) == pytest.approx(math.log(1 / 0.07))
    with torch.no_grad():
        defense.tau += 9
    defense.loss(backbone, pairs, unmoved)
    assert float(defense.tau.detach()) == pytest.approx(4.6052)


def test_equal_captions_are_negatives_unless_masked_and_never_where_the_class_stands_in(backbone, pairs):
    twice = Batch(pairs.images, pairs.labels, pairs.indices, pairs.classes, (TEXTS[0], TEXTS[0], *TEXTS[2:]))
    plain, masked = (
        build("advflyp", backbone, pairs.classes, given={"mask_equal": flag}).loss(backbone, twice, unmoved)["adv_contrast"]
        for flag in (False, True)
    )
    assert masked < plain
    same = _pairs.others(twice.texts, torch.device("cpu"))
    assert same.nonzero().tolist() == [[0, 1], [1, 0]]
    labels = torch.tensor([0, 0, 1, 2])
    bare = Batch(pairs.images, labels, pairs.indices, pairs.classes)
    texts = _pairs.captions(backbone, bare, "a {}.")
    assert texts == ("a cat.", "a cat.", "a golden retriever.", "a school bus.")
    named = Batch(pairs.images, labels, pairs.indices, pairs.classes, _pairs.captions(backbone, bare, "This is a photo of a {}"))
    given = {"mask_equal": True}
    found = [
        build("advflyp", backbone, pairs.classes, given=given).loss(backbone, b, unmoved)["adv_contrast"] for b in (bare, named)
    ]
    assert_close(found[0], found[1])
    assert_close(build("advflyp", backbone, pairs.classes).loss(backbone, bare, unmoved)["adv_contrast"], found[0])


def test_a_caption_that_does_not_fit_is_cut_behind_a_word(backbone):
    words = ["cat"] * 200
    cut = _pairs.fitting(backbone, " ".join(words))
    assert set(cut.split()) == {"cat"}
    assert 5 < len(cut.split()) < 200
    backbone.tokenize([cut])
    with pytest.raises(UsageError):
        backbone.tokenize([cut + " cat cat"])
    features = _pairs.encoded(backbone, ("a cat", "a dog", "a cat"))
    assert torch.equal(features[0], features[2])
    assert_close(features.norm(dim=1), torch.ones(3))
    assert F.cosine_similarity(features[0], features[1], dim=0) < 0.9999


@pytest.mark.parametrize(
    ("name", "options"),
    [("advflyp", {"feature_weight": -1}), ("advflyp", {"logit_weight": -1}), ("advflyp", {"mask_equal": 1}),
     ("qt_aft", {"caption_weight": -1}), ("qt_aft", {"mask_equal": 1})],
)  # fmt: skip
def test_bad_options_fail_at_construction(backbone, batch, name, options):
    with pytest.raises(UsageError, match=next(iter(options))):
        build(name, backbone, batch.classes, given=options)
