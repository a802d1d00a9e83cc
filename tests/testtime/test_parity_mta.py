"""MTA against values of the released code: affinity, bandwidths, weights, mode and logits."""

import pytest
import torch
from parity import assert_matches, load_case, template
from reference import reference_backbone

from ironclip.backbones import assemble
from ironclip.core.types import Adaptation
from ironclip.testtime import build, mta
from ironclip.testtime._base import features_of


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=["float64", "float32"])
def test_the_stored_mode(monkeypatch, dtype):
    backbone = reference_backbone(dtype)
    case = load_case("mta", dtype)
    tensors, sizes = case[0], case[1]["constants"]
    method = build(
        "mta",
        {
            "views": sizes["views"], "agreement": sizes["lambda_q"], "smoothness": sizes["lambda_y"],
            "nearest": (sizes["neighbours"] + 0.5) / (sizes["views"] - 1),  # a share, rounded down
            "rounds": sizes["outer_iterations"], "inner": sizes["inner_iterations"],
        },
    )  # fmt: skip
    monkeypatch.setattr(mta, "TOLERANCE", sizes["tolerance"])
    prompt = Adaptation(templates=(template(tensors["tokens"], sizes["classes"]),))
    with torch.no_grad():
        base = assemble(backbone, sizes["classes"], prompt)
        features = features_of(base, tensors["views"].to(dtype)[None])
        assert_matches(case, "image_features", features[0])
        assert_matches(case, "text_features", base.text_features)
        found = method.solve(features, base.head.logit_scale * features @ base.text_features.T)
    assert_matches(case, "affinity", found.affinity[0])
    assert_matches(case, "bandwidth", (found.bandwidth[0] / 2).sqrt())
    assert_matches(case, "inlierness", found.inlierness[0])
    assert_matches(case, "mode", found.mode[0])
    assert_matches(case, "logits", base.head.logit_scale * found.mode[0] @ base.text_features.T)
