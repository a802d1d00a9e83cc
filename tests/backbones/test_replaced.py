"""Every parameter of a tower can be replaced by name: replaced equals loaded into the module, and gradients reach it."""

import copy

import open_clip
import pytest
import timm
import torch
from open_clip.timm_model import TimmModel
from torch.testing import assert_close

from ironclip.backbones.resnet import ResNetTower
from ironclip.backbones.timm_tower import TimmTower
from ironclip.backbones.tiny import tiny_backbone, tiny_clip
from ironclip.backbones.vit import VitTower


def small_timm(monkeypatch, name: str, pool: str, proj: str | None, embed_dim: int) -> TimmTower:
    create = timm.create_model
    monkeypatch.setattr(timm, "create_model", lambda *args, **options: create(*args, **options, depth=1, img_size=32))
    return TimmTower(TimmModel(name, embed_dim=embed_dim, image_size=32, pool=pool, proj=proj))


MAKERS = {
    "vit": lambda patch: VitTower(tiny_clip().visual),
    "siglip": lambda patch: small_timm(patch, "vit_base_patch16_siglip_224", "map", "none", 768),
    "eva02": lambda patch: small_timm(patch, "eva02_base_patch16_clip_224", "token", None, 512),
    "resnet": lambda patch: ResNetTower(
        open_clip.model.ModifiedResNet([1, 1, 1, 1], output_dim=24, heads=8, image_size=32, width=8)
    ),
}


def drawn(tensors, seed: int = 0):
    draw = torch.Generator().manual_seed(seed)
    return {name: value.detach() + 0.02 * torch.randn(value.shape, generator=draw) for name, value in tensors.items()}


@pytest.mark.parametrize("kind", MAKERS)
def test_a_replaced_image_tower_equals_a_loaded_one(kind, monkeypatch):
    torch.manual_seed(0)
    tower = MAKERS[kind](monkeypatch).eval().requires_grad_(False)
    images = torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(1))
    assert set(tower.weight_names) < set(tower.parameter_names)
    fresh = drawn({name: tower.weight(name) for name in tower.parameter_names})
    loaded, before = copy.deepcopy(tower), tower(images)
    loaded.net.load_state_dict(fresh, strict=False)
    leaves = {name: value.requires_grad_() for name, value in fresh.items()}
    found = tower(images, weights=leaves)
    assert_close(found, loaded(images), atol=1e-6, rtol=0)
    assert (found - before).abs().max() > 1e-2
    assert torch.equal(tower(images), before)
    slopes = torch.autograd.grad(found.square().sum(), list(leaves.values()))  # fails where one is not used
    assert all(bool(slope.isfinite().all()) for slope in slopes)


def test_each_parameter_of_the_vit_has_its_own_effect():
    backbone = tiny_backbone()
    images = torch.rand(2, 3, 32, 32, generator=torch.Generator().manual_seed(1))
    before = backbone.encode_image(images)
    names = backbone.spec.image_parameters
    assert {"class_embedding", "positional_embedding", "conv1.weight", "ln_pre.bias", "ln_post.weight", "proj"} < set(names)
    for name, value in drawn({name: backbone.image_weight(name) for name in names}).items():
        assert not torch.equal(backbone.encode_image(images, weights={name: value}), before), name


def test_a_replaced_text_tower_equals_a_loaded_one():
    backbone = tiny_backbone()
    names = backbone.spec.text_parameters
    assert not any("token_embedding" in name for name in names)
    assert {"positional_embedding", "ln_final.weight", "text_projection"} < set(names)
    fresh = drawn({name: backbone.text_weight(name) for name in names})
    tokens = backbone.embed_text(["a cat", "a photo of a school bus."])
    found = backbone.encode_text(tokens, weights=fresh)
    backbone.text.net.load_state_dict(fresh, strict=False)
    assert_close(found, backbone.encode_text(tokens), atol=1e-6, rtol=0)
