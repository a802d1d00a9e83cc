"""Every loss against slow loops, and its gradient against finite differences."""

import math

import pytest
import torch
from torch.autograd import gradcheck
from torch.testing import assert_close

from ironclip.core.errors import UsageError
from ironclip.core.losses import (
    ATTACK_LOSSES,
    cross_entropy_each,
    dlr_each,
    js_each,
    kl_each,
    kl_to_clean,
    margin_each,
    squared_distance_each,
    targeted_dlr_each,
)


def drawn(rows=6, columns=5, seed=0):
    values = torch.randn(rows, columns, generator=torch.Generator().manual_seed(seed), dtype=torch.float64) * 3
    return values, torch.arange(rows) % columns


def test_cross_entropy_written_out():
    logits, labels = drawn()
    for row, label, value in zip(logits.tolist(), labels.tolist(), cross_entropy_each(logits, labels).tolist()):
        assert value == pytest.approx(math.log(sum(math.exp(z) for z in row)) - row[label])


def test_margin_written_out():
    logits, labels = drawn()
    for row, label, value in zip(logits.tolist(), labels.tolist(), margin_each(logits, labels).tolist()):
        assert value == pytest.approx(max(z for j, z in enumerate(row) if j != label) - row[label])


def test_dlr_written_out():
    logits, labels = drawn()
    for row, label, value in zip(logits.tolist(), labels.tolist(), dlr_each(logits, labels).tolist()):
        first, _, third, *_ = sorted(row, reverse=True)
        margin = row[label] - max(z for j, z in enumerate(row) if j != label)
        assert value == pytest.approx(-margin / (first - third))


@pytest.mark.parametrize("loss", [margin_each, dlr_each])
def test_margin_and_dlr_are_positive_exactly_where_misclassified(loss):
    logits, labels = drawn(200)
    assert ((loss(logits, labels) > 0) == (logits.argmax(1) != labels)).all()


@pytest.mark.parametrize("loss", ATTACK_LOSSES.values())
def test_a_constant_added_to_the_logits_changes_nothing(loss):
    logits, labels = drawn()
    assert_close(loss(logits + 7, labels), loss(logits, labels))


def test_dlr_ignores_scale_and_the_margin_scales():
    logits, labels = drawn()
    assert_close(dlr_each(10 * logits, labels), dlr_each(logits, labels))
    assert_close(margin_each(10 * logits, labels), 10 * margin_each(logits, labels))


def test_dlr_needs_three_classes():
    with pytest.raises(UsageError, match=r"at least 3 classes; got 2\. Use the margin loss"):
        dlr_each(torch.zeros(1, 2), torch.zeros(1, dtype=torch.long))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_kl_to_clean_is_the_sum_written_out(dtype):
    adv, clean = drawn(seed=1)[0].to(dtype), drawn(seed=2)[0].to(dtype)
    each = []
    for a, c in zip(adv, clean):
        p, q = c.softmax(0), a.softmax(0)
        each.append(sum(p[k] * (p[k] / q[k]).log() for k in range(5)))
    assert_close(kl_each(adv, clean), torch.stack(each))
    assert_close(kl_to_clean(adv, clean), torch.stack(each).mean())
    assert_close(kl_to_clean(clean, clean), torch.zeros((), dtype=dtype))


def test_kl_is_finite_for_extreme_logits():
    adv, clean = torch.tensor([[200.0, -200.0]]), torch.tensor([[-200.0, 200.0]])
    assert kl_each(adv, clean).item() == pytest.approx(400)


def test_kl_to_clean_refuses_different_batches():
    with pytest.raises(ValueError, match=r"\(2, 3\) and \(4, 3\)"):
        kl_to_clean(torch.zeros(2, 3), torch.zeros(4, 3))


def test_squared_distance_written_out():
    a, b = drawn(seed=1)[0], drawn(seed=2)[0]
    expected = [sum((x - y) ** 2 for x, y in zip(p, q)) for p, q in zip(a.tolist(), b.tolist())]
    assert squared_distance_each(a, b).tolist() == pytest.approx(expected)
    assert_close(squared_distance_each(a.view(6, 5, 1), b.view(6, 5, 1)), squared_distance_each(a, b))


@pytest.mark.parametrize("name", ATTACK_LOSSES)
def test_gradients_of_attack_losses(name):
    logits, labels = drawn()
    assert gradcheck(lambda z: ATTACK_LOSSES[name](z, labels), logits.requires_grad_())


@pytest.mark.parametrize("loss", [kl_each, kl_to_clean, squared_distance_each])
def test_gradients_flow_through_both_arguments(loss):
    assert gradcheck(loss, (drawn(seed=1)[0].requires_grad_(), drawn(seed=2)[0].requires_grad_()))


def test_jensen_shannon_is_symmetric_bounded_and_the_mean_of_two_kls():
    first, second = torch.tensor([[2.0, 0.0, -1.0], [90.0, 0.0, 0.0]]), torch.tensor([[0.0, 1.0, 0.5], [0.0, 90.0, 0.0]])
    middle = (first.softmax(1) + second.softmax(1)).div(2).clamp_min(1e-30).log()
    assert_close(js_each(first, second), (kl_each(middle, first) + kl_each(middle, second)) / 2, atol=1e-6, rtol=1e-5)
    assert_close(js_each(first, second), js_each(second, first))
    assert float(js_each(first, second)[1]) == pytest.approx(math.log(2))
    assert_close(js_each(first, first), torch.zeros(2), atol=1e-6, rtol=0)


@pytest.mark.parametrize("classes", [2, 3, 4, 7])
def test_targeted_dlr_written_out(classes):
    logits, labels = drawn(columns=classes)
    targets = (labels + 1) % classes
    for row, label, target, value in zip(
        logits.tolist(), labels.tolist(), targets.tolist(), targeted_dlr_each(logits, labels, targets).tolist()
    ):
        top = sorted(row, reverse=True)
        scale = 1 if classes == 2 else top[0] - sum(top[2:4]) / len(top[2:4])
        assert value == pytest.approx((row[target] - row[label]) / scale)
