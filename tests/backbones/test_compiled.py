"""Compiled blocks give what plain ones give, and leave nothing behind."""

import pytest
import torch
from torch.testing import assert_close
from towers.small import CONFIGS, model

from ironclip.backbones import blocks
from ironclip.backbones.compiled import check_compiler, compiling
from ironclip.backbones.tiny import tiny_backbone
from ironclip.backbones.wrapping import tokenizer_for, wrap
from ironclip.core.errors import UsageError
from ironclip.core.types import Trace


def backbone(name: str):
    if name == "ViT":
        return tiny_backbone()
    return wrap(model(name).requires_grad_(False), tokenizer_for(name, CONFIGS[name]), name=name, activation="gelu")


def results(made) -> list[torch.Tensor]:
    """Features and pixels' gradient, those with a replaced weight, and with attention on record."""
    side = made.spec.resolution
    images = torch.rand(3, 3, side, side, generator=torch.Generator().manual_seed(0)).requires_grad_()
    name = made.spec.image_parameters[-1]
    weight = (made.image_weight(name) * 1.5).requires_grad_()
    trace, found = Trace(), []
    for features in (made.encode_image(images), made.encode_image(images, weights={name: weight})):
        found += [features.detach(), *torch.autograd.grad(features.square().sum(), images)]
    found.append(made.encode_image(images, trace=trace).detach())
    return found


@pytest.mark.parametrize(
    ("name", "backend"), [("ViT", "counted"), pytest.param("ViT", "inductor", marks=pytest.mark.slow), ("RN50", "counted")]
)
def test_a_compiled_tower_gives_what_the_plain_one_gives(name, backend):
    graphs = []

    def counted(graph, inputs):
        graphs.append(graph)
        return graph.forward

    made = backbone(name)
    plain, before = results(made), blocks.computed
    with compiling(made, backend=counted if backend == "counted" else backend):
        found = results(made)
        assert blocks.computed is not before
    for ours, theirs in zip(found, plain, strict=True):
        assert_close(ours, theirs, atol=1e-4, rtol=1e-4)
    assert graphs or backend != "counted"
    again = len(graphs)
    results(made)
    assert len(graphs) == again
    assert blocks.computed is before
    assert all(module._compiled_call_impl is None for module in made.modules())


def test_a_machine_without_a_compiler_is_told_in_one_line():
    def broken(graph, inputs):
        raise RuntimeError("g++ is not here\nand more")

    with pytest.raises(
        UsageError, match=r"^--compile needs a C\+\+ compiler such as g\+\+; torch says: g\+\+ is not here\. Install"
    ):
        check_compiler(torch.device("cpu"), broken)
