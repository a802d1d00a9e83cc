"""AVP: counts, where the frame stands, the released code's numbers, and the frame that is missing at test time."""

import json

import pytest
import torch
from torch.nn.functional import cross_entropy
from torch.testing import assert_close

from ironclip.backbones import assemble
from ironclip.core.errors import UnsupportedEdit, UsageError
from ironclip.defenses.avp_pixel import AVPPixel, PixelFrame

STRIPS = ("up", "down", "left", "right")


def make(backbone, classes, seed: int = 0, **options) -> AVPPixel:
    return AVPPixel(backbone, classes, generator=torch.Generator().manual_seed(seed), **options)


def through(defense, backbone, classes):
    return assemble(backbone, classes, defense.adaptation(backbone, classes))


def count(module) -> int:
    return sum(p.numel() for p in module.parameters())


# ---- counts


@pytest.mark.parametrize(
    ("options", "numbers"),
    [({}, 73_680), ({"tokens": 0}, 69_840), ({"tokens": 100}, 146_640), ({"pad": 0}, 3_840), ({"pad": 10, "tokens": 0}, 25_680)],
    ids=str,
)
def test_counts_on_vit_b(vit_b, options, numbers):
    assert count(make(vit_b, ["a", "b"], **options)) == numbers


def test_count_on_vit_l(vit_l):
    assert count(make(vit_l, ["a", "b"])) == 69_840 + 5 * 1024


def test_the_start_has_unit_variance_and_the_frame_scales_with_the_image(backbone, batch):
    frame = make(backbone, batch.classes).frame
    assert frame.up.shape == (1, 3, 4, 32)
    assert frame.up.std().item() == pytest.approx(1, abs=0.1)


# ---- where the frame stands


def test_the_centre_is_untouched_and_has_no_gradient():
    frame = PixelFrame(3, 16, (0.5, 0.25, 1.0), generator=torch.Generator().manual_seed(0))
    images = torch.rand(2, 3, 16, 16)
    changed = frame(images)
    border = torch.ones(16, 16, dtype=torch.bool)
    border[3:-3, 3:-3] = False
    assert torch.equal(changed[..., ~border], images[..., ~border])
    assert (changed != images)[..., border].all()
    assert count(frame) == 3 * int(border.sum())
    weight = torch.randn(2, 3, 16, 16)
    slopes = torch.autograd.grad((changed * weight).sum(), list(frame.parameters()))
    scaled = (weight * torch.tensor([0.5, 0.25, 1.0]).view(3, 1, 1)).sum(0, keepdim=True)
    for name, slope in zip(STRIPS, slopes, strict=True):
        place = {"up": scaled[..., :3, :], "down": scaled[..., -3:, :]}.get(name)
        if place is None:
            place = scaled[..., 3:-3, :3] if name == "left" else scaled[..., 3:-3, -3:]
        assert_close(slope, place)


def test_a_frame_of_zeros_without_tokens_is_plain_clip(backbone, batch):
    defense = make(backbone, batch.classes, tokens=0)
    for parameter in defense.parameters():
        parameter.data.zero_()
    assert torch.equal(through(defense, backbone, batch.classes)(batch.images), assemble(backbone, batch.classes)(batch.images))


def test_the_frame_is_added_in_normalised_units_and_not_clamped(backbone, batch):
    defense, seen = make(backbone, batch.classes, tokens=0), []
    hook = backbone.image.register_forward_pre_hook(lambda module, args: seen.append(args[0]))
    through(defense, backbone, batch.classes)(batch.images)
    hook.remove()
    assert_close(seen[0], (batch.images - backbone.mean) / backbone.std + defense.frame.strips(), atol=1e-5, rtol=0)
    assert defense.frame(batch.images).max() > 1


# ---- the frame that is missing at test time


def test_the_missing_frame_is_missing_where_it_is_evaluated_and_there_where_it_is_trained(backbone, batch, spy):
    whole, without = (make(backbone, batch.classes, frame_at_test=flag) for flag in (True, False))
    framed = through(whole, backbone, batch.classes)(batch.images)
    plain = through(without, backbone, batch.classes)(batch.images)
    assert not torch.equal(framed, plain)
    tokens_alone = make(backbone, batch.classes)
    for parameter in tokens_alone.frame.parameters():
        parameter.data.zero_()
    assert torch.equal(plain, through(tokens_alone, backbone, batch.classes)(batch.images))
    assert_close(without.loss(backbone, batch, spy)["adv_ce"], cross_entropy(framed, batch.labels))
    assert torch.equal(spy.calls[0].function(batch.images), framed)


def test_the_classifier_with_the_frame_is_a_surrogate_where_it_is_left_out(backbone, batch):
    whole, without = (make(backbone, batch.classes, frame_at_test=flag) for flag in (True, False))
    classifier = through(without, backbone, batch.classes)
    (surrogate,) = without.surrogates(classifier)
    assert torch.equal(surrogate(batch.images), through(whole, backbone, batch.classes)(batch.images))
    assert whole.surrogates(through(whole, backbone, batch.classes)) == ()


# ---- options that cannot be right

REFUSED = [
    ({"pad": 16}, "leaves nothing of an image of 32 pixels"),
    ({"pad": -1}, "pad must be a whole number of at least 0"),
    ({"tokens": 2.5}, "tokens must be a whole number"),
    ({"pad": 0, "tokens": 0}, "leave nothing to learn"),
    ({"pad": 0, "frame_at_test": False}, "needs a frame"),
    ({"frame_at_test": 1}, "must be true or false"),
    ({"templates": ()}, "at least one prompt"),
    ({"templates": ("a photo",)}, "a template needs {}"),
]


@pytest.mark.parametrize(("options", "message"), REFUSED, ids=json.dumps)
def test_options_that_cannot_be_right_are_refused_in_one_line(backbone, batch, options, message):
    with pytest.raises(UsageError, match=message) as caught:
        make(backbone, batch.classes, **options)
    assert "\n" not in str(caught.value)


def test_a_tower_without_tokens_takes_the_frame_alone(rn50):
    with pytest.raises(UnsupportedEdit, match="set tokens=0"):
        make(rn50, ["a", "b"])
    assert count(make(rn50, ["a", "b"], tokens=0)) == 69_840
