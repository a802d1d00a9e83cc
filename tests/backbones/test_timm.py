"""SigLIP, EVA and Perception Encoder image towers: timm's own numbers, traces against slow code, edits, rotary positions."""

import pytest
import timm
import torch
from open_clip.timm_model import TimmModel
from timm.layers import apply_rot_embed_cat
from torch import Tensor
from torch.testing import assert_close

from ironclip.backbones.deep_prompts import AppendedPrompts
from ironclip.backbones.timm_tower import TimmTower
from ironclip.core.errors import UnsupportedEdit, UsageError
from ironclip.core.types import Trace

# (timm name, pool, projection, joint width) as in open_clip's configurations of ViT-B-16-SigLIP, EVA02-B-16, PE-Core-T-16-384
# and vit_medium_patch16_gap_256: attention pool, class token, both, average.
SIGLIP = ("vit_base_patch16_siglip_224", "map", "none", 768)
EVA02 = ("eva02_base_patch16_clip_224", "token", None, 512)
PE = ("vit_pe_core_tiny_patch16_384", "map", None, 512)
GAP = ("vit_medium_patch16_gap_256", "avg", "linear", 512)
NAMES = {SIGLIP: "siglip", EVA02: "eva02", PE: "pe", GAP: "gap"}


@pytest.fixture(scope="module")
def make():
    """Builds a tower at a size that tests can afford: two blocks of the published class, 64 pixels."""
    create, made = timm.create_model, {}

    def build(name: str, pool: str, proj: str | None, embed_dim: int) -> TimmTower:
        if name not in made:
            torch.manual_seed(0)
            timm.create_model = lambda *args, **options: create(*args, **options, depth=2, img_size=64)
            try:
                visual = TimmModel(name, embed_dim=embed_dim, image_size=64, pool=pool, proj=proj)
            finally:
                timm.create_model = create
            for parameter in visual.parameters():
                parameter.data += (0.1 if parameter.ndim == 1 else 0.03) * torch.randn_like(parameter)
            made[name] = TimmTower(visual).eval().requires_grad_(False)
        return made[name]

    return build


@pytest.fixture(scope="module")
def images() -> Tensor:
    return torch.randn(2, 3, 64, 64, generator=torch.Generator().manual_seed(1))


every_kind = pytest.mark.parametrize("kind", NAMES, ids=NAMES.get)


@every_kind
def test_features_equal_open_clips_in_every_mode(make, images, kind):
    tower = make(*kind)
    expected = tower.net(images)
    assert_close(tower(images), expected, atol=1e-5, rtol=0)
    assert_close(tower(images, edits=[lambda layer, tokens: tokens]), expected, atol=1e-5, rtol=0)
    assert_close(tower(images, trace=Trace(attention=True, grid=True)), expected, atol=1e-5, rtol=0)


@every_kind
def test_traced_tokens_are_timms_intermediates(make, images, kind):
    tower, trace = make(*kind), Trace()
    tower(images, trace=trace)
    blocks = tower.net.trunk.forward_intermediates(images, output_fmt="NLC", intermediates_only=True)
    assert sorted(trace.inputs) == [0, 1, 2]
    for layer, tokens in enumerate(blocks):
        assert_close(trace.inputs[layer + 1][:, tower.prefix :], tokens, atol=1e-5, rtol=0)
    some = Trace(layers=(1,))
    tower(images, trace=some)
    assert list(some.inputs) == [1]


@every_kind
def test_attention_rows_sum_to_one_and_carry_gradients(make, images, kind):
    tower, trace = make(*kind), Trace(attention=True, tokens=False)
    features = tower(images.clone().requires_grad_(), trace=trace)
    count = tower.prefix + 16
    for weights in trace.weights.values():
        assert weights.shape[-2:] == (count, count)
        assert_close(weights.sum(dim=-1), torch.ones_like(weights[..., 0]))
    (slope,) = torch.autograd.grad(features.square().sum(), trace.weights[0])
    assert slope.abs().max() > 0
    assert tower.net.trunk.blocks[0].attn.fused_attn, "the fused kernel is on again after the trace"


def test_siglip_attention_is_the_softmax_written_out(make, images):
    tower, trace = make(*SIGLIP), Trace(attention=True)
    tower(images, trace=trace)
    block = tower.net.trunk.blocks[1]
    q, k, _ = block.attn.qkv(block.norm1(trace.inputs[1])).reshape(2, 16, 3, 12, 64).unbind(2)
    for head in range(12):
        expected = torch.stack([(q[b, :, head] @ k[b, :, head].T / 8).softmax(dim=-1) for b in range(2)])
        assert_close(trace.weights[1][:, head], expected, atol=1e-6, rtol=0)


@pytest.mark.parametrize("kind", [EVA02, PE], ids=["eva02", "pe"])
def test_appended_tokens_get_no_rotary_position(make, images, kind):
    tower, trace = make(*kind), Trace(attention=True)
    extra = torch.randn(3, tower.width, generator=torch.Generator().manual_seed(2))

    def append(layer: int, tokens: Tensor) -> Tensor:
        if layer == 0:
            return torch.cat([tokens, extra.expand(2, -1, -1)], dim=1)
        return tokens[:, :-3] if layer == 2 else tokens

    features = tower(images, edits=[append], trace=trace)
    assert features.shape == (2, tower.net.trunk.num_classes)
    assert trace.inputs[2].shape[1] == tower.prefix + 16

    block, rope = tower.net.trunk.blocks[0], tower.net.trunk.rope.get_embed()
    normed = block.norm1(trace.inputs[0])
    if block.attn.qkv is None:
        projected = [block.attn.q_proj(normed), block.attn.k_proj(normed)]
    else:
        projected = block.attn.qkv(normed).chunk(3, dim=-1)[:2]
    rotated = []
    for heads in (p.unflatten(-1, (block.attn.num_heads, -1)).transpose(1, 2) for p in projected):
        grid = heads[:, :, tower.prefix : tower.prefix + 16]
        turned = apply_rot_embed_cat(grid, rope, half=block.attn.rotate_half)
        rotated.append(torch.cat([heads[:, :, : tower.prefix], turned, heads[:, :, tower.prefix + 16 :]], dim=2))
    expected = (rotated[0] @ rotated[1].transpose(-2, -1) * block.attn.scale).softmax(dim=-1)
    assert_close(trace.weights[0], expected, atol=1e-6, rtol=0)


@pytest.mark.parametrize("kind", [SIGLIP, GAP], ids=["siglip", "gap"])
def test_pools_see_tokens_that_an_edit_leaves_and_not_those_it_removes(make, images, kind):
    tower = make(*kind)
    extra = torch.ones(1, 1, tower.width)

    def append(remove: bool):
        def edit(layer: int, tokens: Tensor) -> Tensor:
            if layer == tower.layers:
                return tokens[:, :-1] if remove else tokens
            return torch.cat([tokens, extra.expand(len(tokens), -1, -1)], dim=1) if layer == 0 else tokens

        return edit

    trace = Trace(grid=True)
    removed = tower(images, edits=[append(remove=True)], trace=trace)
    left = tower(images, edits=[append(remove=False)])
    assert trace.projected.shape == (2, 16, tower(images).shape[1])
    assert (removed - left).abs().max() > 1e-4
    assert (removed - tower(images)).abs().max() > 1e-6


@every_kind
def test_deep_prompts_enter_their_layers_and_leave_the_image_tokens_alone(make, images, kind):
    tower = make(*kind)
    own, trace = tower.prefix + 16, Trace()
    prompts = torch.randn(2, 3, tower.width, generator=torch.Generator().manual_seed(2)).requires_grad_()
    features = tower(images, edits=[AppendedPrompts(prompts, tower.layers)], trace=trace)
    assert [trace.inputs[layer].shape[1] for layer in (0, 1, 2)] == [own + 3, own + 3, own]
    (slope,) = torch.autograd.grad(features.square().sum(), prompts)
    assert (slope.abs().amax(dim=(1, 2)) > 0).all(), "the prompts of every depth reach the features"
    unprompted = tower.net.trunk.norm_pre(tower._embed(images)[0])
    assert_close(trace.inputs[0][:, :own], unprompted, atol=1e-5, rtol=0)


@every_kind
def test_layer_minus_one_comes_first_in_every_tower(make, images, kind):
    called: list[int] = []
    make(*kind)(images, edits=[lambda layer, tokens: called.append(layer) or tokens])
    assert called == [-1, 0, 1, 2]


def test_layer_minus_one_comes_before_norm_pre(make, images):
    tower = make(*PE)
    shifted = tower(images, edits=[lambda layer, tokens: tokens + 5 if layer == -1 else tokens])
    assert_close(shifted, tower(images), atol=1e-4, rtol=0)  # a layer norm does not see a shift


@every_kind
def test_the_grid_is_each_token_pooled_alone(make, images, kind):
    tower, trace = make(*kind), Trace(grid=True)
    tower(images, trace=trace)
    normed = tower.net.trunk.norm(trace.inputs[2])
    for n in range(16):
        alone = normed[:, tower.prefix + n][:, None]
        if kind[1] == "avg":
            alone = alone.expand(-1, 2, -1)
        assert_close(trace.projected[:, n], tower.net.head(tower.net.trunk.forward_head(alone)), atol=1e-5, rtol=0)


@every_kind
def test_replaced_weights_are_used_and_get_gradients(make, images, kind):
    tower = make(*kind)
    name = next(name for name in tower.weight_names if ".mlp." in name)
    half = {name: (tower.weight(name) / 2).requires_grad_()}
    features = tower(images, weights=half, trace=Trace(attention=True))
    assert_close(tower(images, weights=half), features, atol=1e-5, rtol=0)
    assert (features - tower(images)).abs().max() > 1e-4
    (slope,) = torch.autograd.grad(features.sum(), half[name])
    assert slope.abs().max() > 0
    with pytest.raises(UsageError, match=r"unknown weight 'trunk\.blocks\.7\.nothing'"):
        tower(images, weights={"trunk.blocks.7.nothing": torch.zeros(1)})


def test_removing_grid_tokens_is_refused_where_positions_are_rotary(make, images):
    with pytest.raises(
        UnsupportedEdit, match="rotary positions, so grid tokens cannot be removed: 17 tokens expected at layer 1, 12 came"
    ):
        make(*EVA02)(images, edits=[lambda layer, tokens: tokens[:, :12] if layer == 1 else tokens])
    make(*SIGLIP)(images, edits=[lambda layer, tokens: tokens[:, :12] if layer == 1 else tokens])


def test_convolutional_trunks_give_features_and_refuse_the_rest(monkeypatch):
    create, sizes = timm.create_model, {"depths": (1, 1, 1, 1), "dims": (8, 16, 16, 16)}
    monkeypatch.setattr(timm, "create_model", lambda *args, **options: create(*args, **options, **sizes))
    tower = TimmTower(TimmModel("convnext_tiny", embed_dim=32, image_size=64, pool="", proj="linear")).eval()
    images = torch.randn(1, 3, 64, 64)
    assert_close(tower(images), tower.net(images))
    assert (tower.layers, tower.grid) == (0, 0)
    assert "trunk.stages.0.blocks.0.mlp.fc1.weight" in tower.weight_names
    with pytest.raises(UnsupportedEdit, match="ConvNeXt has no plain token sequence"):
        tower(images, edits=[lambda layer, tokens: tokens])
    with pytest.raises(UnsupportedEdit, match="use a ViT, SigLIP or EVA backbone"):
        tower(images, trace=Trace())
