"""Stacks: one classifier of all parts, every part trained through it, options by part, clashes at construction."""

import pytest
import torch
from torch import nn
from torch.nn.functional import cross_entropy
from torch.testing import assert_close

from ironclip.backbones import assemble
from ironclip.core.errors import AdaptationClash, UsageError
from ironclip.core.schedule import Schedule
from ironclip.core.types import Adaptation, Defense, Mask
from ironclip.defenses import Stack, build, options
from ironclip.defenses._blocks import ImagePrompts

WEIGHT = "transformer.resblocks.0.mlp.c_fc.weight"


class Masked(Defense):
    """A learned factor for one weight: the smallest second part there is."""

    def __init__(self, backbone, classes, *, start: float = 1.0, generator=None) -> None:
        super().__init__()
        self.factor = nn.Parameter(torch.full_like(backbone.image_weight(WEIGHT), start))
        self.prepared = 0

    def adaptation(self, backbone, classes):
        return Adaptation(image_weights={WEIGHT: Mask(self.factor)})

    def loss(self, backbone, batch, attack, *, adaptation=None):
        classifier = assemble(backbone, batch.classes, adaptation or self.adaptation(backbone, batch.classes))
        return {"clean_ce": cross_entropy(classifier(batch.images), batch.labels)}

    def prepare(self, backbone, batches):
        self.prepared += sum(1 for _ in batches)

    def surrogates(self, classifier):
        return (classifier,)

    def parameter_groups(self, lr):
        return [{"params": [self.factor], "lr": lr / 2}]


class Prompted(Defense):
    """Image prompts alone."""

    def __init__(self, backbone, classes) -> None:
        super().__init__()
        spec = backbone.spec
        self.prompts = ImagePrompts(1, 2, spec.image_width, layers=spec.image_layers, before_ln_pre=False)

    def adaptation(self, backbone, classes):
        return Adaptation(image_edits=(self.prompts,))

    def loss(self, backbone, batch, attack, *, adaptation=None):
        return {}


@pytest.fixture
def stack(backbone, batch):
    return Stack(
        {"apt": build("apt", backbone, batch.classes, given={"length": 4}), "mask": Masked(backbone, batch.classes, start=0.8)}
    )


def test_a_stack_is_the_classifier_of_all_parts(backbone, batch, stack):
    found = assemble(backbone, batch.classes, stack.adaptation(backbone, batch.classes))(batch.images)
    apt = stack.parts["apt"].adaptation(backbone, batch.classes)
    weights = {WEIGHT: 0.8 * backbone.image_weight(WEIGHT)}
    expected = assemble(backbone, batch.classes, Adaptation(context=apt.context, image_weights=weights))(batch.images)
    assert_close(found, expected, atol=1e-5, rtol=0)


def test_each_part_is_trained_through_all_of_them(backbone, batch, attack, stack):
    terms = stack.loss(backbone, batch, attack)
    assert set(terms) == {"apt.adv_ce", "mask.clean_ce"}
    whole = assemble(backbone, batch.classes, stack.adaptation(backbone, batch.classes))
    assert_close(terms["mask.clean_ce"], cross_entropy(whole(batch.images), batch.labels))
    for term in terms.values():
        slopes = torch.autograd.grad(term, list(stack.parameters()))
        assert all(slope.abs().max() > 0 for slope in slopes)


def test_state_groups_surrogates_and_preparation_of_all_parts(backbone, batch, stack):
    assert set(stack.state_dict()) == {"parts.apt.context", "parts.mask.factor"}
    assert [group["lr"] for group in stack.parameter_groups(2.0)] == [2.0, 1.0]
    marker = object()
    assert stack.surrogates(marker) == (marker,)
    pair = Stack({"a": Masked(backbone, batch.classes), "b": Masked(backbone, batch.classes)})
    pair.prepare(backbone, iter([batch, batch]))
    assert [part.prepared for part in pair.parts.values()] == [2, 2]


def test_masks_of_two_parts_multiply(backbone, batch):
    pair = Stack({"a": Masked(backbone, batch.classes, start=0.5), "b": Masked(backbone, batch.classes, start=0.4)})
    change = pair.adaptation(backbone, batch.classes).image_weights[WEIGHT]
    assert_close(change.values, torch.full_like(change.values, 0.2))


def test_a_stack_of_learned_and_hand_written_prompts_keeps_the_learned_ones(backbone, batch):
    stacked = build("zero_shot+nap", backbone, batch.classes, given={"nap.length": 3}, generator=torch.Generator().manual_seed(0))
    alone = build("nap", backbone, batch.classes, given={"length": 3}, generator=torch.Generator().manual_seed(0))
    pair = [assemble(backbone, batch.classes, d.adaptation(backbone, batch.classes))(batch.images) for d in (stacked, alone)]
    assert torch.equal(*pair)


def test_options_are_named_by_part():
    names = options("apt+nap")
    assert names["apt.length"] is None  # 16, or as many as fit
    assert names["nap.length"] == 2
    assert "length" not in names
    assert "generator" not in options("nap")


CLASHES = [("apt+nap", AdaptationClash, "a learned text context"), ("zero_shot+hep", AdaptationClash, "prompt templates"),
           ("nap+nap", UsageError, "names each method once"), ("nap+apd_", UsageError, "unknown method"),
           ("nap+", UsageError, "unknown method"), ("napp", UsageError, "did you mean 'nap'")]  # fmt: skip


@pytest.mark.parametrize(("name", "kind", "message"), CLASHES)
def test_what_cannot_be_stacked_fails_at_construction_in_one_line(backbone, batch, name, kind, message):
    with pytest.raises(kind, match=message) as caught:
        build(name, backbone, batch.classes)
    assert "\n" not in str(caught.value)


def test_two_parts_that_append_image_prompts_clash(backbone, batch):
    """Each renews what it finds at the end of the sequence, so the second would overwrite the first."""
    pair = Stack({"nap": build("nap", backbone, batch.classes), "vpt": Prompted(backbone, batch.classes)})
    with pytest.raises(AdaptationClash, match="append prompts to the image tokens"):
        pair.adaptation(backbone, batch.classes)


def test_an_option_of_no_part_names_the_nearest(backbone, batch):
    with pytest.raises(UsageError, match=r"did you mean 'apt\.length'"):
        build("apt+zero_shot", backbone, batch.classes, given={"apt.lenght": 2})


def test_an_epoch_has_as_many_passes_as_the_part_that_needs_most(backbone, batch):
    class Twice(Masked):
        def passes(self, schedule, steps):
            return 3

    schedule = Schedule(epochs=2)
    for parts in (("one", "more"), ("more", "one")):
        made = {name: (Twice if name == "more" else Masked)(backbone, batch.classes) for name in parts}
        assert Stack(made).passes(schedule, 5) == 3
