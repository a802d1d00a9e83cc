"""DBD against values of the released code: views without randomness, selection, shift, score, answers."""

import pytest
import torch
from parity import assert_matches, load_case, template
from reference import reference_backbone
from torch.testing import assert_close

from ironclip.backbones import assemble
from ironclip.core.types import Adaptation
from ironclip.testtime import _changed_views as changed
from ironclip.testtime import build
from ironclip.testtime._base import features_of, plain_head
from ironclip.testtime._prompts import entropy


@pytest.fixture(scope="module", params=[torch.float64, torch.float32], ids=["float64", "float32"])
def world(request):
    case = load_case("dbd", request.param)
    classes = case[1]["constants"]["classes"]
    with torch.no_grad():
        words = Adaptation(templates=(template(case[0]["tokens"], classes),))
        base = assemble(reference_backbone(request.param), classes, words)
        features = features_of(base, case[0]["views"])
        return base, case, features, plain_head(base, "dbd")(features, base.text_features)


def made(case, setting, **options):
    sizes = case[1]["constants"][setting]
    return build("dbd", {"theta": sizes["threshold"], "gain": sizes["amplification"], **options})


def test_features_logits_and_entropies_of_the_views(world):
    _, case, features, logits = world
    assert_matches(case, "features", features)
    assert_matches(case, "view_logits", logits)
    assert_matches(case, "entropy", entropy(logits))
    assert_matches(case, "plain_logits", logits[:, 0])


def test_selection_shift_and_score(world):
    _, case, features, logits = world
    shift = made(case, "default", kept=case[1]["constants"]["kept_views"]).shift(features, logits)
    assert_matches(case, "selected", shift.selected.sort().values)
    assert_matches(case, "mean_shift", shift.mean)
    assert_matches(case, "db_score", shift.score)
    every = made(case, "default", kept=31).shift(features, logits)
    assert_matches(case, "unfiltered.mean_shift", every.mean)
    assert_matches(case, "unfiltered.db_score", every.score)


@pytest.mark.parametrize("setting", ["default", "other"])
def test_answers(world, setting):
    base, case, features, logits = world
    method = made(case, setting)
    shift = method.shift(features, logits)
    length = torch.where(shift.score > method.theta, method.gain, 1.0).to(features)[:, None]
    assert_matches(case, f"{setting}.final_features", features[:, 0] + length * shift.mean)
    assert_matches(case, f"{setting}.logits", method.answer(base, features[:, 0], shift.mean, length))


def test_views_without_randomness_and_noise_from_its_draws():
    case = load_case("dbd", torch.float32)
    views = case[0]["views"]
    images, noise = views[:, 0], case[0]["noise"].permute(0, 1, 4, 2, 3).float()
    coarse = changed.coarse(images)
    wraps = coarse == 1  # the released code turns level 256 into 0 there
    assert_close(torch.where(wraps, 0.0, coarse), views[:, 17:20])
    assert wraps[:, 2].any()
    assert not wraps[:, 0].any()
    off = (changed.jpeg(images) - views[:, 20:23]).abs() * 255
    assert off.mean() < 1  # versions of the codec differ by a level here and there
    noised = (changed.noised(images, noise, case[1]["constants"]["noise_sigma"]) - views[:, 23:29]).abs() * 255
    assert noised.max() < 1.01
    assert (noised > 0.5).double().mean() < 1e-3  # where rounding decides between two levels
    filtered = (changed.filtered(images) - views[:, 29:32]).abs() * 255
    assert filtered.max() < 1.01
    assert (filtered > 0.5).double().mean() < 1e-3
