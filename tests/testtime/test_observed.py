"""The views that methods show: their weights are those of the answer."""

import pytest
import torch
from torch.testing import assert_close

from ironclip.testtime import build
from ironclip.testtime._base import features_of, plain_head
from ironclip.testtime._relevance import attention_map

SMALL = {"views": 6, "select": 0.5}
VIEWED = {
    "tpt": SMALL, "ctpt": SMALL, "difftpt": SMALL, "tpt_ensemble": SMALL, "rtpt": SMALL, "atpt": SMALL,
    "mta": {"views": 6}, "tapt": {**SMALL, "source": "none"},
}  # fmt: skip


@pytest.fixture(scope="module")
def images(images):
    return images[:2]


def test_weights_sum_to_one_and_the_image_comes_first(base, images):
    for name, options in VIEWED.items():
        looked = build(name, options)(base).observed(images)
        assert looked.views.shape == (2, 6, 3, 32, 32), name
        assert_close(looked.weights.sum(1), torch.ones(2), msg=name)
        assert torch.equal(looked.views[:, 0], images), name
        count = 0 if name in ("mta", "tpt_ensemble") else 2 if name == "difftpt" else 3
        assert looked.tuned.sum(1).tolist() == [count, count], name


@pytest.mark.parametrize(
    "options",
    [
        {"variant": "code"},
        {"variant": "code", "vote": 3},
        {"variant": "paper"},
        {"ensemble": "uniform"},
        {"loss_weights": "uniform"},
    ],
)
def test_weighted_views_make_the_answer_of_atpt(base, images, options):
    method = build("atpt", {**SMALL, **options})
    classifier = method(base)
    looked = classifier.observed(images)
    with torch.no_grad():
        tuned = method.tuned(classifier.base, looked.views)
        weights = looked.weights[..., None]
        joined = (weights * tuned.logits.softmax(-1)).sum(1).log() if method.ensemble == "tv" else (weights * tuned.logits).sum(1)
        assert_close(joined, classifier(images), atol=1e-4, rtol=1e-4)


def test_the_views_of_rtpt_and_mta_make_their_answers(base, images):
    with torch.no_grad():
        classifier = build("rtpt", {**SMALL, "steps": 0})(base)
        looked = classifier.observed(images)
        text = classifier.base.text_features
        logits = plain_head(classifier.base, "rtpt")(features_of(classifier.base, looked.views), text)
        assert_close((looked.weights[..., None] * logits).sum(1), classifier(images), atol=1e-4, rtol=1e-4)
        assert looked.tuned.sum() == 0
        classifier = build("mta", VIEWED["mta"])(base)
        found = classifier.method.found(base, classifier.observed(images).views)
        assert_close(plain_head(base, "mta")(found.mode, base.text_features), classifier(images), atol=1e-4, rtol=1e-4)


def test_methods_without_views_show_none(base, images):
    assert build("aom", {"copies": 2})(base).observed(images) is None
    assert build("ttc")(base).observed(images) is None


def test_attention_is_a_map_of_the_base_and_atpts_own(base, images):
    plain = attention_map(base, images)
    assert plain.shape == (2, 4, 4)
    assert (plain.amin((1, 2)) >= 0).all()
    assert (plain.amax((1, 2)) > 0.99).all()
    assert_close(attention_map(build("ttc")(base), images), plain)
    classifier = build("atpt", {**SMALL, "rollout": "attention"})(base)
    assert_close(attention_map(classifier, images), classifier.method.maps(classifier.base, images))
    assert attention_map(torch.nn.Identity(), images) is None
