"""TTP: its equations as a loop, its limits, its border, and what an attacker differentiates."""

import pytest
import torch
import torch.nn.functional as F
from torch.testing import assert_close

from ironclip.core.errors import UsageError
from ironclip.testtime import build
from ironclip.testtime._base import image_keys
from ironclip.testtime._views import with_views

FLAGGED = {"tau": 2.0, "views": 6, "select": 0.5}


def slow(base, image, key, method):
    """Probabilities [K] for one flagged image, written out; views and the start of the border are given."""
    side, p = image.shape[-1], round(method.padding * image.shape[-1])
    views = with_views(image[None], [key], method.views - 1, augmix=True)[0]
    unit = lambda x: F.normalize(base.encode_image(x[None]), dim=-1)[0]  # noqa: E731
    predict = lambda x: (base.head.logit_scale * unit(x) @ base.text_features.T).softmax(0)  # noqa: E731

    def framed(x, theta):
        canvas = (theta / 10).clone()
        canvas[:, p : p + side, p : p + side] = x
        return F.interpolate(canvas[None], size=(side, side), mode="bilinear", align_corners=False)[0]

    entropies = [float(-(predict(x) * predict(x).log()).sum().detach()) for x in views]
    chosen = [views[v] for v in sorted(range(len(views)), key=lambda v: entropies[v])[: method.views // 2]]
    theta = method.start(image[None], [key])[0].requires_grad_()
    loss = sum(-(predict(framed(x, theta)) * predict(framed(x, theta)).log()).sum() for x in chosen) / len(chosen)
    (slope,) = torch.autograd.grad(loss, theta)
    theta = (theta - method.lr * slope).clamp(0, 10).detach()
    z = [unit(framed(x, theta)) for x in chosen]
    fixed = unit(framed(image, torch.zeros_like(theta)))
    scores = torch.stack([one @ fixed - one @ unit(image) for one in z])
    weights = scores.exp() / scores.exp().sum()
    return sum(w * predict(framed(x, theta)) for w, x in zip(weights, chosen, strict=True)).detach()


def test_the_answer_for_flagged_images_is_the_loop_written_out(base, images):
    method = build("ttp", {**FLAGGED, "lr": 20.0})
    keys = image_keys(images, 0)
    with torch.no_grad():
        found = method(base)(images).exp()
    for image, key, one in zip(images, keys, found, strict=True):
        assert_close(one, slow(base, image, key, method), atol=1e-4, rtol=1e-3)
    assert_close(found.sum(1), torch.ones(3))


def test_only_images_whose_embedding_moves_are_treated(base, images):
    with torch.no_grad():
        features, padded = build("ttp", {}).encoded(base, images)
        agreement = (features * padded).sum(1)
        plain = base(images).log_softmax(1)
        for options in ({"tau": -1.5}, {"padding": 0.0, "tau": 1.0}):
            assert_close(build("ttp", options)(base)(images), plain, atol=1e-5, rtol=0)
        middle = float(agreement.sort().values[:2].mean())
        found = build("ttp", {**FLAGGED, "tau": middle})(base)(images)
    treated = ~torch.isclose(found, plain, atol=1e-4).all(1)
    assert torch.equal(treated, agreement <= middle)


def test_the_border_is_outside_and_has_the_resized_image_in_the_middle(images):
    method = build("ttp", {"padding": 0.5})
    assert method.width(32) == 16
    black = method.padded(images, None)
    assert black[..., :7, :].abs().max() == 0
    white = method.padded(images, torch.full((3, 3, 64, 64), 10.0))
    assert_close(white[..., :7, :], torch.ones_like(white[..., :7, :]))
    assert_close(white[..., 10:22, 10:22], black[..., 10:22, 10:22])
    assert_close(
        method.padded(images, None)[..., 9:23, 9:23], F.interpolate(images, scale_factor=0.5, mode="bilinear")[..., 1:15, 1:15]
    )


def test_a_step_lowers_the_entropy_and_can_be_differentiated(base, images):
    method = build("ttp", {**FLAGGED, "lr": 1.0})
    keys, views = image_keys(images, 0), images[:, None].expand(3, 2, 3, 32, 32)
    start = method.start(images, keys)

    def entropies(border):
        p = base(method.padded(images, border)).softmax(1)
        return -(p * p.log()).sum(1)

    with torch.no_grad():
        assert (entropies(method.trained(base, views, start)) < entropies(start)).all()
    leaf = images.clone().requires_grad_()
    still = method.trained(base, leaf[:, None], start)
    assert not still.requires_grad
    unrolled = method.fully_differentiated().trained(base, leaf[:, None], start)
    assert_close(unrolled.detach(), still, atol=1e-5, rtol=1e-4)
    assert torch.autograd.grad(unrolled.sum(), leaf)[0].abs().amax() > 0


def test_surrogates(base, images):
    method = build("ttp", {"views": 4, "tau": 0.9, "softness": 1e-7})
    assert [one.name for one in method.surrogates(method(base))] == ["gate", "views", "draws"]
    with torch.no_grad():
        exact = method(base)(images)
        assert_close(method.gated(base, images, image_keys(images, 0)), exact, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize(
    "options", [{"tau": 9}, {"padding": -1}, {"views": 0}, {"augmix": 1}, {"select": 0}, {"lr": -1}, {"softness": 0}]
)
def test_bad_options_fail_at_construction(options):
    with pytest.raises(UsageError, match=next(iter(options))):
        build("ttp", options)
