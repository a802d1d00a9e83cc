"""TTC against values of the released code: features, gate, iterates and the weighted counterattack."""

import pytest
import torch
from parity import assert_attack_matches, assert_matches, load_case, notes_of
from reference import reference_backbone

from ironclip.backbones import assemble
from ironclip.testtime import build

STORED = notes_of("ttc")["tensors"]
RUNS = [name.removesuffix(".delta") for name in STORED if name.endswith(".delta")]
ITERATED = [name.removesuffix(".steps") for name in STORED if name.endswith(".steps")]


@pytest.fixture(scope="module", params=[torch.float64, torch.float32], ids=["float64", "float32"])
def world(request):
    backbone = reference_backbone(request.param)
    case = load_case("ttc", request.param)
    with torch.no_grad():
        return assemble(backbone, notes_of("clip")["constants"]["classes"]), case  # their scores are never looked at


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


@pytest.mark.parametrize("kind", RUNS)
def test_the_counterattack(world, kind):
    base, case = world
    images, noise = (case[0][name].to(base.backbone.dtype) for name in ("images", "noise"))
    delta = made(case, kind).counter(base, images, noise)
    assert_attack_matches(case, f"{kind}.delta", delta)


@pytest.mark.parametrize("kind", ITERATED)
def test_iterates(world, kind):
    base, case = world
    images, noise = (case[0][name].to(base.backbone.dtype) for name in ("images", "noise"))
    method = made(case, kind)
    iterates = method.iterates(base, images, (images + method.eps * noise).clamp(0, 1))
    assert_attack_matches(case, f"{kind}.steps", iterates.transpose(0, 1))
