"""TAPT: the released losses against reference vectors, and the invariants of per-image tuning on trained and new prompts."""

from dataclasses import replace

import pytest
import torch
from torch.testing import assert_close

from ironclip.backbones import assemble
from ironclip.backbones.deep_prompts import AppendedPrompts, RenewedPrompts
from ironclip.backbones.tiny import tiny_backbone
from ironclip.core.errors import UnsupportedEdit, UsageError
from ironclip.core.types import Adaptation, Batch, Context, Trace
from ironclip.testtime import _base, build
from ironclip.testtime._base import features_of
from ironclip.testtime._prompts import marginal_entropy, most_confident, picked
from ironclip.testtime._statistics import Moments, alignment, moments, source_moments
from ironclip.testtime._views import with_views

CLASSES = ("cat", "golden_retriever", "school bus", "tram", "oak tree")
DTYPES = {"float64": torch.float64, "float32": torch.float32}
LAYERS = 3


@pytest.fixture(scope="module")
def backbone():
    return tiny_backbone(layers=LAYERS).double()


@pytest.fixture(scope="module")
def trained(backbone):
    """A base with context, deeper text prompts and image prompts, as a trained defence gives them."""
    draw = torch.Generator().manual_seed(2)
    width = backbone.spec.text_width
    adaptation = Adaptation(
        image_edits=(AppendedPrompts(torch.randn(2, 2, backbone.spec.image_width, generator=draw).double(), LAYERS),),
        context=Context(torch.randn(2, width, generator=draw).double()),
        text_edits=(RenewedPrompts(torch.randn(1, 2, width, generator=draw).double(), 1),),
    )
    with torch.no_grad():
        return assemble(backbone, CLASSES, adaptation)


@pytest.fixture(scope="module")
def images():
    return (torch.randint(256, (3, 3, 32, 32), generator=torch.Generator().manual_seed(1)) / 255).double()


@pytest.fixture(scope="module")
def batch():
    pictures = torch.rand(7, 3, 32, 32, generator=torch.Generator().manual_seed(7))
    return Batch(pictures, torch.arange(7) % 5, torch.arange(7), CLASSES)


def made(base, batch, **options):
    method = build("tapt", {"views": 12, "select": 0.3, **options})
    method.prepare(base, iter([batch]))
    return method


def slopes(method, classifier, images, number=0):
    base = classifier.base
    views = with_views(images, _base.image_keys(images, 0), method.views - 1, augmix=False)
    start = 20.0 * features_of(base, views) @ base.text_features.T
    chosen = picked(views, most_confident(start, 3))
    prompts = tuple(values.expand(len(images), *values.shape) for values in base.start)
    return chosen, method.slopes(base, prompts, chosen, number)


@pytest.mark.parametrize("kind", ["l1", "l2", "mmd", "kl", "js", "multi"])
def test_nothing_is_left_to_align_where_views_have_the_sources_statistics(kind):
    tokens = torch.randn(2, 4, 6, 3, 5, generator=torch.Generator().manual_seed(0), dtype=torch.float64)  # [B, L, V, N, D]
    own = moments(tokens)
    assert float(alignment(kind, Moments(own.mean[:1], own.variance[:1]), Moments(own.mean[0], own.variance[0]))) < 1e-12
    other = alignment(kind, own, Moments(own.mean[0], own.variance[0]))
    assert other[1] > 1e-3


def test_no_step_is_the_base(trained, images, batch):
    with torch.no_grad():
        assert_close(made(trained, batch, steps=0)(trained)(images), trained(images))
        assert_close(made(trained, batch, lr=0.0, weight_decay=0.0)(trained)(images), trained(images))
        assert not torch.allclose(made(trained, batch)(trained)(images), trained(images), atol=1e-3)
        assert_close(made(trained, batch)(trained).base(images), trained(images))  # what a static attack meets


@pytest.mark.parametrize(("design", "steps"), [("vli", 1), ("vli", 2), ("v", 2)])
def test_the_batch_equals_one_at_a_time_from_a_fresh_start(trained, images, batch, design, steps):
    classifier = made(trained, batch, design=design, steps=steps)(trained)
    with torch.no_grad():
        whole = classifier(images)
        classifier(1 - images)
        assert_close(torch.cat([classifier(image[None]) for image in images]), whole)
        assert_close(classifier(images.flip(0)).flip(0), whole)


def test_the_tuned_prompts_are_those_of_the_design(trained, images, batch):
    for design, count in (("vli", 3), ("v", 1)):
        method = made(trained, batch, design=design)
        classifier = method(trained)
        chosen, _ = slopes(method, classifier, images)
        tuned = method.tune(classifier.base, chosen)
        assert len(tuned) == count
        for values, start in zip(tuned, classifier.base.start, strict=True):
            moved = (values - start * (1 - 5e-4 * 0.01)).abs()
            assert_close(moved, torch.full_like(moved, 5e-4), rtol=1e-2, atol=0)  # AdamW's first step is nearly a sign


def test_slopes_are_those_of_one_plain_pass_over_all_views(trained, images, batch):
    """Two passes and shared graphs against one differentiable pass over all views of one image, prompts as plain leaves."""
    method = made(trained, batch)
    classifier = method(trained)
    found = slopes(method, classifier, images)[1]
    leaves = [values.clone().requires_grad_() for values in classifier.base.start]
    twin = replace(
        trained.adaptation,
        image_edits=(AppendedPrompts(leaves[0], LAYERS),),
        context=Context(leaves[1]),
        text_edits=(RenewedPrompts(leaves[2], 1),),
    )
    plain = assemble(trained.backbone, CLASSES, twin)
    views = with_views(images, _base.image_keys(images, 0), 11, augmix=False)[1]
    trace = Trace()
    features = plain.encode_image(views, trace=trace)
    logits = 20.0 * torch.nn.functional.normalize(features, dim=1) @ plain.text_features.T
    selected = most_confident(logits.detach()[None], 3)[0]
    loss, used_layers = marginal_entropy(logits[selected]), range(LAYERS - 1)
    for layer in used_layers:
        tokens = trace.inputs[layer][selected]
        for source in (method.statistics.adversarial, method.statistics.clean):
            mean, spread = tokens.mean(0), tokens.var(0, correction=0)
            gap = (mean - source.mean[layer]).abs().mean() / 2 + (spread - source.variance[layer]).abs().mean() / 2
            loss = loss + 100 / LAYERS * gap / 2
    for ours, slope in zip(found, torch.autograd.grad(loss, leaves), strict=True):
        assert_close(ours[1], slope, atol=1e-9, rtol=1e-6)


def test_later_steps_use_each_images_own_text(trained, images, batch):
    method = made(trained, batch, steps=2)
    classifier = method(trained)
    first, again = slopes(method, classifier, images, 0)[1], slopes(method, classifier, images, 1)[1]
    for shared, own in zip(first, again, strict=True):  # at the start both ways are the same
        assert_close(shared, own)


def test_the_share_of_the_adversarial_statistics_has_its_limits(trained, batch):
    views = moments(torch.randn(1, 2, 6, 19, 32, generator=torch.Generator().manual_seed(0), dtype=torch.float64))
    distance = {gamma: float(made(trained, batch, gamma=gamma, source_eps=0.1).alignment(views, LAYERS)) for gamma in (0, 0.5, 1)}
    source = made(trained, batch, source_eps=0.1).statistics
    for gamma, kept in ((0, source.clean), (1, source.adversarial)):
        expected = 100 / 3 * float(alignment("l1", views, kept.like(views.mean, range(2))))
        assert distance[gamma] == pytest.approx(expected)
    assert distance[0.5] == pytest.approx((distance[0] + distance[1]) / 2)
    assert distance[0] != pytest.approx(distance[1])


def test_source_statistics_are_those_of_all_pictures_and_of_their_attack(trained, batch):
    trace = Trace()
    with torch.no_grad():
        trained.encode_image(batch.images.double(), trace=trace)
    tokens = torch.stack([trace.inputs[layer] for layer in range(LAYERS)])
    parts = source_moments(trained, batch.images.double().split(3))
    assert_close(parts.mean, tokens.mean(1).float())
    assert_close(parts.variance, tokens.var(1).float())
    still = made(trained, batch, source_eps=0).statistics
    assert_close(still.adversarial.mean, still.clean.mean)
    method = made(trained, batch, source_eps=0.1)
    adv = method.attacked(method.prepared(trained), batch)
    assert 0.05 < (adv - batch.images).abs().max() <= 0.1 + 1e-6
    with torch.no_grad():
        loss = [torch.nn.functional.cross_entropy(trained(x.double()), batch.labels) for x in (batch.images, adv)]
    assert loss[1] > loss[0]
    assert_close(method.statistics.adversarial.mean, source_moments(trained, [adv]).mean)
    again = made(trained, batch, source_eps=0.1).statistics
    assert torch.equal(again.adversarial.mean, method.statistics.adversarial.mean)


def test_pictures_of_other_classes_are_attacked_among_their_own(trained, batch):
    other = replace(batch, classes=("red", "green", "blue", "white", "black"))
    assert made(trained, other, source_eps=0.1).statistics.clean.mean.shape == (LAYERS, 19, 32)


def test_statistics_are_stored_and_used_from_a_file(trained, images, batch, tmp_path):
    method = made(trained, batch)
    method.statistics.save(tmp_path / "source.safetensors")
    stored = build("tapt", {"views": 12, "select": 0.3, "source": str(tmp_path / "source.safetensors")})

    def never():
        raise AssertionError("images were asked for")
        yield

    stored.prepare(trained, never())
    with torch.no_grad():
        assert torch.equal(stored(trained)(images), method(trained)(images))
    (tmp_path / "other").write_text("no")
    for name in ("missing", "other"):
        with pytest.raises(UsageError, match="no source statistics"):
            build("tapt", {"source": str(tmp_path / name)})


def test_without_statistics_it_says_so_or_tunes_on_the_entropy_alone(trained, backbone, images, batch):
    with pytest.raises(UsageError, match="needs source statistics"):
        build("tapt")(trained)
    alone = {"views": 12, "select": 0.3}
    entropy = build("tapt", {**alone, "source": "none"})(trained)
    with torch.no_grad():
        assert_close(build("tapt", {**alone, "weight": 0.0})(trained)(images), entropy(images))
        assert not torch.allclose(made(trained, batch)(trained)(images), entropy(images))
        bare = assemble(backbone, CLASSES)
    three = made(bare, batch, length=3)
    with pytest.raises(UsageError, match="fit one backbone and one set of prompts"):
        build("tapt", {"source": three.statistics})(trained)


def test_a_base_without_deep_prompts_gets_new_ones(backbone, images, batch):
    with torch.no_grad():
        bare = assemble(backbone, CLASSES)
        classifier = made(bare, batch, length=3, depth=2)(bare)
        assert [tuple(values.shape) for values in classifier.base.start] == [(2, 3, 32), (4, 32)]
        assert_close(
            classifier.base.text_features, assemble(backbone, CLASSES, Adaptation(templates=("a photo of a {}.",))).text_features
        )
        assert torch.equal(classifier.base.start[0], build("tapt").prepared(bare).start[0]) is False
        assert_close(classifier.base.start[0], build("tapt", {"length": 3, "depth": 2}).prepared(bare).start[0])
        only = made(bare, batch, design="v")(bare)
        assert len(only.base.start) == 1
        assert_close(only.base.text_features, bare.text_features)
    with pytest.raises(UsageError, match="prompt depth"):
        build("tapt", {"depth": 4}).prepared(bare)


def test_tokens_that_are_no_deep_prompts_are_refused(backbone):
    class Other:
        appends = True

        def __call__(self, layer, tokens):
            return tokens

    with torch.no_grad():
        base = assemble(backbone, CLASSES, Adaptation(image_edits=(Other(),)))
    with pytest.raises(UnsupportedEdit, match="no deep prompts"):
        build("tapt", {"source": "none"})(base)


def test_a_few_views_leave_one(trained, images, batch):
    with torch.no_grad():
        assert made(trained, batch, views=4, select=0.1)(trained)(images).isfinite().all()


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"design": "vlj"}, "design must be one of vli, v"),
        ({"align": "l3"}, "align must be one of l1"),
        ({"gamma": 1.5}, "gamma must be a number of at least 0 and at most 1"),
        ({"steps": -1}, "steps"),
        ({"select": 0}, "select"),
        ({"sigma": 0}, "sigma"),
        ({"source": 3}, "source must be train, none"),
        ({"align_from": 2, "align_to": 2}, "align_to"),
        ({"skip_last": 1}, "skip_last must be true or false"),
        ({"leng": 3}, "did you mean 'length'"),
    ],
)
def test_bad_options_fail_at_construction(options, words):
    with pytest.raises(UsageError, match=words):
        build("tapt", options)


def test_layers_that_the_tower_does_not_have_are_refused(trained, batch):
    for options in ({"align_to": 9}, {"align_from": 2, "align_to": 3}):
        with pytest.raises(UsageError, match="not in a tower of 3 layers"):
            made(trained, batch, **options)(trained)
    assert list(build("tapt", {}).layers(12)) == list(range(8))
    assert list(build("tapt", {"skip_last": False}).layers(12)) == list(range(9))
