"""RN50 through our tower against open_clip's own, and its dense readout against a slow loop."""

import open_clip
import pytest
import torch
from torch.testing import assert_close

from ironclip.backbones.resnet import ResNetTower
from ironclip.core.errors import UnsupportedEdit, UsageError
from ironclip.core.types import Trace


@pytest.fixture(scope="module")
def tower() -> ResNetTower:
    torch.manual_seed(0)
    visual = open_clip.model.ModifiedResNet([1, 1, 1, 1], output_dim=24, heads=8, image_size=96, width=8)
    for name, parameter in visual.named_parameters():
        if name.endswith("bn3.weight"):
            torch.nn.init.ones_(parameter)  # open_clip starts them at 0, which would hide the convolutions
    return ResNetTower(visual).eval().requires_grad_(False)


@pytest.fixture(scope="module")
def images() -> torch.Tensor:
    return torch.randn(2, 3, 96, 96, generator=torch.Generator().manual_seed(1))


def test_sizes(tower):
    assert (tower.kind, tower.layers, tower.width, tower.grid, tower.resolution) == ("resnet", 1, 256, 3, 96)
    assert "layer4.0.conv3.weight" in tower.weight_names
    assert "attnpool.v_proj.weight" in tower.weight_names
    assert not any("bn" in name for name in tower.weight_names)


def test_rn50_equals_open_clip():
    torch.manual_seed(0)
    visual = open_clip.model.ModifiedResNet([3, 4, 6, 3], output_dim=1024, heads=32).eval()
    images = torch.randn(1, 3, 224, 224)
    with torch.no_grad():
        expected = visual(images)
        tower = ResNetTower(visual)
        assert_close(tower(images), expected, atol=1e-5, rtol=0)
        assert_close(tower(images, trace=Trace(attention=True, grid=True)), expected, atol=1e-5, rtol=0)
    assert (tower.grid, tower.width) == (7, 2048)


@pytest.mark.parametrize("wanted", [{}, {"attention": True}, {"grid": True}, {"attention": True, "grid": True, "tokens": False}])
def test_tracing_does_not_change_the_features(tower, images, wanted):
    assert_close(tower(images, trace=Trace(**wanted)), tower(images), atol=1e-5, rtol=0)


def test_the_features_are_the_attention_weighted_mean_of_the_dense_values_when_there_is_one_head(images):
    torch.manual_seed(0)
    tower = ResNetTower(open_clip.model.ModifiedResNet([1, 1, 1, 1], output_dim=24, heads=1, image_size=96, width=8)).eval()
    trace = Trace(attention=True, grid=True)
    features = tower(images, trace=trace)
    pool = tower.net.attnpool
    mean_token = trace.inputs[0].mean(dim=1) + pool.positional_embedding[0]
    values = torch.cat([pool.c_proj(pool.v_proj(mean_token))[:, None], trace.projected], dim=1)
    expected = torch.stack([sum(trace.weights[0][b, 0, 0, n] * values[b, n] for n in range(10)) for b in range(2)])
    assert_close(features, expected, atol=1e-5, rtol=0)


def test_trace_shapes_and_rows(tower, images):
    trace = Trace(attention=True, grid=True)
    tower(images, trace=trace)
    assert trace.inputs[0].shape == (2, 9, 256)
    assert trace.weights[0].shape == (2, 8, 10, 10)
    assert_close(trace.weights[0].sum(dim=-1), torch.ones(2, 8, 10))
    assert trace.projected.shape == (2, 9, 24)
    nothing = Trace(attention=True, layers=())
    tower(images, trace=nothing)
    assert nothing.inputs == {}
    assert nothing.weights == {}


@pytest.mark.parametrize("attention", [False, True])
def test_the_feature_map_is_on_the_autograd_path(tower, images, attention):
    trace = Trace(attention=attention)
    features = tower(images.clone().requires_grad_(), trace=trace)
    (slope,) = torch.autograd.grad(features.sum(), trace.inputs[0])
    assert slope.abs().max() > 0


def test_replaced_weights_are_used_and_get_gradients(tower, images):
    name = "layer2.0.conv1.weight"
    same = {name: tower.weight(name).clone().requires_grad_()}
    assert_close(tower(images, weights=same), tower(images), atol=1e-6, rtol=0)
    (slope,) = torch.autograd.grad(tower(images, weights=same, trace=Trace(grid=True)).sum(), same[name])
    assert slope.abs().max() > 0
    assert not torch.allclose(tower(images, weights={name: torch.zeros_like(same[name])}), tower(images), atol=1e-5)


def test_an_unknown_weight_is_named(tower, images):
    with pytest.raises(UsageError, match=r"unknown weight 'layer2.0.conv1.weigh'; did you mean 'layer2.0.conv1.weight'"):
        tower(images, weights={"layer2.0.conv1.weigh": torch.zeros(1)})


def test_edits_are_refused(tower, images):
    with pytest.raises(UnsupportedEdit, match="RN50 has no token sequence"):
        tower(images, edits=[lambda layer, tokens: tokens])
