"""AdvVLP: counts, independence of the towers, text prompts alone."""

import pytest
import torch

from ironclip.backbones import assemble
from ironclip.core.errors import UnsupportedEdit, UsageError
from ironclip.defenses.advvlp import AdvVLP


def both(defense, backbone, batch):
    with torch.no_grad():
        classifier = assemble(backbone, batch.classes, defense.adaptation(backbone, batch.classes))
        return classifier.text_features, classifier.encode_image(batch.images)


def test_counts(vit_b, vit_l):
    count = lambda defense: sum(p.numel() for p in defense.parameters())  # noqa: E731
    assert count(AdvVLP(vit_b, ["a", "b"])) == 23_040
    assert count(AdvVLP(vit_l, ["a", "b"])) == 32_256
    assert count(AdvVLP(vit_b, ["a", "b"], sides="text")) == 2 * 512 * 9
    assert count(AdvVLP(vit_b, ["a", "b"], length=4, depth=12)) == 4 * 12 * (512 + 768)
    assert count(AdvVLP(vit_b, ["a", "b"], length=4, depth=12, text_length=3, text_depth=1)) == 4 * 12 * 768 + 3 * 512


def test_the_prompts_of_one_tower_leave_the_other_alone(backbone, batch):
    defense = AdvVLP(backbone, batch.classes)
    text, image = both(defense, backbone, batch)
    with torch.no_grad():
        defense.prompts.image_prompts.tokens.neg_()
    moved_text, moved_image = both(defense, backbone, batch)
    assert torch.equal(moved_text, text)
    assert not torch.allclose(moved_image, image)
    with torch.no_grad():
        defense.prompts.text_prompts.tokens.neg_()  # not a shift: LayerNorm does not see one
    again_text, again_image = both(defense, backbone, batch)
    assert torch.equal(again_image, moved_image)
    assert not torch.allclose(again_text, text)


def test_text_prompts_alone_leave_the_image_tower_as_it_is(backbone, batch):
    _, image = both(AdvVLP(backbone, batch.classes, sides="text"), backbone, batch)
    assert torch.equal(image, assemble(backbone, batch.classes).encode_image(batch.images))


def test_towers_without_tokens_take_text_prompts_alone(rn50):
    with pytest.raises(UnsupportedEdit, match="no token sequence"):
        AdvVLP(rn50, ["a", "b"])
    assert AdvVLP(rn50, ["a", "b"], sides="text").prompts.image_prompts is None


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"depth": 3}, "prompt depth must be 1 to 2"),
        ({"length": 0}, "length must be a whole number of at least 1"),
        ({"text_length": 0}, "text_length must be a whole number of at least 1"),
        ({"text_depth": 3}, "prompt depth must be 1 to 2"),
        ({"sides": "image"}, "sides must be one of both, text"),
        ({"length": 80}, "holds at most 75"),
    ],
)
def test_options_that_cannot_be_right_are_refused(backbone, options, message):
    with pytest.raises(UsageError, match=message):
        AdvVLP(backbone, ["a", "b"], **options)
