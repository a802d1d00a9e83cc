"""DBD: its equations as a loop, its limits, its calibrated threshold, its views, and what an attacker differentiates."""

import pytest
import torch
import torch.nn.functional as F
from torch.testing import assert_close

from ironclip.core.errors import UsageError
from ironclip.core.types import Batch
from ironclip.testtime import _changed_views as changed
from ironclip.testtime import build
from ironclip.testtime._base import image_keys

FEW = {"crops": 2, "noisy": 1, "kept": 4}


def slow(features, logits, kept, theta, gain):
    """(h, score) of one image from features [V, E] and logits [V, K], written out."""
    entropies = []
    for z in logits[1:]:
        p = z.exp() / z.exp().sum()
        entropies.append(float(-(p * p.log()).sum()))
    order = sorted(range(len(entropies)), key=lambda v: entropies[v])[:kept]
    shifts = [features[1 + v] - features[0] for v in order]
    mean = sum(shifts) / kept
    score = float(sum((d @ mean) / ((d.norm() + 1e-8) * (mean.norm() + 1e-8)) for d in shifts) / kept)
    return features[0] + (gain if score > theta else 1) * mean, score


@pytest.mark.parametrize("theta", [-1.0, 0.4, 1.0])
def test_the_shift_is_the_loop_written_out(base, theta):
    draw = torch.Generator().manual_seed(4)
    features = F.normalize(torch.randn(3, 9, 16, generator=draw, dtype=torch.float64), dim=-1)
    logits = 3 * torch.randn(3, 9, 4, generator=draw, dtype=torch.float64)
    shift = build("dbd", FEW).shift(features, logits)
    for i in range(3):
        h, score = slow(features[i], logits[i], 4, theta, 2.5)
        assert float(shift.score[i]) == pytest.approx(score)
        assert_close(features[i, 0] + (2.5 if shift.score[i] > theta else 1) * shift.mean[i], h)


def test_limits(base, images):
    keys = image_keys(images, 0)
    with torch.no_grad():
        mean = build("dbd", {**FEW, "gain": 1.0})(base)(images)
        assert_close(build("dbd", {**FEW, "theta": 1.5})(base)(images), mean)
        assert_close(build("dbd", FEW).plain(base, images, keys), mean)
        assert not torch.allclose(build("dbd", {**FEW, "theta": -1.5})(base)(images), mean, atol=1e-3)
    same = F.normalize(torch.randn(2, 1, 16), dim=-1).expand(2, 9, 16)
    still = build("dbd", FEW).shift(same, torch.randn(2, 9, 4))
    assert still.score.abs().max() == 0
    assert still.mean.abs().max() < 1e-6


def test_views_belong_to_the_image_and_carry_a_gradient(images):
    keys = [3, 4, 5]
    whole = changed.changed_views(images, keys, crops=2, noisy=2, sigma=0.1)
    assert whole.shape == (3, 2 + 2 + 9, 3, 32, 32)
    assert_close(changed.changed_views(images[1:2], keys[1:2], crops=2, noisy=2, sigma=0.1), whole[1:2])
    assert whole.min() >= 0
    assert whole.max() <= 1
    leaf = images.clone().requires_grad_()
    for part in (changed.coarse(leaf), changed.jpeg(leaf), changed.filtered(leaf), changed.noised(leaf, whole[:, :2], 0.1)):
        assert (torch.autograd.grad(part.mean((0, 2, 3, 4)).sum(), leaf)[0].flatten(1).abs().amax(1) > 0).all()
    flat = torch.full((1, 3, 32, 32), 0.4)
    assert_close(changed.filtered(flat), flat[:, None].expand(1, 3, 3, 32, 32), atol=1e-6, rtol=0)


def test_a_threshold_is_calibrated_on_clean_pictures_and_the_record_is_told(base):
    pictures = torch.rand(8, 3, 32, 32, generator=torch.Generator().manual_seed(3))
    method = build("dbd", {**FEW, "theta": None, "stretched": 0.25})
    with pytest.raises(UsageError, match="state theta"):
        method(base)
    method.prepare(base, iter([Batch(pictures, torch.zeros(8).long(), torch.arange(8), base.classes)]))
    with torch.no_grad():
        assert int((method.found(base, pictures, image_keys(pictures, 0))[1].score > method.theta).sum()) == 2
    assert "25 % of 8 clean training images" in method.notes[0]


def test_the_sloping_switch_is_the_method_where_it_is_steep(base, images):
    keys = image_keys(images, 0)
    with torch.no_grad():
        scores = build("dbd", FEW).found(base, images, keys)[1].score.sort().values
        method = build("dbd", {**FEW, "theta": float(scores[:2].mean()), "softness": 1e-7})
        exact = method(base)(images).log_softmax(1)
        assert_close(method.switched(base, images, keys), exact, atol=1e-4, rtol=1e-4)
    assert [one.name for one in method.surrogates(method(base))] == ["mean", "switch", "draws"]


@pytest.mark.parametrize(
    "options", [{"theta": 9}, {"stretched": 2}, {"gain": -1}, {"crops": -1}, {"kept": 0}, {"sigma": -1}, {"kept": 40}]
)  # fmt: skip
def test_bad_options_fail_at_construction(options):
    with pytest.raises(UsageError, match=next(iter(options))):
        build("dbd", options)
