"""Search in bfloat16: what is found counts only if float32 confirms it."""

import pytest
import torch
from torch import nn
from toys import convnet, linear, pictures, predicted

from ironclip.attacks import APGD, AutoAttack, Square
from ironclip.attacks._goal import coarse
from ironclip.backbones import assemble
from ironclip.backbones.tiny import tiny_backbone
from ironclip.core.errors import UsageError

EPS = 0.02


class Liar(nn.Module):
    """Says in bfloat16 that every image of class 0 is class 1; the slope of the margin stays as it is."""

    precision = "float32"

    def __init__(self, net):
        super().__init__()
        self.net, self.seen = net, {"float32": 0, "bfloat16": 0}

    def forward(self, images):
        self.seen[self.precision] += len(images)
        lie = images.new_tensor([0, 100.0]) if self.precision == "bfloat16" else 0
        return self.net(images) + lie


def zeros_of(model, count=60):
    images = pictures(count)
    return images[predicted(model, images) == 0]


@pytest.mark.parametrize(("kind", "options"), [(APGD, {"steps": 10, "loss": "margin"}), (Square, {"queries": 40})])
def test_a_miss_that_float32_does_not_see_is_none(kind, options):
    net = linear(2)
    images = zeros_of(net)
    labels = torch.zeros(len(images), dtype=torch.long)
    liar = Liar(net)
    found = kind(EPS, mode="compact", search_dtype="bfloat16", **options)(liar, images, labels)
    expected = kind(EPS, mode="compact", **options)(net, images, labels)
    assert predicted(net, found).equal(predicted(net, expected))
    assert 0 < int((predicted(net, found) == 0).sum()) < len(images)
    assert liar.seen["bfloat16"] > 2 * len(images)  # it went on although every look was a false miss
    assert liar.precision == "float32"


def test_our_classifier_is_searched_in_bfloat16_with_a_float32_head():
    backbone = tiny_backbone()
    with torch.no_grad():
        classifier = assemble(backbone, ("cat", "dog", "owl"))
    images = pictures(8).repeat(1, 1, 8, 8)[:, :, :32, :32]
    rounded, exact = coarse(classifier, "bfloat16")(images), classifier(images)
    assert rounded.dtype == torch.float32
    assert classifier.precision is None, "the search leaves the classifier as it is"
    assert not rounded.equal(exact)
    assert float((rounded - exact).abs().max()) < 0.05 * float(exact.abs().max())


def test_any_function_runs_under_autocast_and_robust_accuracy_stays_close():
    model, images = convnet(), pictures(40)
    labels = predicted(model, images)
    right = {
        dtype: predicted(model, AutoAttack(EPS, steps=10, queries=50, search_dtype=dtype)(model, images, labels)) == labels
        for dtype in ("float32", "bfloat16")
    }
    assert 0 < int(right["float32"].sum()) < 40
    assert abs(int(right["float32"].sum()) - int(right["bfloat16"].sum())) <= 2


def test_members_that_search_in_bfloat16():
    members = AutoAttack(EPS, search_dtype="bfloat16").members
    assert {name: getattr(member, "search_dtype", None) for name, member in members.items()} == {
        "apgd-ce": "bfloat16",
        "apgd-t": "bfloat16",
        "fab-t": None,
        "square": "bfloat16",
    }


def test_bad_options():
    with pytest.raises(UsageError, match="search_dtype"):
        APGD(EPS, search_dtype="float16")
    with pytest.raises(UsageError, match="confirms misclassified points"):
        APGD(EPS, loss="kl", search_dtype="bfloat16")
