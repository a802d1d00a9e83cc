"""MTA against values of the released code, and its invariants."""

import pytest
import torch
import torch.nn.functional as F
from torch.testing import assert_close

from ironclip.backbones import assemble
from ironclip.backbones.tiny import tiny_backbone
from ironclip.core.errors import UsageError
from ironclip.testtime import build


def scene(count: int = 2, views: int = 9):
    draw = torch.Generator().manual_seed(0)
    features = F.normalize(torch.randn(count, views, 6, generator=draw, dtype=torch.float64) + 1, dim=-1)
    text = F.normalize(torch.randn(4, 6, generator=draw, dtype=torch.float64), dim=-1)
    return features, text


def test_identical_views_are_their_own_mode():
    features, text = scene()
    same = features[:, :1].expand(-1, 9, -1)
    found = build("mta", {"views": 9}).solve(same, 20 * same @ text.T)
    assert_close(found.mode, features[:, 0])
    assert_close(found.inlierness, torch.full((2, 9), 1 / 9, dtype=torch.float64))


def test_the_mode_sees_neither_the_order_of_views_nor_a_rotation():
    features, text = scene()
    method = build("mta", {"views": 9})
    mode = method.solve(features, 20 * features @ text.T).mode
    order = torch.tensor([0, 5, 3, 8, 1, 2, 7, 4, 6])
    assert_close(method.solve(features[:, order], 20 * features[:, order] @ text.T).mode, mode)
    turn = torch.linalg.qr(torch.randn(6, 6, generator=torch.Generator().manual_seed(1), dtype=torch.float64))[0]
    assert_close(method.solve(features @ turn, 20 * features @ text.T).mode, mode @ turn)
    alone = method.solve(features[1:], 20 * features[1:] @ text.T).mode
    assert_close(alone, mode[1:])


def test_weights_without_agreement_and_infinite_smoothness_are_uniform():
    features, text = scene()
    found = build("mta", {"views": 9, "agreement": 0.0, "smoothness": 1e9}).solve(features, 20 * features @ text.T)
    assert_close(found.inlierness, torch.full((2, 9), 1 / 9, dtype=torch.float64))


def test_no_round_is_the_base_itself():
    backbone = tiny_backbone()
    images = torch.rand(2, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        base = assemble(backbone, ("cat", "dog", "tram"))
        assert_close(build("mta", {"views": 4, "rounds": 0})(base)(images), base(images), atol=1e-5, rtol=0)


@pytest.mark.parametrize("options", [{"views": 1}, {"smoothness": 0}, {"nearest": 0}, {"rounds": -1}, {"inner": 0}])
def test_bad_options_fail_at_construction(options):
    with pytest.raises(UsageError, match=next(iter(options))):
        build("mta", options)
