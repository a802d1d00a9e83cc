"""CSR against values of the released code: filters, gate, rectification by both modules, first slope."""

import pytest
import torch
import torch.nn.functional as F
from parity import assert_matches, load_case, notes_of
from reference import reference_backbone

from ironclip.backbones import assemble
from ironclip.core.tensors import value_and_slope
from ironclip.testtime import build
from ironclip.testtime.csr import SIDE

FILTERS, RUNS = tuple(notes_of("csr")["constants"].get("filters", ())), ("run", "long")


@pytest.fixture(scope="module", params=[torch.float64, torch.float32], ids=["float64", "float32"])
def world(request):
    case = load_case("csr", request.param)
    with torch.no_grad():
        return assemble(reference_backbone(request.param), case[1]["constants"]["classes"]), case


def filtered(case, kind="gaussian", **options):
    sizes = case[1]["constants"]["filters"][kind]
    radius = sizes["lpf_radius"] * SIDE / case[0]["images"].shape[-1]
    return build("csr", {"filter": kind, "radius": radius, "order": sizes.get("butterworth_order", 2), **options})


def stepping(case, run, fewer=0, **options):
    notes = case[1]["constants"]
    sizes = {"eps": notes[run]["eps"], "step_size": notes[run]["alpha"], "steps": notes[run]["steps"] - fewer}
    return filtered(case, repulsion=notes["repulsion_weight"], tau=notes["detect_threshold"], **sizes, **options)


@pytest.mark.parametrize("kind", FILTERS)
def test_low_pass_copies_and_their_consistency(world, kind):
    base, case = world
    images, method = case[0]["images"], filtered(case, kind)
    assert_matches(case, f"{kind}.low_pass", method.low_pass(images))
    with torch.no_grad():
        assert_matches(case, f"{kind}.anchor", F.normalize(base.encode_image(method.low_pass(images)), dim=-1))
        assert_matches(case, "features", F.normalize(base.encode_image(images), dim=-1))
        assert_matches(case, f"{kind}.consistency", method.consistency(base, images))


@pytest.mark.parametrize("run", RUNS)
def test_the_gate(world, run):
    base, case = world
    method = stepping(case, run)
    with torch.no_grad():
        assert_matches(case, f"{run}.flagged", method.consistency(base, case[0]["images"]) < method.tau)


def test_the_first_slope(world):
    base, case = world
    images, method = case[0]["images"], filtered(case)
    anchor, own = (F.normalize(base.encode_image(x), dim=-1).detach() for x in (method.low_pass(images), images))
    slope = value_and_slope(lambda y: method.score(base, y, anchor, own), lambda values: values, images)[2]
    assert_matches(case, "first_gradient", slope)


@pytest.mark.parametrize("run", RUNS)
def test_rectified_images_of_both_modules(world, run):
    base, case = world
    images = case[0]["images"]
    if base.backbone.dtype != torch.float64:
        pytest.skip("signs of slopes are compared in float64")
    flagged = case[0][f"{run}.flagged"].bool()
    for suffix, fewer in (("", 0), ("_fast", 1)):
        found = stepping(case, run, fewer).rectified(base, images)
        assert_matches(case, f"{run}.all_rectified{suffix}", found)
        assert_matches(case, f"{run}.rectified{suffix}", torch.where(flagged[:, None, None, None], found, images))


@pytest.mark.parametrize("run", RUNS)
def test_best_score_and_answer(world, run):
    base, case = world
    if base.backbone.dtype != torch.float64:
        pytest.skip("signs of slopes are compared in float64")
    images, method = case[0]["images"], stepping(case, run)
    anchor, own = (F.normalize(base.encode_image(x), dim=-1).detach() for x in (method.low_pass(images), images))
    score = method.score(base, method.rectified(base, images), anchor, own)
    flagged = case[0][f"{run}.flagged"].bool()
    stored = case[0][f"{run}.best_score"]
    assert_matches(case, f"{run}.best_score", score if len(stored) == len(score) else score[flagged])
