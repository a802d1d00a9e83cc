"""CSR: its equations as a loop, its limits, its calibrated threshold, and what an attacker differentiates."""

import pytest
import torch
import torch.nn.functional as F
from torch.testing import assert_close

from ironclip.core.errors import UsageError
from ironclip.core.types import Batch
from ironclip.testtime import build
from ironclip.testtime._base import image_keys

ALL = {"tau": 2.0, "radius": 80.0}


def slow(base, image, method):
    """The paper's steps for one image [3, H, W], written out."""
    height, width = image.shape[-2:]
    shifted = torch.fft.fftshift(torch.fft.fft2(image.double()), dim=(-2, -1))
    for u in range(height):
        for v in range(width):
            squared = (u - height // 2) ** 2 + (v - width // 2) ** 2
            shifted[:, u, v] *= torch.tensor(-squared / (2 * (method.radius * height / 224) ** 2)).double().exp()
    low = torch.fft.ifft2(torch.fft.ifftshift(shifted, dim=(-2, -1))).real.clamp(0, 1).float()
    unit = lambda x: F.normalize(base.encode_image(x[None]), dim=-1)[0]  # noqa: E731
    a, o = unit(low).detach(), unit(image).detach()
    candidates, y = [], image.clone()
    for step in range(method.steps + 1):
        y = y.detach().requires_grad_()
        score = unit(y) @ a - method.repulsion * (unit(y) @ o)
        candidates.append((float(score.detach()), y.detach()))
        if step < method.steps:
            (slope,) = torch.autograd.grad(score, y)
            moved = (y.detach() + method.step_size * slope.sign() - image).clamp(-method.eps, method.eps)
            y = (image + moved).clamp(0, 1)
    return low, max(candidates, key=lambda pair: pair[0])


def test_rectification_is_the_loop_written_out(base, images):
    method = build("csr", {**ALL, "repulsion": 0.7, "steps": 4, "step_size": 1.5 / 255})
    found = method.rectified(base, images)
    for image, one in zip(images, found, strict=True):
        low, (score, _) = slow(base, image, method)
        assert_close(method.low_pass(image[None])[0], low, atol=1e-5, rtol=0)
        a, o = (F.normalize(base.encode_image(x[None]), dim=-1).detach() for x in (low, image))
        # Signs of slopes near zero differ between the two; the score reached does not.
        assert_close(float(method.score(base, one[None], a, o)), score, atol=1e-3, rtol=0)


def test_limits(base, images):
    with torch.no_grad():
        plain = base(images)
        for options in ({"tau": -1.5}, {**ALL, "eps": 0.0}, {**ALL, "steps": 0}, {"radius": 1e6, "tau": 0.999}):
            assert_close(build("csr", options)(base)(images), plain, atol=1e-5, rtol=0)
        assert not torch.allclose(build("csr", ALL)(base)(images), plain, atol=1e-3)


def test_rectified_images_stay_in_ball_and_box_and_never_score_less_than_the_start(base, images):
    method = build("csr", {**ALL, "steps": 5})
    found = method.rectified(base, images)
    assert (found - images).abs().max() <= method.eps + 1e-6
    assert found.min() >= 0
    assert found.max() <= 1
    anchor, own = (F.normalize(base.encode_image(x), dim=-1) for x in (method.low_pass(images), images))
    assert (method.score(base, found, anchor, own) >= method.consistency(base, images) - 1 - 1e-6).all()


def test_a_threshold_is_calibrated_on_clean_pictures_and_the_record_is_told(base):
    pictures = torch.rand(20, 3, 32, 32, generator=torch.Generator().manual_seed(3))
    method = build("csr", {"tau": None, "flagged": 0.25})
    with pytest.raises(UsageError, match="state tau"):
        method(base)
    method.prepare(base, iter([Batch(pictures, torch.zeros(20).long(), torch.arange(20), base.classes)]))
    with torch.no_grad():
        assert int((method.consistency(base, pictures) < method.tau).sum()) == 5
    assert "25 % of 20 clean training images" in method.notes[0]
    with pytest.raises(UsageError, match="no clean training images"):
        build("csr", {"tau": None}).prepare(base, iter(()))


def test_the_sloping_gate_is_the_method_where_it_is_steep(base, images):
    with torch.no_grad():
        middle = float(build("csr", {}).consistency(base, images).sort().values[:2].mean())
        method = build("csr", {"tau": middle, "softness": 1e-6, "radius": 40.0})
        exact = method(base)(images).log_softmax(1)
        assert_close(method.gated(base, images, image_keys(images, 0)), exact, atol=1e-4, rtol=1e-4)


def test_the_joint_surrogate_is_wrong_only_where_both_copies_say_so(base, images):
    method = build("csr", {})
    with torch.no_grad():
        both = base(images).log_softmax(1) + base(method.low_pass(images)).log_softmax(1)
        assert_close(method.joint(base, images, image_keys(images, 0)), both)
    names = [surrogate.name for surrogate in method.surrogates(method(base))]
    assert names == ["joint", "gate"]


@pytest.mark.parametrize(
    "options", [{"tau": 9}, {"flagged": 2}, {"filter": "box"}, {"radius": 0}, {"order": 0}, {"eps": 2}, {"step_size": 0},
                {"steps": -1}, {"repulsion": -1}, {"softness": 0}]
)  # fmt: skip
def test_bad_options_fail_at_construction(options):
    with pytest.raises(UsageError, match=next(iter(options))):
        build("csr", options)
