"""Invariants of A-TPT: maps, zones, limits in which it is R-TPT, total variation, RN50, options."""

import open_clip
import pytest
import torch
import torch.nn.functional as F
from torch.testing import assert_close

from ironclip.backbones import assemble
from ironclip.backbones.adapter import ClipBackbone
from ironclip.backbones.resnet import ResNetTower
from ironclip.backbones.tiny import tiny_backbone
from ironclip.core.errors import UsageError
from ironclip.testtime import _attention_attack, _base, build
from ironclip.testtime._parts import Selected
from ironclip.testtime._random_views import Views, random_views
from ironclip.testtime._relevance import (
    clipped,
    enlarged,
    ingredients,
    relevance_maps,
    rolled_out,
    sharpened,
    total_variation,
    zones,
)

CLASSES = ("cat", "golden_retriever", "school bus", "tram", "oak tree")


@pytest.fixture(scope="module")
def backbone():
    return tiny_backbone(layers=3).double()


@pytest.fixture(scope="module")
def base(backbone):
    with torch.no_grad():
        return assemble(backbone, CLASSES)


@pytest.fixture(scope="module")
def images():
    return (torch.randint(256, (3, 3, 32, 32), generator=torch.Generator().manual_seed(1)) / 255).double()


def maps_of(base, images, **options):
    return relevance_maps(base, images, base.text_features, **options)


@pytest.mark.parametrize("tokens_at", ["block_input", "after_ln1"])
def test_maps_of_a_batch_are_those_of_its_images_and_lie_in_the_unit_interval(base, images, tokens_at):
    whole = maps_of(base, images, tokens_at="after_ln1")
    alone = torch.cat([maps_of(base, image[None], tokens_at="after_ln1") for image in images])
    assert_close(alone, whole, atol=1e-8, rtol=0)
    found = maps_of(base, images, tokens_at=tokens_at)
    assert found.shape == (3, 4, 4)
    assert (found.amin((1, 2)) == 0).all()
    assert (found.amax((1, 2)) > 1 - 1e-3).all()


def test_the_partial_graph_gives_the_gradients_of_the_whole_one(base, images):
    made = ingredients(base, images, base.text_features)
    from ironclip.core.types import Trace

    trace = Trace(attention=True)
    leaf = images.clone().requires_grad_()
    features = F.normalize(base.encode_image(leaf, trace=trace), dim=-1)
    scores = 20.0 * features @ base.text_features.T
    tokens = [trace.inputs[1], trace.inputs[2]]
    whole = torch.autograd.grad(scores.amax(1).sum(), tokens)
    assert_close(made.gradients, torch.stack(whole, dim=1), atol=1e-12, rtol=0)
    assert_close(made.features, features.detach())


def test_the_product_at_the_input_of_the_last_block_is_zero_for_patches(base, images):
    """A patch reaches the score through a norm that hardly sees its scale, so token and gradient are orthogonal."""
    before = ingredients(base, images, base.text_features, tokens_at="block_input").products.abs()
    after = ingredients(base, images, base.text_features, tokens_at="after_ln1").products.abs()
    assert before[:, 1, 1:].mean() < 1e-3 * before[:, 0, 1:].mean()
    assert after[:, 1, 1:].mean() > 1e-2 * after[:, 0, 1:].mean()


def test_maps_do_not_see_the_scale_of_the_logits(images):
    one = tiny_backbone(layers=3).double()
    with torch.no_grad():
        before = maps_of(assemble(one, CLASSES), images, tokens_at="after_ln1")
        from dataclasses import replace

        one._spec = replace(one.spec, logit_scale=3 * one.spec.logit_scale)
        assert_close(maps_of(assemble(one, CLASSES), images, tokens_at="after_ln1"), before, atol=1e-5, rtol=0)


def test_every_ablation_gives_another_map(base, images):
    made = ingredients(base, images, base.text_features, tokens_at="after_ln1")
    kinds = [("token_gradient", "last_two"), ("token_gradient", "last"), ("token_gradient", "previous"),
             ("attention_gradient", "last_two"), ("attention", "last_two")]  # fmt: skip
    found = [clipped(rolled_out(made, rollout=r, layers=layers)[:, 1:].unflatten(1, (4, 4)), 0.99) for r, layers in kinds]
    for at, one in enumerate(found):
        for other in found[at + 1 :]:
            assert not torch.allclose(one, other, atol=1e-3)
    slow = made.attention[0, 1, :, 0].sum(0) / 2
    assert_close(rolled_out(made, rollout="attention")[0], slow)


def test_zones_divide_the_picture_in_the_shares_asked_for():
    pixels = torch.rand(4, 50, 50, generator=torch.Generator().manual_seed(0))
    high, low = zones(pixels, 0.2, 0.5)
    assert not (high & low).any()
    assert_close(high.double().mean((1, 2)), torch.full((4,), 0.2, dtype=torch.double), atol=1e-3, rtol=0)
    assert_close(low.double().mean((1, 2)), torch.full((4,), 0.5, dtype=torch.double), atol=1e-3, rtol=0)
    assert pixels[high].min() > pixels[~high & ~low].max() - 0.05


def test_clipping_and_enlarging():
    maps = torch.rand(2, 7, 7, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    top = clipped(maps, 0.9)
    for one, out in zip(maps, top):
        bound = torch.quantile(one, 0.9)
        slow = one.clamp_max(float(bound))
        assert_close(out, (slow - slow.min()) / (slow.max() - slow.min() + 1e-8))
    assert_close(enlarged(torch.ones(1, 4, 4), 32), torch.ones(1, 32, 32))
    assert_close(sharpened(torch.tensor([[[0.1, 0.2], [0.6, 1.0]]])), torch.tensor([[[0.0, 0.0], [0.25, 1.0]]]))


def views_of(base, images, **options):
    method = build("atpt", {"views": 7, **options})
    keys = _base.image_keys(images, 0)
    with torch.no_grad():
        return method.parts().views(method.prepared(base), images, keys), random_views(images, keys, 6)


def test_limits_in_which_the_views_are_those_of_rtpt(base, images):
    plain, found = views_of(base, images, guidance=False)
    assert_close(plain[:, 1:], found.blended)
    middle, _ = views_of(base, images, variant="code", p_high=0.0, p_low=0.0)  # one pixel is at the lowest quantile
    differ = ((middle[:, 1:] - found.blended).abs().amax(2) > 1e-9).double().mean((-2, -1))
    assert differ.max() <= 0.5
    assert differ.median() < 0.1
    crops, _ = views_of(base, images, variant="code", m_high=1.0, m_low=1.0)
    assert_close(crops[:, 1:], found.base)
    for variant, same in (
        ("code", {"m_of": "augmented", "m_high": 0.2, "m_low": 0.8}),
        ("paper", {"m_of": "base", "m_high": 0.8, "m_low": 0.2}),
    ):
        assert_close(views_of(base, images, variant=variant, **same)[0], views_of(base, images, variant=variant)[0])
    guided, _ = views_of(base, images)
    assert torch.equal(guided[:, 0], images)
    assert not torch.allclose(guided[:, 1:], found.blended)


def test_the_crop_has_its_own_weight_where_the_model_looks_most_and_least():
    method = build("atpt", {"variant": "code", "p_high": 0.25, "p_low": 0.25, "m_high": 0.9, "m_low": 0.1})
    maps = torch.arange(16.0).view(1, 1, 4, 4)
    views = Views(torch.ones(1, 1, 3, 4, 4), torch.zeros(1, 1, 3, 4, 4), torch.full((1, 1), 0.4))
    found = method.mixed(maps, views)[0, 0, 0].flatten()
    assert_close(found, torch.tensor([0.1] * 4 + [0.4] * 8 + [0.9] * 4))


def test_the_views_that_are_surest_after_tuning_vote(base, images):
    method = build("atpt", {"views": 7, "ensemble": "uniform", "vote": 2})
    prompted = method.prepared(base)
    with torch.no_grad():
        pictures = method.parts().views(prompted, images, _base.image_keys(images, 0))
        tuned = method.tuned(prompted, pictures)
    chances = tuned.logits.softmax(-1)
    doubt = -(chances * chances.log()).sum(-1)
    surest = doubt.argsort(1)[:, :2]
    assert_close(method.parts().vote.answer(tuned), torch.stack([tuned.logits[b, surest[b]].mean(0) for b in range(3)]))


def test_without_augmix_guidance_changes_nothing_and_costs_nothing(base, images):
    method = build("atpt", {"views": 7, "augmix": False, "ensemble": "neighbour", "loss_weights": "uniform"})
    assert method.passes == 7
    with torch.no_grad():
        assert_close(method(base)(images), build("rtpt", {"views": 7, "augmix": False})(base)(images))


def test_without_guidance_and_with_neighbour_weights_it_is_rtpt(base, images):
    with torch.no_grad():
        for variant in ("paper", "code"):
            options = {"variant": variant, "ensemble": "neighbour", "guidance": False, "loss_weights": "uniform"}
            method = build("atpt", {"views": 12, **options})
            assert torch.equal(method(base)(images), build("rtpt", {"views": 12})(base)(images))
        guided = build("atpt", {"views": 12, "ensemble": "neighbour"})(base)(images)
        assert not torch.allclose(guided, build("rtpt", {"views": 12})(base)(images))


def test_total_variation():
    maps = torch.rand(2, 5, 5, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    slow = sum(abs(maps[0, i + 1, j] - maps[0, i, j]) for i in range(4) for j in range(5))
    slow += sum(abs(maps[0, i, j + 1] - maps[0, i, j]) for i in range(5) for j in range(4))
    assert_close(total_variation(maps)[0], slow)
    assert_close(total_variation(maps.flip(-1) + 3), total_variation(maps))
    assert total_variation(torch.ones(5, 5)) == 0
    assert_close(build("atpt", {}).smoothness(maps[None], 20)[0], (-total_variation(maps)).softmax(0))
    method = build("atpt", {"variant": "code", "ensemble": "tv"})
    weights = method.smoothness(torch.stack([maps[0], torch.ones(5, 5).double()])[None], 20)
    assert weights[0, 1] > 0.99
    assert_close(weights.sum(1), torch.ones(1, dtype=torch.float64))
    literal = build("atpt", {"tv_resolution": "pixel", "tv_norm": "sum", "tv_tau": 1.0})
    expected = (-total_variation(enlarged(maps, 20))).softmax(0)
    assert_close(literal.smoothness(maps[None], 20)[0], expected)
    mean = build("atpt", {"tv_norm": "mean", "tv_tau": 0.01}).smoothness(maps[None], 20)[0]
    assert_close(mean, (-total_variation(maps) / 40 / 0.01).softmax(0))  # 40 pairs of neighbours in a map of 5 x 5


def test_the_paper_variant_weighs_probabilities_of_the_confident_views(base, images):
    method = build("atpt", {"views": 12, "select": 0.4})
    assert method.passes == 12 + 11 + 4
    prompted, keys = method.prepared(base), _base.image_keys(images, 0)
    with torch.no_grad():
        pictures = method.parts().views(prompted, images, keys)
        tuned = method.tuned(prompted, pictures)
        total = torch.zeros(3, 5, dtype=torch.float64)
        for b in range(3):
            chosen = tuned.selected[b]
            maps = maps_of(prompted, pictures[b, chosen], tokens_at="after_ln1", layer_weights=(1.0, 1.0), clip=None)
            weights = (-total_variation(maps)).softmax(0)
            assert_close(tuned.weights[b], weights, atol=1e-6, rtol=0)
            total[b] = (weights[:, None] * tuned.logits[b, chosen].softmax(-1)).sum(0)
        found = method(base)(images)
    assert_close(found.exp(), total, atol=1e-6, rtol=0)


def test_rn50_uses_grad_cam_and_a_tower_without_attention_is_refused(images):
    torch.manual_seed(0)
    visual = open_clip.model.ModifiedResNet([1, 1, 1, 1], output_dim=16, heads=8, image_size=96, width=8)
    for name, parameter in visual.named_parameters():
        if name.endswith("bn3.weight"):
            torch.nn.init.ones_(parameter)
    text = tiny_backbone()
    backbone = ClipBackbone(
        ResNetTower(visual), text.text, text._tokenizer, name="tiny-rn", logit_scale=20.0, activation="gelu", sha256="rn"
    )
    pictures = torch.rand(2, 3, 96, 96, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        base = assemble(backbone, CLASSES)
        maps = maps_of(base, pictures)
        classifier = build("atpt", {"views": 4})(base)
        found = classifier(pictures)
    through = {each.name: each for each in classifier.method.surrogates(classifier)}["attention"]
    leaf = pictures.clone().requires_grad_()
    (slope,) = torch.autograd.grad(through(leaf)[:, 0].sum(), leaf)
    assert slope.isfinite().all()
    assert (slope.flatten(1).norm(dim=1) > 0).all()
    assert maps.shape == (2, 3, 3)
    assert found.shape == (2, 5)
    leaf = pictures.clone().requires_grad_()
    features = visual.layer4(visual.layer3(visual.layer2(visual.layer1(visual.stem((leaf - backbone.mean) / backbone.std)))))
    features.retain_grad()
    (F.normalize(visual.attnpool(features), dim=-1) @ base.text_features.T).amax(1).sum().backward()
    raw = (features.grad.mean((2, 3), keepdim=True) * features).sum(1).relu().detach()
    assert_close(maps, sharpened(clipped(raw, 0.99)), atol=1e-4, rtol=1e-3)


def test_the_views_of_the_paper_are_the_whole_picture_where_it_matters_and_its_augmix_view_elsewhere(base, images):
    method, keys = build("atpt", {"views": 7}), _base.image_keys(images, 0)
    with torch.no_grad():
        prompted = method.prepared(base)
        found = random_views(images, keys, 6, crop=False)
        for b, image in enumerate(images):
            for view in found.base[b]:
                assert torch.allclose(view, image) or torch.allclose(view, image.flip(-1))
        assert not torch.allclose(found.base[:, 0], found.base[:, 1])  # some are mirrored
        pictures = method.parts().views(prompted, images, keys)[:, 1:]
        maps = method.maps(prompted, found.base)
        high, _ = zones(enlarged(maps.flatten(0, 1), 32), 0.2, 0.8)
        high = high.view(3, 6, 1, 32, 32)
        expected = torch.where(high, 0.2 * found.blended + 0.8 * found.base, 0.8 * found.blended + 0.2 * found.base)
    assert_close(pictures, expected)


def test_the_paper_lowers_the_entropy_that_smooth_maps_weigh_and_the_code_its_mean(base, images):
    logits = torch.randn(1, 3, 5, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    weights = torch.tensor([[0.5, 0.3, 0.2]], dtype=torch.float64)
    entropies = [-(p * p.log()).sum() for p in logits[0].softmax(-1)]
    expected = 0.5 * entropies[0] + 0.3 * entropies[1] + 0.2 * entropies[2]
    assert_close(build("atpt", {}).parts().objective(Selected(logits, logits, weights))[0], expected)
    with torch.no_grad():
        prompted = build("atpt", {}).prepared(base)
        views = build("atpt", {"views": 12}).parts().views(prompted, images, _base.image_keys(images, 0))
        one, other = (
            build("atpt", {"views": 12, "select": 0.5, "tv_tau": 0.01, "loss_weights": how}).tuned(prompted, views)
            for how in ("tv", "uniform")
        )
    assert not torch.allclose(one.context, other.context)


def test_the_full_rollout_is_the_product_over_all_blocks(base, images):
    made = ingredients(base, images, base.text_features, tokens_at="after_ln1", blocks=None)
    assert made.attention.shape[1] == 3
    total = torch.eye(17, dtype=torch.float64).expand(3, 17, 17)
    for layer in range(3):
        products = (made.tokens[:, layer] * made.gradients[:, layer]).sum(-1).relu()
        weights = products / products.sum(-1, keepdim=True)
        hop = torch.eye(17, dtype=torch.float64) + made.attention[:, layer].mean(1) * weights[:, None]
        total = (hop / hop.sum(-1, keepdim=True)) @ total
    assert_close(rolled_out(made, rollout="token_gradient", layers="full"), total[:, 0], atol=1e-6, rtol=0)
    assert not torch.allclose(maps_of(base, images, layers="full"), maps_of(base, images), atol=1e-3)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"variant": "released"}, "variant must be one of paper, code"),
        ({"ensemble": "mean"}, "ensemble must be one of"),
        ({"base": "centre"}, "base must be one of crop, whole"),
        ({"target": "clean"}, "target must be one of mix, augmix"),
        ({"m_of": "views"}, "m_of must be one of"),
        ({"tv_map": "clipped"}, "tv_map must be one of"),
        ({"loss_weights": "vote"}, "loss_weights must be one of"),
        ({"p_high": 0.5, "p_low": 0.6}, "at most 1"),
        ({"m_high": 1.5}, "m_high"),
        ({"layer_weights": [1.0]}, "two numbers"),
        ({"tokens_at": "output"}, "tokens_at"),
        ({"rollout": "none"}, "rollout"),
        ({"vote": 0}, "vote"),
        ({"tv_tau": 0}, "tv_tau"),
        ({"guidance": 1}, "guidance must be true or false"),
    ],
)
def test_bad_options_fail_at_construction(options, words):
    with pytest.raises(UsageError, match=words):
        build("atpt", options)


def test_the_domain_prompt_is_that_of_the_data_set(base):
    assert build("atpt", {"prompt": "domain"}, dataset="dtd").prompt == "a texture photo of a"
    assert build("rtpt", {"prompt": "domain"}, dataset="food101").prompt is None
    assert build("atpt", {"prompt": "domain"}, dataset="dtd")(base).base.start.shape[0] == 5


@pytest.mark.parametrize("rollout", ["token_gradient", "attention_gradient", "attention"])
def test_an_attacker_has_the_same_maps_with_their_slope(base, images, rollout):
    image = images[:1].clone().requires_grad_()
    options = {"tokens_at": "after_ln1", "rollout": rollout, "clip": None}
    found = maps_of(base, image, graph=True, **options)
    assert_close(found.detach(), maps_of(base, images[:1], **options))
    way = torch.randn(found.shape, generator=torch.Generator().manual_seed(0)).double()
    (slope,) = torch.autograd.grad((found * way).sum(), image)
    step = 1e-6 * torch.randn(image.shape, generator=torch.Generator().manual_seed(1)).double()
    ends = [(maps_of(base, images[:1] + sign * step, **options) * way).sum() for sign in (1, -1)]
    assert float((slope * step).sum()) == pytest.approx(float(ends[0] - ends[1]) / 2, rel=1e-4)
    assert not maps_of(base, image, **options).requires_grad


@pytest.mark.parametrize("options", [{}, {"variant": "code"}, {"p_high": 0.1, "p_low": 0.3}])
def test_zones_that_slope_steeply_are_those_of_the_method(base, images, monkeypatch, options):
    method = build("atpt", {"views": 5, **options})
    found = random_views(images, [1, 2, 3], 4)
    maps = method.maps(base, found.base)
    hard, soft = method.mixed(maps, found), _attention_attack.softly_mixed(method, maps, found)
    assert (hard - soft).abs().mean() > 1e-3
    monkeypatch.setattr(_attention_attack, "SLOPE", 1e-9)
    assert ((hard - _attention_attack.softly_mixed(method, maps, found)).abs() < 1e-6).double().mean() > 0.98  # but on the bounds


THROUGH = {  # the option under which only the maps, only the weights, or both depend on where the model looks
    "maps": {"ensemble": "uniform", "loss_weights": "uniform"},
    "weights": {"guidance": False, "tv_tau": 0.05},
    "both": {"tv_tau": 0.05},
}


@pytest.mark.parametrize("options", THROUGH.values(), ids=THROUGH)
def test_the_attention_surrogate_is_differentiated_through_maps_zones_and_weights(base, images, options, monkeypatch):
    def smooth(images, keys, count, **_):
        """Views without operations that count grey levels."""
        crops = random_views(images, keys, count, augmix=False)
        return Views(crops.base, crops.base.flip(-1).square(), 0.3 * crops.keep)

    monkeypatch.setattr(_attention_attack, "random_views", smooth)
    classifier = build("atpt", {"views": 5, **options})(base)
    method = classifier.method
    through = {each.name: each for each in method.surrogates(classifier)}["attention"]
    image = images[:1].clone().requires_grad_()
    (slope,) = torch.autograd.grad(through(image)[0, 0], image)
    step = torch.zeros_like(images[:1])
    step[0, 1, 8:12, 8:12] = 1e-6  # too small to change the key, which has 8 bits
    with torch.no_grad():
        measured = (through(images[:1] + step) - through(images[:1] - step))[0, 0] / 2
    assert float((slope * step).sum()) == pytest.approx(float(measured), rel=1e-3)
    held = build("atpt", {"views": 5, **options})  # as if maps were constants: what the attack on the method itself sees
    held.maps = lambda base, views, graph: method.maps(base, views)
    held.tv_weights = lambda base, views, graph: method.tv_weights(base, views)
    answer = _attention_attack.attended(held, classifier.base, image, _base.image_keys(images[:1], 0))
    (other,) = torch.autograd.grad(answer[0, 0], image)
    assert (slope - other).norm() > 0.01 * slope.norm()


def test_where_nothing_depends_on_the_maps_there_is_no_such_surrogate(base):
    for options, names in (({}, ["views", "selection", "attention", "draws"]), (PLAIN, ["views", "selection", "draws"])):
        classifier = build("atpt", options)(base)
        assert [each.name for each in classifier.method.surrogates(classifier)] == names


PLAIN = {"guidance": False, "ensemble": "neighbour"}
