"""Merging adaptations: masks multiply, edits keep their order, everything else that both bring clashes."""

import pytest
import torch
from torch.testing import assert_close

from ironclip.core.errors import AdaptationClash, UsageError
from ironclip.core.merging import merge, resolve_weights
from ironclip.core.types import Adaptation, Batch, Context, Mask, check_classes


def mask(*values: float) -> Mask:
    return Mask(torch.tensor(values))


def test_functions_and_edits_apply_in_the_order_of_the_parts():
    first, second = (lambda x: x + 1), (lambda x: 2 * x)
    edits = [lambda layer, tokens: tokens, lambda layer, tokens: tokens]
    merged = merge(
        Adaptation(pixels=(first,), image_edits=(edits[0],), text_edits=(edits[1],)),
        Adaptation(pixels=(second,), image_edits=(edits[1],), text_edits=(edits[0],)),
    )
    assert merged.pixels == (first, second)
    assert merged.image_edits == (edits[0], edits[1])
    assert merged.text_edits == (edits[1], edits[0])


def test_masks_multiply_and_leave_other_weights_alone():
    merged = merge(
        Adaptation(image_weights={"a": mask(1.0, 0.0, 0.5), "b": mask(2.0)}, text_weights={"a": mask(3.0)}),
        Adaptation(image_weights={"a": mask(0.5, 1.0, 0.5)}),
    )
    assert_close(merged.image_weights["a"].values, torch.tensor([0.5, 0.0, 0.25]))
    assert_close(merged.image_weights["b"].values, torch.tensor([2.0]))
    assert_close(merged.text_weights["a"].values, torch.tensor([3.0]))


@pytest.mark.parametrize("swap", [False, True])
def test_a_mask_falls_on_a_replaced_weight_in_either_order(swap):
    parts = [Adaptation(image_weights={"a": torch.tensor([4.0, 6.0])}), Adaptation(image_weights={"a": mask(0.5, 0.0)})]
    merged = merge(*parts[:: -1 if swap else 1])
    assert_close(merged.image_weights["a"], torch.tensor([2.0, 0.0]))


def test_two_masks_and_a_value_give_the_same_in_every_order():
    value, half, third = torch.tensor([6.0]), mask(0.5), mask(1 / 3)
    parts = [Adaptation(text_weights={"w": change}) for change in (value, half, third)]
    for order in ((0, 1, 2), (1, 0, 2), (1, 2, 0)):
        a, b, c = (parts[i] for i in order)
        assert_close(merge(merge(a, b), c).text_weights["w"], torch.tensor([1.0]))


class Appending:
    appends = True

    def __call__(self, layer, tokens):
        return tokens


def head(output, text_features):
    return output.features @ text_features.T


CLASHES = {
    "a learned text context": Adaptation(context=Context(torch.zeros(1, 2))),
    "a classification head": Adaptation(head=head),
    "a value for the weight 'w'": Adaptation(image_weights={"w": torch.zeros(1)}),
    "append prompts": Adaptation(image_edits=(Appending(),)),
}


@pytest.mark.parametrize("what", CLASHES)
def test_what_both_bring_clashes_in_one_line(what):
    with pytest.raises(AdaptationClash, match=what) as caught:
        merge(CLASHES[what], CLASHES[what])
    assert "\n" not in str(caught.value)
    for other in CLASHES.values():
        if other is not CLASHES[what]:
            merge(CLASHES[what], other)


def test_templates_clash_only_where_they_differ():
    one = Adaptation(templates=("a {}",))
    assert merge(one, one).templates == ("a {}",)
    assert merge(Adaptation(), one).templates == ("a {}",)
    with pytest.raises(AdaptationClash, match="prompt templates"):
        merge(one, Adaptation(templates=("the {}",)))


def test_merging_with_nothing_changes_nothing():
    whole = Adaptation(
        pixels=(abs,), image_weights={"w": mask(1.0)}, context=Context(torch.ones(1, 2)), templates=("{}",), head=head
    )
    assert merge(whole, Adaptation()) == whole
    assert merge(Adaptation(), whole) == whole


def test_masks_fall_on_the_base_weight_and_gradients_reach_them():
    values = torch.tensor([0.5, 2.0], requires_grad=True)
    own = torch.tensor([7.0])
    full = resolve_weights({"a": Mask(values), "b": own}, {"a": torch.tensor([4.0, 3.0])}.__getitem__)
    assert_close(full["a"], torch.tensor([2.0, 6.0]))
    assert full["b"] is own
    full["a"].sum().backward()
    assert_close(values.grad, torch.tensor([4.0, 3.0]))


def test_a_batch_moves_as_a_whole():
    batch = Batch(torch.zeros(2, 3, 4, 4), torch.tensor([0, 1]), torch.tensor([5, 9]), ("a", "b"))
    moved = batch.to("meta")
    assert {t.device.type for t in (moved.images, moved.labels, moved.indices)} == {"meta"}
    assert len(moved) == 2
    assert moved.classes == ("a", "b")


@pytest.mark.parametrize(
    ("classes", "message"),
    [([], "at least two"), (["cat"], "at least two"), ("cat", "at least two"), (["cat", " "], "words"), ([1, 2], "words")],
)
def test_class_lists_that_cannot_be_are_refused(classes, message):
    with pytest.raises(UsageError, match=message):
        check_classes(classes)
    assert check_classes(["crane", "crane"]) == ("crane", "crane")  # ImageNet's published names repeat
