"""NAC against values of the released code: relative shift, gate, iterates, weights, the counterattack and its ablation."""

import pytest
import torch
from parity import assert_attack_matches, assert_matches, comparable, load_case, notes_of
from reference import reference_backbone

from ironclip.backbones import assemble
from ironclip.testtime import build

STORED = notes_of("nac")["tensors"]
RUNS = [name.removesuffix(".steps") for name in STORED if name.endswith(".steps")]
ALWAYS, NEVER = 1e9, 0.0


@pytest.fixture(scope="module", params=[torch.float64, torch.float32], ids=["float64", "float32"])
def world(request):
    case = load_case("nac", request.param)
    with torch.no_grad():
        return assemble(reference_backbone(request.param), notes_of("clip")["constants"]["classes"]), case


def parts(world):
    base, case = world
    return base, case, *(case[0][name].to(base.backbone.dtype) for name in ("images", "noise"))


def made(case, run, tau=None, **options):
    constants = case[1]["constants"]
    return build("nac", {**constants[run], "tau": constants["tau_threshold"] if tau is None else tau, **options})


def test_relative_shift_and_gate(world):
    base, case, images, noise = parts(world)
    method = made(case, "default")
    shift = method.shift(base, images, method.start(images, noise))
    assert_matches(case, "tau", shift)
    assert_matches(case, "gate_open", shift < method.tau)


def test_an_image_that_does_not_pass_the_gate_keeps_the_noise(world):
    base, case, images, noise = parts(world)
    assert_attack_matches(case, "default_never.delta", made(case, "default", NEVER).counter(base, images, noise))


@pytest.mark.parametrize("run", RUNS)
def test_iterates_and_counterattack(world, run):
    base, case, images, noise = parts(world)
    if not comparable(case, f"{run}.delta", base.backbone.dtype):
        pytest.skip("signs of slopes are compared in float64")
    method = made(case, run)
    found = method.iterates(base, images, method.start(images, noise))
    assert_matches(case, f"{run}.steps", found.transpose(0, 1))
    assert_matches(case, f"{run}.delta", method.counter(base, images, noise))
    assert_matches(case, f"{run}_always.delta", made(case, run, ALWAYS).counter(base, images, noise))
    plain = made(case, run, ALWAYS, momentum=0.0).counter(base, images, noise)
    assert_matches(case, f"{run}.without_momentum", plain)
