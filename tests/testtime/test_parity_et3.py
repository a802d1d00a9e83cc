"""ET3 against values of the released code: energy, its gradient, three settings, iterates, proxy labels."""

import pytest
import torch
import torch.nn.functional as F
from parity import assert_matches, load_case, notes_of, template
from reference import reference_backbone

from ironclip.backbones import assemble
from ironclip.core.tensors import norm, value_and_slope
from ironclip.core.types import Adaptation
from ironclip.testtime import build
from ironclip.testtime.et3 import SCALE, SIDE, Energetic

VARIANTS = tuple(notes_of("et3")["constants"].get("variants", ()))


@pytest.fixture(scope="module", params=[torch.float64, torch.float32], ids=["float64", "float32"])
def world(request):
    case = load_case("et3", request.param)
    classes = case[1]["constants"]["classes"]
    with torch.no_grad():
        words = Adaptation(templates=(template(case[0]["tokens"], classes),))
        return assemble(reference_backbone(request.param), classes, words), case


def made(case, variant):
    sizes = case[1]["constants"]["variants"][variant]
    alpha = sizes["alpha"] * SIDE / case[0]["images"].shape[-1]
    given = {"alpha": alpha, "eps": sizes["eps"], "steps": sizes["iterations"], "temperature": sizes["temperature"]}
    return build("et3", given)


def test_energy_and_its_gradient(world):
    base, case = world
    images, method = case[0]["images"], made(case, "default")
    assert_matches(case, "text_features", base.text_features)
    _, values, slope = value_and_slope(lambda x: method.energy(base, x), lambda energy: energy, images)
    assert_matches(case, "energy", values)
    assert_matches(case, "energy_gradient", slope)
    assert_matches(case, "energy_gradient_norm", norm(slope, "l2").view_as(case[0]["energy_gradient_norm"]))


@pytest.mark.parametrize("variant", VARIANTS)
def test_transformed_images_their_energy_and_logits(world, variant):
    base, case = world
    method = made(case, variant)
    found = method.transformed(base, case[0]["images"])
    assert_matches(case, f"{variant}.transformed", found[-1])
    with torch.no_grad():
        assert_matches(case, f"{variant}.energy", method.energy(base, found[-1]))
        assert_matches(case, f"{variant}.logits", SCALE * base(found[-1]) / base.backbone.spec.logit_scale)
    if f"{variant}.steps" in case[0]:
        assert_matches(case, f"{variant}.steps", (found - found[0]).transpose(0, 1))


def test_the_energy_of_other_labels(world):
    base, case = world
    proxied = Energetic(base, F.normalize(case[0]["proxy_text"], dim=-1))
    method = made(case, "default")
    moved = method.transformed(proxied, case[0]["images"])[-1]
    with torch.no_grad():
        assert_matches(case, "proxy.energy", method.energy(proxied, case[0]["images"]))
        assert_matches(case, "proxy.transformed", moved)
        assert_matches(case, "proxy.logits", SCALE * base(moved) / base.backbone.spec.logit_scale)
