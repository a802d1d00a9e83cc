"""AdvVPT: counts, a fixed text side, and the half of a batch that is attacked."""

import pytest
import torch

from ironclip.backbones import assemble
from ironclip.core.errors import UnsupportedEdit, UsageError
from ironclip.defenses.adv_vpt import AdvVPT


def test_counts(vit_b, vit_l):
    count = lambda defense: sum(p.numel() for p in defense.parameters())  # noqa: E731
    assert count(AdvVPT(vit_b, ["a", "b"])) == 13_824
    assert count(AdvVPT(vit_l, ["a", "b"], length=1, depth=24)) == 24 * 1024


@pytest.mark.parametrize("init", ["a photo of a", "a photo of a {}."])
def test_the_text_side_is_the_plain_template(backbone, batch, init):
    defense = AdvVPT(backbone, batch.classes, init=init)
    classifier = assemble(backbone, batch.classes, defense.adaptation(backbone, batch.classes))
    assert torch.equal(classifier.text_features, assemble(backbone, batch.classes).text_features)
    assert not classifier.text_features.requires_grad


@pytest.mark.parametrize(("size", "clean"), [(8, 4), (5, 2), (1, 0)])
def test_of_a_batch_the_first_half_rounded_down_stays_clean(backbone, batch, spy, size, clean):
    part = type(batch)(batch.images[:size], batch.labels[:size], batch.indices[:size], batch.classes)
    AdvVPT(backbone, batch.classes, mix="half").loss(backbone, part, spy)
    (call,) = spy.calls
    assert torch.equal(call.images, part.images[clean:])
    assert torch.equal(call.labels, part.labels[clean:])


def test_options_that_cannot_be_right_are_refused(backbone, rn50):
    with pytest.raises(UsageError, match="prompt depth must be 1 to 2"):
        AdvVPT(backbone, ["a", "b"], depth=3)
    with pytest.raises(UsageError, match="mix must be one of"):
        AdvVPT(backbone, ["a", "b"], mix="adv_half")
    with pytest.raises(UnsupportedEdit, match="no token sequence"):
        AdvVPT(rn50, ["a", "b"])
