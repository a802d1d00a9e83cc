"""Zero-shot and HEP learn nothing and read like their templates."""

import pytest
import torch
from torch.testing import assert_close

from ironclip.backbones import assemble
from ironclip.core.errors import UsageError
from ironclip.core.types import Adaptation
from ironclip.defenses import build


def logits(defense, backbone, batch):
    return assemble(backbone, batch.classes, defense.adaptation(backbone, batch.classes))(batch.images)


@pytest.mark.parametrize(("name", "template"), [("zero_shot", "a photo of a {}."), ("hep", "a photo of a {}")])
def test_it_is_the_backbone_with_its_template(backbone, batch, name, template):
    defense = build(name, backbone, batch.classes)
    plain = assemble(backbone, batch.classes, Adaptation(templates=(template,)))(batch.images)
    assert torch.equal(logits(defense, backbone, batch), plain)
    assert not list(defense.parameters())
    assert defense.state_dict() == {}
    assert defense.loss(backbone, batch, None) == {}


def test_one_template_may_be_given_as_a_string(backbone, batch):
    one, listed = (build("zero_shot", backbone, batch.classes, given={"templates": t}) for t in ("the {}", ["the {}"]))
    assert_close(logits(one, backbone, batch), logits(listed, backbone, batch))


@pytest.mark.parametrize(
    ("templates", "message"),
    [([], "at least one prompt"), (["a photo"], "where the class name goes"), (["word " * 80 + "{}"], "holds at most 75")],
)
def test_templates_that_cannot_be_fail_at_construction(backbone, batch, templates, message):
    with pytest.raises(UsageError, match=message) as caught:
        build("zero_shot", backbone, batch.classes, given={"templates": templates})
    assert "\n" not in str(caught.value)
