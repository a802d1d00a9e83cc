"""The ViT tower: open_clip's own numbers in every mode, the short cut of the last layer, edits, weights and traces."""

import pytest
import torch
from open_clip.transformer import VisionTransformer
from torch import nn
from torch.testing import assert_close

import ironclip.backbones.vit as vit
from ironclip.backbones.tiny import tiny_backbone, tiny_clip
from ironclip.backbones.vit import VitTower
from ironclip.core.errors import UnsupportedEdit, UsageError
from ironclip.core.types import Trace

LAYERS, TOKENS, WIDTH = 2, 17, 32
LAST = "transformer.resblocks.1.attn.out_proj.weight"


@pytest.fixture(scope="module")
def tower() -> VitTower:
    return VitTower(tiny_clip().visual).requires_grad_(False)


@pytest.fixture(scope="module")
def images():
    return torch.randn(3, 3, 32, 32, generator=torch.Generator().manual_seed(1))


@pytest.fixture
def rows(monkeypatch):
    """The `rows` argument of every block call: None, or the rows computed alone."""
    seen, run = [], vit.run_block
    monkeypatch.setattr(vit, "run_block", lambda *args, **options: seen.append(options["rows"]) or run(*args, **options))
    return seen


class Noted:
    """An edit that leaves tokens as they are and writes down its calls."""

    def __init__(self, changes_output: bool) -> None:
        self.changes_output, self.calls = changes_output, []

    def __call__(self, layer, tokens):
        self.calls.append((layer, tuple(tokens.shape)))
        return tokens


MODES = {
    "plain": dict,
    "an edit": lambda: {"edits": [lambda layer, tokens: tokens]},
    "an edit that leaves the output": lambda: {"edits": [Noted(False)]},
    "tokens": lambda: {"trace": Trace()},
    "attention": lambda: {"trace": Trace(tokens=False, attention=True)},
    "grid": lambda: {"trace": Trace(tokens=False, grid=True)},
}


@pytest.mark.parametrize("mode", MODES)
def test_features_and_pixel_gradients_equal_open_clips(tower, images, mode):
    ours, theirs = (images.clone().requires_grad_() for _ in range(2))
    found, expected = tower(ours, **MODES[mode]()), tower.net(theirs)
    assert_close(found, expected, atol=1e-5, rtol=0)
    weights = torch.linspace(-1, 1, found.numel()).view_as(found)
    slopes = [torch.autograd.grad((out * weights).sum(), leaf)[0] for out, leaf in ((found, ours), (expected, theirs))]
    assert_close(*slopes, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize(
    "options",
    [{"pool_type": "avg"}, {"pool_type": "avg", "final_ln_after_pool": True}, {"no_ln_pre": True}, {"ls_init_value": 0.3},
     {"attentional_pool": True, "attn_pooler_heads": 2, "attn_pooler_queries": 4}],
    ids=["average", "average before the norm", "no ln_pre", "layer scale", "attention pool"],
)  # fmt: skip
def test_other_image_towers_of_open_clip_keep_their_numbers(images, options):
    torch.manual_seed(0)
    net = VisionTransformer(32, 8, 32, 2, 2, 4.0, output_dim=16, **options).eval()
    for parameter in net.parameters():
        parameter.data += 0.05 * torch.randn_like(parameter)
    tower = VitTower(net).requires_grad_(False)
    for mode in MODES.values():
        if "attentional_pool" not in options or "grid" not in str(mode()):
            assert_close(tower(images, **mode()), net(images).detach(), atol=1e-5, rtol=0)


def test_class_token_alone_leaves_the_last_block_unless_more_is_read(tower, images, rows):
    def alone(**options) -> bool:
        rows.clear()
        tower(images, **options)
        assert rows[0] is None
        return rows[-1] is not None

    assert alone()
    assert alone(edits=[Noted(False)])
    assert alone(trace=Trace(attention=True, layers=(0,)))
    assert not alone(edits=[Noted(True)])
    assert not alone(edits=[Noted(False), lambda layer, tokens: tokens])
    assert not alone(trace=Trace())
    assert not alone(trace=Trace(tokens=False, attention=True))
    assert not alone(trace=Trace(tokens=False, grid=True))


def test_edits_are_called_before_ln_pre_at_every_block_and_on_the_output(tower, images):
    edit = Noted(True)
    tower(images, edits=[edit])
    assert edit.calls == [(layer, (3, TOKENS, WIDTH)) for layer in (-1, 0, 1, 2)]


def test_edits_apply_in_order_where_they_say(tower, images):
    def at_one(change):
        return lambda layer, tokens: change(tokens) if layer == 1 else tokens

    plain, edited = Trace(), Trace()
    tower(images, trace=plain)
    tower(images, edits=[at_one(lambda t: t + 1), at_one(lambda t: 2 * t)], trace=edited)
    assert_close(edited.inputs[0], plain.inputs[0])
    assert_close(edited.inputs[1], 2 * (plain.inputs[1] + 1))


def test_an_edit_of_the_output_reaches_the_features(tower, images):
    def swap(layer, tokens):
        return tokens.flip(0) if layer == LAYERS else tokens

    assert_close(tower(images, edits=[swap]), tower(images).flip(0), atol=1e-5, rtol=0)


def test_appended_tokens_enter_without_a_mask_at_any_place(tower, images):
    """Section 0.9 of the method sheets: prompts at the end or behind the class token give the same."""
    extra = torch.randn(1, 2, WIDTH)

    def at(place):
        def edit(layer, tokens):
            if layer != -1:
                return tokens
            return torch.cat([tokens[:, :place], extra.expand(len(tokens), -1, -1), tokens[:, place:]], 1)

        edit.changes_output = False
        return tower(images, edits=[edit])

    assert_close(at(TOKENS), at(1), atol=1e-5, rtol=0)
    assert (at(TOKENS) - tower(images)).abs().max() > 1e-2


def test_an_edit_that_returns_no_sequence_is_refused(tower, images):
    with pytest.raises(UnsupportedEdit, match=r"layer 0 it returned shape \(3, 32\)"):
        tower(images, edits=[lambda layer, tokens: tokens[:, 0] if layer == 0 else tokens])


def test_traced_tokens_are_the_inputs_of_the_blocks_and_the_last_output(tower, images):
    trace = Trace()
    features = tower(images, trace=trace)
    assert sorted(trace.inputs) == [0, 1, 2]
    for layer, block in enumerate(tower.net.transformer.resblocks):
        assert_close(block(trace.inputs[layer]), trace.inputs[layer + 1], atol=1e-5, rtol=0)
    assert_close(tower.net.ln_post(trace.inputs[2][:, 0]) @ tower.net.proj, features, atol=1e-5, rtol=0)
    only = Trace(layers=(1,))
    tower(images, trace=only)
    assert list(only.inputs) == [1]


def test_traced_grid_is_the_projected_patches(tower, images):
    trace = Trace(grid=True)
    tower(images, trace=trace)
    assert_close(trace.projected, tower.net.ln_post(trace.inputs[2][:, 1:]) @ tower.net.proj)
    assert trace.projected.shape == (3, 16, 16)


def test_traced_attention_is_that_of_the_block_and_carries_gradients(tower, images):
    trace, leaf = Trace(attention=True), images.clone().requires_grad_()
    tower(leaf, trace=trace)
    for layer, block in enumerate(tower.net.transformer.resblocks):
        assert_close(trace.weights[layer].sum(-1), torch.ones(3, 2, TOKENS))
        normed = block.ln_1(trace.inputs[layer])
        _, expected = block.attn(normed, normed, normed, need_weights=True, average_attn_weights=False)
        assert_close(trace.weights[layer], expected, atol=1e-6, rtol=0)
    (slope,) = torch.autograd.grad(trace.weights[1][:, :, 0].square().sum(), leaf)
    assert slope.abs().max() > 0


def test_replaced_weights_give_what_writing_them_would(tower, images):
    fresh = torch.randn_like(tower.weight(LAST)) * 0.2
    found = tower(images, weights={LAST: fresh})
    before = tower.net.state_dict()[LAST].clone()
    changed = VitTower(tiny_clip().visual).requires_grad_(False)
    changed.net.get_parameter(LAST).data.copy_(fresh)
    assert_close(found, changed(images), atol=1e-6, rtol=0)
    assert torch.equal(before, tower.net.state_dict()[LAST])


@pytest.mark.parametrize("name", ["transformer.resblocks.0.mlp.c_fc.weight", "conv1.weight", "proj", "positional_embedding"])
def test_gradients_reach_a_replaced_weight(tower, images, name):
    fresh = tower.weight(name).clone().requires_grad_()
    (slope,) = torch.autograd.grad(tower(images, weights={name: fresh}).square().sum(), fresh)
    assert slope.abs().max() > 0
    step = 1e-3 * slope.sign()
    rise = tower(images, weights={name: fresh + step}).square().sum() - tower(images).square().sum()
    assert rise > 0


def test_weight_names_are_the_matrices_of_the_blocks(tower):
    assert len(tower.weight_names) == 4 * LAYERS
    assert all(tower.weight(name).ndim == 2 for name in tower.weight_names)
    with pytest.raises(UsageError, match="did you mean"):
        tower(torch.zeros(1, 3, 32, 32), weights={LAST + "s": torch.zeros(1)})
    with pytest.raises(UsageError, match=r"has shape \(32, 32\); got \(32,\)"):
        tower(torch.zeros(1, 3, 32, 32), weights={LAST: torch.zeros(32)})
    with pytest.raises(UsageError, match="unknown weight"):
        tower.weight("nothing")


def test_float64_runs_in_float64(images):
    backbone, single = tiny_backbone().double(), tiny_backbone()
    pixels = images.sigmoid()
    features = backbone.encode_image(pixels)
    assert features.dtype == torch.float64
    assert_close(features.float(), single.encode_image(pixels), atol=1e-5, rtol=0)
    assert backbone.mean.flatten().tolist() == list(backbone.spec.mean)
    plain = (pixels.double() - backbone.mean) / backbone.std
    assert_close(features, backbone.image.net(plain), atol=1e-12, rtol=0)


@pytest.mark.parametrize(
    ("images", "message"),
    [(torch.zeros(1, 3, 16, 16), "takes images"), (torch.zeros(3, 32, 32), "takes images"),
     (torch.zeros(1, 3, 32, 32, dtype=torch.uint8), "of float32; got uint8"),
     (torch.zeros(1, 3, 32, 32, dtype=torch.float64), "of float32; got float64")],
)  # fmt: skip
def test_images_that_do_not_fit_are_refused(images, message):
    with pytest.raises(UsageError, match=message):
        tiny_backbone().encode_image(images)


def test_a_backbone_is_frozen_and_stays_in_eval_mode():
    backbone = tiny_backbone().train()
    assert not any(module.training for module in backbone.modules())
    assert not any(parameter.requires_grad for parameter in backbone.parameters())
    assert isinstance(backbone.image, nn.Module)


def test_a_tower_with_other_blocks_is_refused(images):
    torch.manual_seed(0)
    net = VisionTransformer(32, 8, 32, 1, 2, 4.0, output_dim=16, block_type="custom").eval()
    with pytest.raises(UnsupportedEdit, match="standard attention block"):
        VitTower(net)(images)
