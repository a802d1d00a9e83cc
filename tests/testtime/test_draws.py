"""The surrogate "draws": expectation over the randomness of a whole adaptation."""

import pytest
import torch
from torch.testing import assert_close

from ironclip.core.errors import UsageError
from ironclip.testtime import _base, build
from ironclip.testtime._base import drawn

RANDOM = {
    "rtpt": {"views": 5, "select": 0.5}, "atpt": {"views": 5, "select": 0.5}, "mta": {"views": 5, "augmix": True},
    "aom": {"copies": 2}, "ttc": {"tau": 1e9}, "nac": {"tau": 1e9},
    "ttp": {"views": 5, "tau": 2.0}, "dbd": {"crops": 2, "noisy": 2, "kept": 5},
    "tapt": {"views": 5, "select": 0.5, "source": "none"},
}  # fmt: skip


def slope(classifier, images):
    leaf = images.clone().requires_grad_()
    loss = torch.nn.functional.cross_entropy(classifier(leaf), torch.zeros(len(images), dtype=torch.long), reduction="sum")
    return torch.autograd.grad(loss, leaf)[0]


def surrogate(base, name, seed=0, draws=3):
    method = build(name, {**RANDOM[name], "seed": seed, "draws": draws})
    return {each.name: each for each in method.surrogates(method(base))}.get("draws")


@pytest.mark.parametrize("name", RANDOM)
def test_every_random_method_offers_it_and_with_one_draw_those_that_hold_their_tuning_constant(base, name):
    """Without the surrogate, an attacker of one draw would never differentiate the whole adaptation."""
    assert surrogate(base, name).draws == 3
    single = surrogate(base, name, draws=1)
    assert (single is not None) == (name in ("rtpt", "atpt", "ttp"))
    assert single is None or single.method.gradient == "full"


@pytest.mark.parametrize("name", RANDOM)
def test_one_draw_is_the_classifier_itself(base, images, name):
    method = build(name, {**RANDOM[name], "gradient": "full"} if name in ("rtpt", "atpt", "ttp") else RANDOM[name])
    classifier = method(base)
    single = drawn(method.fully_differentiated(), classifier.base, 1)
    with torch.no_grad():
        assert torch.equal(single(images), classifier(images))
    assert_close(slope(single, images), slope(classifier, images))


@pytest.mark.parametrize("name", ["rtpt", "aom"])
def test_draws_belong_to_the_image_and_not_to_the_batch(base, images, name, monkeypatch):
    several = surrogate(base, name)
    whole = slope(several, images)
    assert torch.equal(slope(several, images), whole)
    alone = torch.cat([slope(several, image[None]) for image in images])
    assert_close(alone, whole, atol=1e-5, rtol=1e-3)
    monkeypatch.setattr(_base, "MEMORY", 1)  # image by image, draw by draw, made again in the backward pass
    assert_close(slope(several, images), whole, atol=1e-5, rtol=1e-3)


def test_the_mean_is_that_of_fresh_draws(base, images):
    classifier = build("aom", RANDOM["aom"])(base)
    keys = _base.image_keys(images, 0)
    with torch.no_grad():
        each = [classifier.method.logits(base, images, [_base.key(k, d) if d else k for k in keys]) for d in range(3)]
        assert_close(surrogate(base, "aom")(images), torch.stack(each).mean(0))
    assert not torch.allclose(each[1], each[2])


@pytest.mark.parametrize("name", ["rtpt", "aom"])
def test_more_draws_lower_the_variance_of_the_gradient(base, images, name):
    images, stand = images[:2], build(name, RANDOM[name])(base).base

    def variance(draws):
        """Mean squared distance to the mean, over 10 seeds; six draws should have about a sixth."""
        found = torch.stack([slope(drawn(build(name, {**RANDOM[name], "seed": s}), stand, draws), images) for s in range(10)])
        return float(found.var(0).sum())

    assert variance(6) < 0.45 * variance(1)


def test_no_draw_is_refused():
    with pytest.raises(UsageError, match="draws must be a whole number of at least 1"):
        build("rtpt", {"draws": 0})
