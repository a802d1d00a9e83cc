"""CLIPure against values of the released code, one image at a time: both loops, iterates, logits, the vanishing gradient."""

import math

import pytest
import torch
import torch.nn.functional as F
from parity import assert_matches, comparable, load_case, notes_of, template
from reference import reference_backbone

from ironclip.backbones import assemble
from ironclip.core.types import Adaptation
from ironclip.testtime import build, clipure
from ironclip.testtime.clipure import Blank, kept, towards, turned

VARIANTS = tuple(notes_of("clipure")["constants"].get("variants", ()))


@pytest.fixture(scope="module", params=[torch.float64, torch.float32], ids=["float64", "float32"])
def world(request):
    case = load_case("clipure", request.param)
    classes = case[1]["constants"]["classes"]
    with torch.no_grad():
        words = Adaptation(templates=(template(case[0]["tokens"], classes),))
        base = assemble(reference_backbone(request.param), classes, words)
        return Blank(base, F.normalize(case[0]["templates"], dim=-1).mean(0)), case


def made(case, variant, seen=None):
    sizes = case[1]["constants"]["variants"][variant]
    return build("clipure", {"steps": sizes["iterations"], "step": sizes["step"]})


def test_templates_and_features(world):
    base, case = world
    assert_matches(case, "template_mean", base.blank)
    with torch.no_grad():
        assert_matches(case, "image_features", build("clipure").unit(base, case[0]["images"]))


@pytest.mark.parametrize("variant", VARIANTS)
def test_purified_embeddings_iterates_and_logits(world, variant):
    base, case = world
    if not comparable(case, f"{variant}.single", base.backbone.dtype):
        pytest.skip("steps of 88 degrees are compared in float64")
    method, seen = made(case, variant), []
    given = F.normalize(case[0]["given_embeddings"], dim=-1)
    found = turned(given, lambda at, _: towards(at, base.blank), method.steps, method.step, seen=seen)
    assert_matches(case, f"{variant}.single", found)
    assert_matches(case, f"{variant}.trace_single", torch.stack(seen, dim=1))
    with torch.no_grad():
        assert_matches(case, f"{variant}.images_single", method.purified(base, method.unit(base, case[0]["images"]), ()))
        assert_matches(case, f"{variant}.logits", method.logits(base, case[0]["images"], ()))


@pytest.mark.parametrize("variant", [v for v in VARIANTS if f"{v}.gradient_norm" in notes_of("clipure")["tensors"]])
def test_the_gradient_at_the_encoder(world, variant):
    """Of the released constants it vanishes: an attack through them follows rounding noise."""
    base, case = world
    if not comparable(case, f"{variant}.gradient_norm", base.backbone.dtype):
        pytest.skip("what is left of the gradient is compared in float64")
    method = made(case, variant)
    raw = base.encode_image(case[0]["images"]).detach().requires_grad_()
    logits = method.answer(base, method.purified(base, F.normalize(raw, dim=-1), ()))
    labels = torch.arange(len(raw)) % len(base.classes)
    (slope,) = torch.autograd.grad(F.cross_entropy(logits, labels, reduction="sum"), raw)
    assert_matches(case, f"{variant}.gradient_norm", slope.norm(dim=1))
    if f"{variant}.gradient" in case[0]:
        assert_matches(case, f"{variant}.gradient", slope)


def test_the_generative_loop_with_a_given_prior(world, monkeypatch):
    base, case = world
    tensors, sizes = case[0], case[1]["constants"]["generative"]
    times = torch.tensor(sizes["times"])
    assert_matches(case, "alphas_cumprod", kept(times).to(base.backbone.dtype))
    assert math.sqrt(tensors["given_embeddings"].shape[1]) == pytest.approx(sizes["embedding_scale"])

    def prior(noisy, time):
        return noisy @ tensors["denoiser_weight"].T + tensors["denoiser_bias"] + tensors["denoiser_time"] * time[:, None] / 1000

    given = F.normalize(tensors["given_embeddings"], dim=-1)
    drawn = times.expand(len(given), -1), tensors["denoiser_noise"].transpose(0, 1)
    monkeypatch.setattr(clipure, "draws_of", lambda keys, steps, like: drawn)
    method = build("clipure", {"variant": "generative", "prior": prior, "steps": sizes["iterations"], "step": sizes["step"]})
    assert_matches(case, "generative.single", method.purified(base, given, ()))
