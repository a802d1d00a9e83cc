"""MTA against values of the released code: affinity, bandwidths, weights, mode and logits."""

import pytest
import torch
from parity import assert_matches, load_case
from reference import reference_backbone

from ironclip.backbones import assemble
from ironclip.testtime import build
from ironclip.testtime._base import features_of


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=["float64", "float32"])
def test_the_stored_mode(dtype):
    backbone = reference_backbone(dtype)
    case = load_case("mta", dtype)
    method = build("mta", {"views": 24})
    with torch.no_grad():
        base = assemble(backbone, case[1]["constants"]["classes"])
        features = features_of(base, case[0]["views"].to(dtype)[None])
        assert_matches(case, "image_features", features[0])
        assert_matches(case, "text_features", base.text_features)
        found = method.solve(features, base.head.logit_scale * features @ base.text_features.T)
    assert_matches(case, "affinity", found.affinity[0])
    assert_matches(case, "bandwidth", (found.bandwidth[0] / 2).sqrt())
    assert_matches(case, "inlierness", found.inlierness[0])
    assert_matches(case, "mode", found.mode[0])
    assert_matches(case, "logits", base.head.logit_scale * found.mode[0] @ base.text_features.T)
