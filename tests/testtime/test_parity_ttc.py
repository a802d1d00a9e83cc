"""TTC against values of the released code: features, gate, iterates and the weighted counterattack."""

import pytest
import torch
from parity import assert_matches, load_case
from reference import reference_backbone

from ironclip.backbones import assemble
from ironclip.testtime import build


@pytest.fixture(scope="module", params=[torch.float64, torch.float32], ids=["float64", "float32"])
def world(request):
    backbone = reference_backbone(request.param)
    case = load_case("ttc", request.param)
    with torch.no_grad():
        return assemble(backbone, ("cat", "school bus")), case


def made(case, kind):
    sizes = dict(case[1]["constants"][kind])
    if "tau_threshold" in sizes:
        sizes["tau"] = sizes.pop("tau_threshold")
    return build("ttc", sizes)


def test_features_and_relative_shift(world):
    base, case = world
    images, noise = (case[0][name].to(base.backbone.dtype) for name in ("images", "noise"))
    method = made(case, "default")
    assert_matches(case, "image_features", base.encode_image(images))
    assert_matches(case, "tau", method.shift(base, images, (images + method.eps * noise).clamp(0, 1)))


@pytest.mark.parametrize("kind", ["default", "strong", "never", "noise_only"])
def test_the_counterattack(world, kind):
    base, case = world
    images, noise = (case[0][name].to(base.backbone.dtype) for name in ("images", "noise"))
    delta = made(case, kind).counter(base, images, noise)
    if base.backbone.dtype == torch.float64:
        assert_matches(case, f"{kind}.delta", delta)
    else:  # the sign of a slope near zero is decided by rounding
        off = (delta - case[0][f"{kind}.delta"]).abs() > 1e-6
        assert off.double().mean() < 2e-3


def test_iterates(world):
    base, case = world
    images, noise = (case[0][name].to(base.backbone.dtype) for name in ("images", "noise"))
    method = made(case, "default")
    if base.backbone.dtype == torch.float64:
        iterates = method.iterates(base, images, (images + method.eps * noise).clamp(0, 1))
        assert_matches(case, "default.steps", iterates.transpose(0, 1))
