"""Every tower class of open_clip in miniature: it equals open_clip, and carries methods or refuses (`make towers`: all)."""

import copy

import pytest
import torch
import torch.nn.functional as F
from torch.testing import assert_close
from towers.contract import check
from towers.small import CONFIGS, SEQUENCES, model, published, small

from ironclip.backbones.deep_prompts import AppendedPrompts, RenewedPrompts
from ironclip.backbones.wrapping import tokenizer_for, wrap
from ironclip.core.errors import IronclipError, UnsupportedEdit
from ironclip.core.types import Trace

TEXTS = ["a photo of a cat.", "the dog", "a very long giraffe of the woods"]
KINDS = {"vit": "ViT", "averaged": "CLIPA", "no start": "SigLIP", "rotary": "EVA02", "convolutional": "ConvNeXt"}
POSITIONS = "trunk.blocks.2.attn.rel_pos.mlp"
IDLE = {
    "RN50": {"attnpool.k_proj"},
    "RN50-quickgelu": {"attnpool.k_proj"},
    "RelPos": {f"{POSITIONS}.fc1", f"{POSITIONS}.fc2"},
}
"""Layers with parameters that cannot change the features."""


@pytest.fixture(scope="module")
def made():
    """A tower class -> (random open_clip model, the same behind the adapter)."""
    kept = {}

    def build(name):
        if name not in kept:
            random = model(name).requires_grad_(False)
            quick = "quick_gelu" if CONFIGS[name].get("quick_gelu") else "gelu"
            words = tokenizer_for(f"small-{name}", CONFIGS[name])
            kept[name] = random, wrap(random, words, name=f"small-{name}", activation=quick)
        return kept[name]

    with published():
        yield build


@pytest.mark.parametrize("name", CONFIGS)
def test_logits_equal_open_clips(made, name):
    theirs, ours = made(name)
    side = ours.spec.resolution
    images = torch.rand(2, 3, side, side)
    image, text, *_ = theirs((images - ours.mean) / ours.std, ours.tokenize(TEXTS))
    edits = [lambda layer, tokens: tokens] if ours.spec.image_tokens else []
    for given in ([], edits):
        features = ours.encode_image(images, edits=given)
        assert_close(F.normalize(features, dim=-1), image, atol=1e-5, rtol=0)
    assert_close(F.normalize(ours.encode_text(ours.embed_text(TEXTS)), dim=-1), text, atol=1e-5, rtol=0)
    assert bool(ours.spec.image_tokens) == (name in SEQUENCES)


@pytest.mark.parametrize("name", CONFIGS)
def test_every_parameter_that_can_be_learned_changes_the_features(made, name):
    """In float64 a slope that is rounding alone is below 1e-15; an idle parameter has none."""
    tower = copy.deepcopy(made(name)[1]).double()
    spec, side = tower.spec, tower.spec.resolution
    images = torch.rand(2, 3, side, side, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    weights = {key: tower.image_weight(key).clone().requires_grad_() for key in spec.image_parameters}
    features = F.normalize(tower.encode_image(images, weights=weights), dim=-1)
    slopes = torch.autograd.grad(features[:, ::3].sum(), list(weights.values()))
    assert [key for key, slope in zip(weights, slopes, strict=True) if not slope.abs().max() > 1e-9] == []
    idle = [key for key, _ in tower.image.net.named_parameters() if key not in weights]
    moved = {key: tower.image_weight(key) + 1 for key in idle}
    assert_close(tower.encode_image(images, weights=moved), tower.encode_image(images), atol=1e-12, rtol=0)
    assert {key.rpartition(".")[0] for key in idle} == IDLE.get(name, set())


@pytest.mark.parametrize("name", ["RN50", "ViT"])
@pytest.mark.parametrize("method", ["agft", "comp_tga", "simclip"])
def test_fine_tuning_keeps_the_contract(made, name, method):
    check(method, made(name)[1])


@pytest.mark.parametrize("name", SEQUENCES)
def test_deep_prompts_stand_behind_the_image_and_every_depth_counts(made, name):
    _, backbone = made(name)
    spec, trace = backbone.spec, Trace()
    prompts = torch.randn(2, 2, spec.image_width, generator=torch.Generator().manual_seed(2)).requires_grad_()
    images = torch.rand(2, 3, spec.resolution, spec.resolution)
    features = backbone.encode_image(images, edits=[AppendedPrompts(prompts, spec.image_layers)], trace=trace)
    own = spec.image_tokens
    assert [trace.inputs[layer].shape[1] for layer in range(4)] == [own + 2, own + 2, own + 2, own]
    (slope,) = torch.autograd.grad(features.square().sum(), prompts)
    assert slope.abs().amax(dim=(1, 2)).min() > 0


@pytest.mark.parametrize("method", ["advvlp", "fap", "nap", "tapt"])
@pytest.mark.parametrize("name", KINDS.values(), ids=list(KINDS))
def test_prompting_methods_keep_the_contract_or_refuse_by_both_names(made, name, method):
    backbone = made(name)[1]
    if name in SEQUENCES:
        check(method, backbone)
        return
    with pytest.raises(UnsupportedEdit, match=rf"^{method}: small-{name} has no token sequence"):
        check(method, backbone)


@pytest.mark.parametrize("method", ["zero_shot", "apt", "tecoa", "rtpt"])
def test_a_tower_without_a_sequence_carries_the_rest(made, method):
    check(method, made("ConvNeXt")[1])


def test_a_convolutional_tower_loads_from_a_file(tmp_path):
    with published():
        backbone = small("Swin", tmp_path)
    assert backbone.spec.image_layers == 0
    assert len(backbone.spec.image_parameters) > 10


def test_a_read_out_that_is_no_class_token_has_no_map_of_one(made):
    with pytest.raises(IronclipError, match="atpt reads where the class token looks; small-CLIPA averages"):
        check("atpt", made("CLIPA")[1])


def test_deeper_text_prompts_take_the_places_of_the_context(made):
    """With a start token in front (CLIP) and without one (SigLIP), whatever is read out at the end."""
    from ironclip.defenses._prompts import IndependentPrompts

    for name, start in (("ViT", 1), ("CLIPA", 1), ("worldwide", 0), ("SigLIP", 0)):
        backbone = made(name)[1]
        edit = IndependentPrompts(backbone, sides="text").adaptation().text_edits[0].value()
        assert isinstance(edit, RenewedPrompts)
        assert edit.start == start
        tokens = torch.zeros(1, 8, backbone.spec.text_width)
        changed = edit(1, tokens).abs().amax(2)[0] > 0
        assert changed.nonzero().flatten().tolist() == [start, start + 1]
