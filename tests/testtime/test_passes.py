"""Passes of the image encoder: counted calls against the formula of each method's cost, and where they are kept."""

import pytest
import torch

from ironclip.backbones import assemble
from ironclip.backbones.counting import counted
from ironclip.backbones.tiny import tiny_backbone
from ironclip.testtime import _base, build
from ironclip.testtime._prompts import share

CLASSES = ("cat", "golden retriever", "school bus", "tram", "oak tree")
VIEWS, SELECTED = 8, share(0.3, 8)
FORMULAS = {
    "rtpt": ({"views": VIEWS}, VIEWS, 0),
    "tpt": ({"views": VIEWS, "steps": 3}, VIEWS, 0),
    "tpt_ensemble": ({"views": VIEWS}, VIEWS, 0),
    "mta": ({"views": VIEWS}, VIEWS, 0),
    "aom": ({"copies": 5}, 6, 0),
    "atpt": ({"views": VIEWS, "select": 0.3}, VIEWS + (VIEWS - 1) + SELECTED, (VIEWS - 1) + SELECTED),
    "atpt code": ({"views": VIEWS, "variant": "code"}, VIEWS + (VIEWS - 1), VIEWS - 1),
    "tapt": ({"views": VIEWS, "select": 0.3, "source": "none", "steps": 2}, VIEWS + 2 * SELECTED + 1, 2 * SELECTED),
    "ttc": ({"steps": 3, "tau": 1e9}, 2 + 1 + 3 + 1, 3),  # gate, own features, steps, answer
    "nac": ({"steps": 3, "tau": 1e9}, 2 + 1 + 3 + 1, 3),
    "csr": ({"steps": 3, "tau": 2.0}, 2 + 2 + 4 + 1, 3),  # gate, anchors, candidates, answer
    "csr open": ({"tau": -2.0}, 2 + 1, 0),
    "et3": ({"steps": 3}, 3 + 1, 3),
    "ttp": ({"views": VIEWS, "select": 0.3, "tau": 2.0}, 2 + VIEWS + 2 * SELECTED, SELECTED),
    "ttp open": ({"tau": -2.0}, 2, 0),
    "dbd": ({"crops": 2, "noisy": 1, "kept": 5}, 1 + 2 + 1 + 9, 0),
    "clipure": ({}, 1, 0),
    "ttc open": ({"steps": 3, "tau": 0.0}, 2 + 1, 0),
}


@pytest.fixture(scope="module")
def base():
    with torch.no_grad():
        return assemble(tiny_backbone(), CLASSES)


@pytest.fixture(scope="module")
def images():
    return torch.rand(3, 3, 32, 32, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("name", FORMULAS)
def test_counted_passes_are_those_of_the_method(base, images, name):
    options, forward, backward = FORMULAS[name]
    classifier = build(name.split()[0], options)(base)
    with torch.no_grad():
        classifier(images[:1])
        with counted(base.backbone) as passes:
            classifier(images)
    assert (passes.forward, passes.backward) == (3 * forward, 3 * backward)


def test_chunks_that_are_made_again_are_counted_again(base, images, monkeypatch):
    method = build("rtpt", {"views": 2})
    classifier = method(base)
    leaf = images.clone().requires_grad_()
    for memory, forward in ((_base.MEMORY, 3 * 2), (1, 3 * (2 + 2 * 2))):  # one by one: no graph, then outer and inner again
        monkeypatch.setattr(_base, "MEMORY", memory)
        with counted(base.backbone) as passes:
            torch.autograd.grad(classifier(leaf).sum(), leaf)
        assert (passes.forward, passes.backward) == (forward, 3 * 2)


def test_the_counter_leaves_nothing_behind(base, images):
    with counted(base.backbone) as outer, torch.no_grad():
        base(images)
        with counted(base.backbone) as inner:
            base(images)
        base(images)
    base(images)
    assert (outer.forward, inner.forward) == (9, 3)
    assert not base.backbone.image._forward_hooks
