"""Invariants of the tuning engine: limits, closed forms, leakage, the attack's gradients, bounded memory."""

import os

import pytest
import torch
from torch.testing import assert_close

from ironclip.attacks import PGD
from ironclip.backbones import assemble
from ironclip.backbones.counting import counted
from ironclip.backbones.tiny import tiny_backbone
from ironclip.core.errors import UsageError
from ironclip.core.threat import Threat
from ironclip.core.types import Adaptation, Batch, Context
from ironclip.loops.evaluation import evaluate
from ironclip.testtime import _base, _prompts, _views, build, called
from ironclip.testtime._base import features_of
from ironclip.testtime._prompts import AdamW, dispersion, entropy, marginal_entropy, neighbour_weights
from ironclip.testtime._views import with_views

CLASSES = ("cat", "golden_retriever", "school bus", "tram", "oak tree")
TUNING = ("tpt", "ctpt", "rtpt", "tpt_ensemble", "difftpt")


@pytest.fixture(scope="module")
def backbone():
    return tiny_backbone().double()


@pytest.fixture(scope="module")
def base(backbone):
    with torch.no_grad():
        return assemble(backbone, CLASSES)


@pytest.fixture(scope="module")
def images():
    return (torch.randint(256, (3, 3, 32, 32), generator=torch.Generator().manual_seed(1)) / 255).double()


def logits(name, base, images, **options):
    with torch.no_grad():
        return build(name, {"views": 12, **options})(base)(images)


def test_no_step_is_the_ensemble_with_the_start_prompt(base, images):
    with torch.no_grad():
        assert_close(logits("tpt", base, images, steps=0), base(images))
        classifier = build("rtpt", {"views": 12, "steps": 0})(base)
        method = classifier.method
        keys = _base.image_keys(images, 0)
        features = features_of(base, method.parts().views(classifier.base, images, keys))
        weights = neighbour_weights(features)
        assert_close(classifier(images), (weights[..., None] * (20.0 * features @ base.text_features.T)).sum(1))
        each = (20.0 * features @ base.text_features.T).softmax(-1).mean(1)
        assert_close(logits("tpt_ensemble", base, images).softmax(-1), each)
    assert_close(logits("rtpt", base, images, lr=0.0, weight_decay=0.0), logits("rtpt", base, images, steps=0))


def test_one_view_and_no_step_is_zero_shot(base, images):
    with torch.no_grad():
        for name in TUNING:
            found = logits(name, base, images, views=1, steps=0)
            assert_close(found.log_softmax(1), base(images).log_softmax(1))


@pytest.mark.parametrize("steps", [1, 3])
def test_the_steps_are_those_of_torch_adamw(steps):
    draw = torch.Generator().manual_seed(0)
    start, slopes = torch.randn(4, 6, generator=draw).double(), torch.randn(steps, 4, 6, generator=draw).double()
    leaf = torch.nn.Parameter(start.clone())
    reference, ours, values = torch.optim.AdamW([leaf], lr=5e-3, weight_decay=0.01), AdamW(5e-3, 0.01), start
    for slope in slopes:
        leaf.grad = slope.clone()
        reference.step()
        values = ours(values, slope)
    assert_close(values, leaf.detach(), atol=1e-14, rtol=0)


def test_tpt_and_rtpt_agree_where_only_one_view_is_selected(base, images):
    one = {"views": 12, "select": 0.1}
    tpt, rtpt = build("tpt", one), build("rtpt", one)
    prompted = tpt.prepared(base)
    features = features_of(base, tpt.parts().views(prompted, images, [1, 2, 3]))
    assert_close(tpt.tune(prompted, features).context, rtpt.tune(prompted, features).context)


def test_an_attacker_has_the_mean_of_eight_views_on_which_nothing_is_tuned(base, images):
    method = build("rtpt", {"views": 12})
    classifier = method(base)
    few = {each.name: each for each in method.surrogates(classifier)}["views"]
    keys = _base.image_keys(images, 0)
    with torch.no_grad():
        features = features_of(classifier.base, with_views(images, keys, 8, augmix=True))
        assert_close(few(images), 20.0 * features.mean(1) @ classifier.base.text_features.T)
    assert few.cost == 9


def test_an_attacker_has_a_vote_by_confidence_that_becomes_the_surest_view_or_the_mean(monkeypatch):
    logits = 3 * torch.randn(4, 6, 5, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    surest = logits.log_softmax(-1)[torch.arange(4), entropy(logits).argmin(1)]
    mean = logits.softmax(-1).mean(1).log()
    doubled = (_views.confident_vote(logits, torch.tensor([0.0, -99, -99, -99, -99, -99]).double()), logits.log_softmax(-1)[:, 0])
    monkeypatch.setattr(_views, "SOFT", 1e-9)
    assert_close(_views.confident_vote(logits), surest)
    monkeypatch.setattr(_views, "SOFT", 1e9)
    assert_close(_views.confident_vote(logits), mean)
    assert_close(*doubled)


@pytest.mark.parametrize("name", TUNING)
def test_an_attacker_of_prompt_tuning_has_the_vote_by_confidence(base, images, name):
    classifier = build(name, {"views": 12})(base)
    found = {each.name: each for each in classifier.method.surrogates(classifier)}["selection"]
    with torch.no_grad():
        features = features_of(classifier.base, with_views(images, _base.image_keys(images, 0), 8, augmix=True))
        assert_close(found(images), _views.confident_vote(20.0 * features @ classifier.base.text_features.T))
    leaf = images.clone().requires_grad_()
    assert torch.autograd.grad(found(leaf)[:, 0].sum(), leaf)[0].norm() > 0


def test_the_marginal_entropy_is_as_exact_as_its_logits():
    same = torch.randn(1, 5, generator=torch.Generator().manual_seed(0), dtype=torch.float64).expand(3, 5)
    assert_close(marginal_entropy(same), entropy(same[0]), atol=1e-14, rtol=0)


def test_the_marginal_entropy_is_at_least_the_mean_entropy():
    many = 5 * torch.randn(50, 6, 4, generator=torch.Generator().manual_seed(0))
    assert (marginal_entropy(many) >= entropy(many).mean(-1) - 1e-6).all()
    probabilities = many[0].softmax(-1)
    mean = probabilities.mean(0)
    assert_close(marginal_entropy(many[0]), -(mean * mean.log()).sum())
    assert_close(marginal_entropy(many[:, :1]), entropy(many[:, 0]))


def test_no_weight_on_the_dispersion_is_tpt(base, images):
    assert_close(logits("ctpt", base, images, weight=0.0), logits("tpt", base, images))
    assert not torch.allclose(logits("ctpt", base, images), logits("tpt", base, images))


def test_the_dispersion_does_not_see_a_rotation():
    text = torch.randn(5, 8, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    turn = torch.linalg.qr(torch.randn(8, 8, generator=torch.Generator().manual_seed(1), dtype=torch.float64))[0]
    assert_close(dispersion(text @ turn), dispersion(text))
    slow = sum((row - text.mean(0)).square().sum().sqrt() for row in text) / 5
    assert_close(dispersion(text), slow)


def test_weights_sum_to_one_and_do_not_see_rotations_or_the_order_of_views():
    draw = torch.Generator().manual_seed(0)
    features = torch.nn.functional.normalize(torch.randn(2, 9, 8, generator=draw, dtype=torch.float64), dim=-1)
    turn = torch.linalg.qr(torch.randn(8, 8, generator=draw, dtype=torch.float64))[0]
    weights = neighbour_weights(features, 3)
    assert_close(weights.sum(1), torch.ones(2, dtype=torch.float64))
    assert_close(neighbour_weights(features @ turn, 3), weights)
    order = torch.randperm(9, generator=draw)
    assert_close(neighbour_weights(features[:, order], 3), weights[:, order])
    assert_close(neighbour_weights(torch.ones(1, 6, 4) / 2, 3), torch.full((1, 6), 1 / 6))
    assert torch.equal(neighbour_weights(features, 20), neighbour_weights(features, 8))  # no more than there are
    nearest = [max(float(features[0, v] @ features[0, u]) for u in range(9) if u != v) for v in range(9)]
    slow = torch.tensor(nearest, dtype=torch.float64)
    assert_close(neighbour_weights(features[:1], 1)[0].log().diff(), (slow / 0.01).diff(), atol=1e-6, rtol=1e-6)


def test_many_classes_run_in_chunks_with_the_same_result(base, images, monkeypatch):
    whole, twice = logits("rtpt", base, images), logits("rtpt", base, images, steps=2)
    monkeypatch.setattr(_prompts, "AT_ONCE", 2)
    monkeypatch.setattr(_prompts, "TOGETHER", 1)
    assert_close(logits("rtpt", base, images), whole, atol=1e-6, rtol=0)
    assert_close(logits("rtpt", base, images, steps=2), twice, atol=1e-5, rtol=0)


@pytest.mark.parametrize("name", ["rtpt", "atpt", "ttc"])
def test_small_memory_splits_images_and_views_and_changes_nothing(base, images, monkeypatch, name):
    options = {"tau": 9.0} if name == "ttc" else {"views": 6}
    classifier = build(name, options)(base)

    def run():
        leaf = images.clone().requires_grad_()
        found = classifier(leaf)
        return found.detach(), torch.autograd.grad(found.logsumexp(1).sum(), leaf)[0]

    whole = run()
    assert _base.chunk_size(base.backbone.spec, 6, graph=True) > 3
    monkeypatch.setattr(_base, "MEMORY", 1)
    assert _base.chunk_size(base.backbone.spec, 6, graph=True) == 1
    passes = []
    hook = base.backbone.image.register_forward_hook(lambda module, given, output: passes.append(len(given[0])))
    for one, other in zip(whole, run()):
        assert_close(one, other, atol=1e-7, rtol=1e-6)
    hook.remove()
    # Forward, and once more per image and per view in the backward pass: nothing inside runs a whole image again.
    assert sum(passes) <= 4 * len(images) * classifier.passes


def test_an_evaluation_takes_so_many_images_at_once_that_nothing_is_computed_twice(base, images, monkeypatch):
    classifier = build("rtpt", {"views": 6})(base)
    monkeypatch.setattr(_base, "chunk_size", lambda spec, passes, **_: max(1, 12 // passes))
    assert classifier.at_once == 2
    with torch.no_grad():
        batch = Batch(images, classifier(images).argmax(1), torch.arange(3), CLASSES)
    spent = {}
    for exact in (False, True):
        with counted(base.backbone) as passes:
            evaluate(classifier, {"pgd": PGD(1e-9, steps=1)}, [batch], Threat(eps=1e-9), exact=exact, probe=False)
        spent[exact] = passes.forward
    assert spent[True] - spent[False] == 3 * 6, "three images at once are one too many, so each view of the step comes twice"


def test_the_full_gradient_goes_through_the_tuning_and_is_that_of_finite_differences(base, images):
    # A large eps inside AdamW's step would be needed for a visible difference at lr 5e-3; a large lr shows it.
    image = images[:1]
    options = {"views": 5, "lr": 0.05, "select": 0.5}
    slopes = {}
    for gradient in ("stop", "full"):
        classifier = build("tpt", {**options, "gradient": gradient})(base)
        leaf = image.clone().requires_grad_()
        slopes[gradient] = torch.autograd.grad(classifier(leaf)[0, 0], leaf)[0]
    classifier = build("tpt", {**options, "gradient": "full"})(base)
    change = torch.zeros_like(image)
    change[0, 1, 5, 7] = 1e-5  # too small to change the key, which has 8 bits
    with torch.no_grad():
        measured = (classifier(image + change) - classifier(image - change))[0, 0] / 2e-5
    assert_close(float(slopes["full"][0, 1, 5, 7]), float(measured), rtol=2e-2, atol=1e-4)
    difference = (slopes["full"] - slopes["stop"]).norm() / slopes["full"].norm()
    assert 0 < difference < 0.05  # the step is nearly a sign: its derivative is nearly zero


def test_several_steps_are_differentiated_through_the_views_that_they_were_taken_on(base, images):
    """After the second step AdamW's moments mix slopes, so the tuned context moves with the features by itself."""
    method = build("tpt", {"views": 5, "select": 0.6, "steps": 3, "lr": 0.02, "gradient": "full"})
    prompted = method.prepared(base)
    with torch.no_grad():
        features = features_of(prompted, method.parts().views(prompted, images[:1], _base.image_keys(images[:1], 0)))
    leaf = features.clone().requires_grad_()
    (slope,) = torch.autograd.grad(method.tune(prompted, leaf).text[0, 0, 0], leaf)
    way = torch.randn(features.shape, generator=torch.Generator().manual_seed(0)).double()
    ends = [method.tune(prompted, features + step * way).text[0, 0, 0].detach() for step in (1e-5, -1e-5)]
    measured = float(ends[0] - ends[1]) / 2e-5
    assert abs(measured) > 1e-4
    assert float((slope * way).sum()) == pytest.approx(measured, rel=1e-3)


def test_a_learned_context_of_the_base_is_where_tuning_starts(backbone, images):
    vectors = torch.randn(len(CLASSES), 3, backbone.spec.text_width, generator=torch.Generator().manual_seed(3)).double()
    with torch.no_grad():
        for context in (vectors, vectors[0]):
            trained = assemble(backbone, CLASSES, Adaptation(context=Context(context)))
            assert_close(logits("tpt", trained, images, steps=0), trained(images))
            assert not torch.allclose(logits("tpt", trained, images), trained(images))
    with pytest.raises(UsageError, match="learned its own context"):
        build("tpt", {"prompt": "a photo of a"})(trained)


def test_prompts_of_any_words_are_tuned(base, images):
    classifier = build("rtpt", {"views": 6, "prompt": "a satellite photo of a"})(base)
    assert classifier.base.start.shape[0] == 5
    assert classifier(images).isfinite().all()


def test_difftpt_with_nothing_generated_and_no_filter_is_tpt(base, images):
    same = {"similar": 1.0, "select": 0.25}
    assert_close(logits("difftpt", base, images, **same), logits("tpt", base, images, select=0.25))


def test_difftpt_asks_the_generator_and_drops_what_looks_different(base, images):
    calls = []

    def noise(pictures, keys, count):
        calls.append((len(pictures), list(keys), count))
        return torch.rand(len(pictures), count, 3, 32, 32, generator=torch.Generator().manual_seed(0)).to(pictures)

    method = build("difftpt", {"views": 6, "generator": noise, "generated": 4})
    assert method.passes == 10
    with torch.no_grad():
        assert method(base)(images).shape == (3, 5)
    assert calls == [(3, _base.image_keys(images, 0), 4)]
    far = torch.zeros(1, 11, 4)
    far[0, :, 0] = 1.0
    far[0, 7:, 0], far[0, 7:, 1] = 0.0, 9.0  # views 7..10 look different, and are the most confident
    chosen = build("difftpt", {"similar": 0.6, "select": 0.5}).parts().select(far)
    assert chosen.shape == (1, 3)
    assert (chosen < 7).all()
    with pytest.raises(UsageError, match="must return views of shape"):
        build("difftpt", {"views": 3, "generator": lambda x, k, n: x, "generated": 2})(base)(images)
    with pytest.raises(UsageError, match="named by the caller alone"):
        build("difftpt", {"generator": "os:getcwd"})
    with pytest.raises(UsageError, match="cannot find 'nowhere:nothing'"):
        called({"generator": "nowhere:nothing"})
    assert called({"generator": "os:getcwd", "views": 3}) == {"generator": os.getcwd, "views": 3}


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"views": 0}, "views must be a whole number of at least 1"),
        ({"select": 0}, "select must be a number of above 0"),
        ({"steps": -1}, "steps"),
        ({"gradient": "none"}, "gradient must be one of stop, full"),
        ({"augmix": "no"}, "augmix must be true or false"),
        ({"temperature": 0}, "temperature"),
        ({"neighbours": 0}, "neighbours"),
        ({"veiws": 3}, "did you mean 'views'"),
    ],
)
def test_bad_options_fail_at_construction(options, words):
    with pytest.raises(UsageError, match=words):
        build("rtpt", options)


def test_keys_belong_to_the_picture_and_the_seed(images):
    assert _base.image_keys(images, 0) == _base.image_keys(images.float(), 0)
    assert _base.image_keys(images, 0)[::-1] == _base.image_keys(images.flip(0), 0)
    assert set(_base.image_keys(images, 0)).isdisjoint(_base.image_keys(images, 1))
