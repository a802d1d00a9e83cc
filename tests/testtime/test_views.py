"""Views against PIL and torchvision, and what keys promise."""

import math

import numpy as np
import pytest
import torch
from PIL import Image, ImageOps
from torch.testing import assert_close
from torchvision.transforms import RandomResizedCrop

from ironclip.testtime import _random_views as views
from ironclip.testtime._random_views import OPS, crop_boxes, crops_of, matrices, random_views, warp

SIDE = 40


@pytest.fixture(scope="module")
def grey():
    """Two smooth 8-bit images [2, 3, S, S], one of few levels."""
    draw = torch.Generator().manual_seed(0)
    small = torch.rand(2, 3, 7, 7, generator=draw)
    smooth = torch.nn.functional.interpolate(small, size=(SIDE, SIDE), mode="bicubic").clamp(0.1, 0.9)
    smooth[1] = (smooth[1] * 5).round() / 5
    return (smooth * 255).round()


def pil(grey):
    return [Image.fromarray(one.permute(1, 2, 0).byte().numpy()) for one in grey]


def back(pictures):
    return torch.stack([torch.from_numpy(np.array(picture)).permute(2, 0, 1).float() for picture in pictures])


@pytest.mark.parametrize(
    ("ours", "theirs"),
    [
        (views.autocontrast, ImageOps.autocontrast),
        (views.equalize, ImageOps.equalize),
        (views.posterize, lambda p: ImageOps.posterize(p, 4)),
        (lambda g: views.solarize(g, torch.tensor([231, 245])), None),
    ],
    ids=["autocontrast", "equalize", "posterize", "solarize"],
)
def test_operations_on_grey_levels_equal_pil_exactly(grey, ours, theirs):
    pictures = pil(grey)
    expected = [theirs(p) for p in pictures] if theirs else [ImageOps.solarize(p, t) for p, t in zip(pictures, (231, 245))]
    assert torch.equal(ours(grey), back(expected))


def test_constant_channels_stay(grey):
    flat = torch.full((1, 3, SIDE, SIDE), 77.0)
    for op in (views.autocontrast, views.equalize):
        assert torch.equal(op(flat), flat)


GEOMETRY = {
    "rotate": lambda p, level, sign: p.rotate(sign * int(3 * level), resample=Image.Resampling.BILINEAR),
    "shear_x": lambda p, level, sign: affine(p, (1, sign * 0.03 * level, 0, 0, 1, 0)),
    "shear_y": lambda p, level, sign: affine(p, (1, 0, 0, sign * 0.03 * level, 1, 0)),
    "translate_x": lambda p, level, sign: affine(p, (1, 0, sign * int(level * SIDE / 30), 0, 1, 0)),
    "translate_y": lambda p, level, sign: affine(p, (1, 0, 0, 0, 1, sign * int(level * SIDE / 30))),
}


def affine(picture, numbers):
    return picture.transform(picture.size, Image.Transform.AFFINE, numbers, resample=Image.Resampling.BILINEAR)


@pytest.mark.parametrize("name", GEOMETRY)
@pytest.mark.parametrize("sign", [-1, 1])
@pytest.mark.parametrize("level", [0.2, 0.95])
def test_geometric_operations_equal_pil_within_a_grey_level(grey, name, sign, level):
    number = torch.tensor([OPS.index(name)] * 2)
    maps = matrices(number, torch.tensor([level] * 2), torch.tensor([float(sign)] * 2), SIDE)
    expected = back([GEOMETRY[name](p, level, sign) for p in pil(grey)])
    assert (warp(grey, maps) - expected).abs().amax() <= 1.0 + 1e-3


@pytest.mark.parametrize("flip", [False, True])
@pytest.mark.parametrize("box", [(0, 0, 40, 40), (3, 7, 21, 12), (11, 0, 9, 40)])
def test_crops_equal_pil_within_a_grey_level(grey, box, flip):
    x, y, w, h = box
    ours = crops_of(grey, torch.tensor(box).expand(2, 1, 4), torch.full((2, 1), flip))[:, 0]
    parts = [p.crop((x, y, x + w, y + h)).resize((SIDE, SIDE), Image.Resampling.BILINEAR) for p in pil(grey)]
    expected = back([p.transpose(Image.Transpose.FLIP_LEFT_RIGHT) if flip else p for p in parts])
    assert (ours - expected).abs().amax() <= 1.0 + 1e-3


def test_a_smaller_output_is_antialiased_like_pil(grey):
    weights = views.resampling(torch.tensor(4.0), torch.tensor(32.0), 8, SIDE)
    ours = torch.einsum("sh,bchw,tw->bcst", weights, grey, weights)
    expected = back([p.crop((4, 4, 36, 36)).resize((8, 8), Image.Resampling.BILINEAR) for p in pil(grey)])
    assert (ours - expected).abs().amax() <= 1.0 + 1e-3


def test_boxes_are_those_of_the_training_crops():
    from ironclip.data.augmentation import crop_box

    draws = torch.rand(50, 10, 4, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    draws[0] = 0.999  # nothing fits into a strip
    for width, height in ((40, 40), (90, 12)):
        ours = crop_boxes(width, height, draws)
        for row, box in zip(draws.tolist(), ours.tolist()):
            x0, y0, x1, y1 = crop_box(width, height, row)
            assert box == [x0, y0, x1 - x0, y1 - y0]


def test_a_view_depends_on_its_key_and_number_alone(grey):
    images = grey / 255
    many = random_views(images, [5, 9], 6)
    few = random_views(images.flip(0), [9, 5], 3)
    for name in ("base", "mix", "keep"):
        assert_close(getattr(few, name), getattr(many, name)[:, :3].flip(0), atol=1e-6, rtol=0)
    other = random_views(images, [6, 9], 6)
    assert not torch.allclose(other.base[0], many.base[0])
    assert torch.equal(other.base[1], many.base[1])


def test_views_stay_in_range_and_blend_as_stated(grey):
    found = random_views(grey / 255, [1, 2], 12)
    for pixels in (found.base, found.mix, found.blended):
        assert pixels.min() >= 0
        assert pixels.max() <= 1 + 1e-6
    keep = found.keep[0, 3]
    assert_close(found.blended[0, 3], keep * found.base[0, 3] + (1 - keep) * found.mix[0, 3])
    plain = random_views(grey / 255, [1, 2], 12, augmix=False)
    assert torch.equal(plain.base, found.base)
    assert torch.equal(plain.blended, plain.base)


def test_boxes_are_distributed_like_those_of_torchvision():
    draws = views.uniforms(list(range(60)), 50).flatten(0, 1)
    ours = crop_boxes(224, 224, draws[:, :40].unflatten(-1, (10, 4))).double()
    with torch.random.fork_rng():
        torch.manual_seed(0)
        picture = torch.zeros(3, 224, 224)
        drawn = [RandomResizedCrop.get_params(picture, views.SCALE, views.RATIO) for _ in range(3000)]
    top, left, height, width = torch.tensor(drawn, dtype=torch.double).unbind(1)
    theirs = torch.stack([left, top, width, height], dim=1)
    error = theirs.std(0) / math.sqrt(1500)  # of a difference of two means
    assert ((ours.mean(0) - theirs.mean(0)).abs() < 4 * error).all()
    assert ((ours.std(0) - theirs.std(0)).abs() < 4 * error).all()


def test_pixels_receive_gradients_through_every_operation(grey):
    images = (grey[:1] / 255).expand(len(OPS), -1, -1, -1).clone().requires_grad_()
    which = torch.arange(len(OPS))
    changed = views.apply_ops(images, which, torch.full((len(OPS),), 0.9), torch.ones(len(OPS)))
    (slope,) = torch.autograd.grad(changed.sum(), images)
    assert (slope.flatten(1).abs().amax(1) > 0).all()
    with torch.no_grad():
        assert_close(changed.detach(), views.apply_ops(images, which, torch.full((len(OPS),), 0.9), torch.ones(len(OPS))))
    leaf = (grey / 255).requires_grad_()
    (slope,) = torch.autograd.grad(random_views(leaf, [1, 2], 4).blended.sum(), leaf)
    assert slope.isfinite().all()
    assert (slope != 0).double().mean() > 0.5


@pytest.mark.parametrize("name", ["solarize", "autocontrast"])
def test_an_attacker_sees_the_sign_of_operations_that_count_grey_levels(name):
    """Solarize turns bright pixels round, so their slope is minus one; autocontrast stretches. Against finite differences."""
    images = torch.rand(1, 3, 16, 16, generator=torch.Generator().manual_seed(3)) * 0.98
    args = (torch.tensor([OPS.index(name)]), torch.tensor([0.999]).double(), torch.ones(1).double())
    places = {(0, 0, 3, 3): 0.5, (0, 1, 8, 2): 0.95, (0, 2, 15, 15): 0.95 if name == "solarize" else 0.7}
    for place, value in places.items():
        images[place] = value
    leaf = images.clone().requires_grad_()
    (slope,) = torch.autograd.grad(views.apply_ops(leaf, *args).sum(), leaf)
    for place in places:
        up, down = images.clone(), images.clone()
        up[place] += 4 / 255
        down[place] -= 4 / 255
        change = (views.apply_ops(up, *args)[place] - views.apply_ops(down, *args)[place]) / (8 / 255)
        assert abs(float(change) - float(slope[place])) < 0.15
    assert (slope < 0).any() == (name == "solarize")
