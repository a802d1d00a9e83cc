"""What is wrong with a foreign classifier is said in one line."""

import pytest
import torch
from masked import NAMES, Plain
from torch import nn
from toys import pictures

from ironclip.audit.faults import External, check_target
from ironclip.core.errors import DataError, IronclipError, NonFinite, UsageError

IMAGES, LABELS = pictures(6), torch.arange(6) % 5


class Changing(Plain):
    def forward(self, images):
        with torch.no_grad():
            next(self.parameters()).add_(1e-3)
        return self.net(images)


def crash(images):
    raise RuntimeError("mat1 and mat2\nsecond line")


def nan(images):
    return Plain()(images) / 0 * 0


def nan_gradient(images):
    return Plain()(images) + (images - images).sqrt().flatten(1).sum(1, keepdim=True)


FAULTS = {
    "crash": (crash, UsageError, "fails on images [6, 3, 4, 4]: RuntimeError: mat1 and mat2"),
    "no tensor": (lambda x: [1], UsageError, "returns list; expected a tensor"),
    "one logit": (lambda x: x.flatten(1).sum(1, keepdim=True), UsageError, "K = 1"),
    "another shape": (lambda x: x.flatten(1)[:, :3], UsageError, "shape [6, 3]; expected logits [6, 5]"),
    "a flat shape": (lambda x: x.flatten(1).sum(1), UsageError, "shape [6]; expected logits [6, 5]"),
    "another device": (lambda x: x.flatten(1)[:, :5].to("meta"), UsageError, "logits on meta for images on cpu"),
    "nan": (nan, NonFinite, "NaN or infinity for 6 of 6 images"),
    "nan gradient": (nan_gradient, NonFinite, "gradient is NaN or infinite for 6 of 6 images"),
    "weights change": (Changing(), UsageError, "changes its own weights in a call (function.net.0.weight)"),
}


@pytest.mark.parametrize(("function", "kind", "words"), FAULTS.values(), ids=list(FAULTS))
def test_a_fault_is_one_clear_line(function, kind, words):
    if isinstance(function, nn.Module):
        function.eval()
    with pytest.raises(kind) as caught:
        check_target(External(function, NAMES), IMAGES, LABELS, NAMES)
    assert words in str(caught.value)
    assert "\n" not in str(caught.value)
    assert isinstance(caught.value, IronclipError)


def no_grad(images):
    with torch.no_grad():
        return Plain()(images)


SCORES_ONLY = {
    "detach": lambda x: x.detach().flatten(1)[:, :5],
    "weights alone": lambda x: nn.Linear(48, 5)(x.detach().flatten(1)),
    "no_grad": no_grad,
    "numpy": lambda x: torch.from_numpy(x.numpy().reshape(len(x), -1)[:, :5]),
    "constant": lambda x: torch.ones(len(x), 5),
}


@pytest.mark.parametrize("function", SCORES_ONLY.values(), ids=list(SCORES_ONLY))
def test_a_classifier_without_gradients_has_scores_only(function):
    assert not check_target(External(function, NAMES), IMAGES, LABELS, NAMES)


def test_a_good_classifier_passes_and_one_class_does_not():
    assert check_target(External(Plain().eval(), NAMES), IMAGES, LABELS, NAMES)
    with pytest.raises(DataError, match="at least two classes"):
        check_target(External(Plain().eval(), NAMES), IMAGES, LABELS, ("one",))
    with pytest.raises(UsageError, match="a target is a callable"):
        External(3, NAMES)
