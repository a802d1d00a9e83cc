"""Our adapter against open_clip's own encoders on published architectures with random weights, float32, within 1e-5."""

from dataclasses import replace

import open_clip
import pytest
import torch
from torch import Tensor
from torch.testing import assert_close

from ironclip.backbones import ClipBackbone
from ironclip.backbones.text import TextTower
from ironclip.backbones.text_plain import PlainTextTower
from ironclip.backbones.wrapping import build, tokenizer_for, wrap
from ironclip.core.errors import UsageError
from ironclip.core.types import Trace

TEXTS = ["a dog", "a photo of a golden retriever, a type of dog, on a highway or road.", "x " * 75]
ARCHITECTURES = ("ViT-B-32", "ViT-B-16", "RN50", "ViT-B-16-SigLIP", "EVA02-B-16")


class GivenIds:
    """Stands in for SigLIP's tokenizer, which lives on the hub: words are numbers, 1 ends and pads."""

    def __call__(self, texts: list[str]) -> Tensor:
        ids = torch.ones(len(texts), 64, dtype=torch.long)
        for row, text in enumerate(texts):
            words = [2 + sum(map(ord, word)) % 31000 for word in text.split()][:63]
            ids[row, : len(words)] = torch.tensor(words)
        return ids


@pytest.fixture(scope="module", params=ARCHITECTURES)
def pair(request) -> tuple[ClipBackbone, torch.nn.Module]:
    config = open_clip.get_model_config(request.param)
    torch.manual_seed(0)
    model = build(config, "gelu" if "SigLIP" in request.param else "quick_gelu").requires_grad_(False)
    if request.param == "EVA02-B-16":
        model.visual.trunk.head.weight *= 1000  # timm starts it a thousand times smaller than features are
    tokenizer = GivenIds() if "SigLIP" in request.param else tokenizer_for(request.param, config)
    return wrap(model, tokenizer, name=request.param, activation="quick_gelu"), model


def test_images_equal_open_clips(pair):
    backbone, model = pair
    side = backbone.spec.resolution
    images = torch.rand(1, 3, side, side, generator=torch.Generator().manual_seed(1))
    expected = model.encode_image((images - backbone.mean) / backbone.std)
    assert expected.abs().max() > 0.05
    assert_close(backbone.encode_image(images), expected, atol=1e-5, rtol=0)
    trace = Trace(attention=True, grid=True)
    assert_close(backbone.encode_image(images, trace=trace), expected, atol=1e-5, rtol=0)
    assert trace.projected.shape == (1, backbone.spec.grid**2, backbone.spec.embed_dim)
    assert sorted(trace.weights) == list(range(backbone.spec.image_layers))


def test_texts_of_every_length_equal_open_clips(pair):
    backbone, model = pair
    ids = backbone.tokenize(TEXTS)
    expected = model.encode_text(ids)
    assert expected.abs().max() > 0.05
    tokens = backbone.embed_text(TEXTS)
    assert_close(backbone.encode_text(tokens), expected, atol=1e-5, rtol=0)
    for row, text in enumerate(TEXTS):
        alone = backbone.embed_text([text])
        assert_close(backbone.encode_text(alone), expected[row : row + 1], atol=1e-5, rtol=0)
    assert_close(backbone.encode_text(tokens, edits=[lambda layer, x: x]), expected, atol=1e-5, rtol=0)
    trace = Trace(attention=True)
    assert_close(backbone.encode_text(tokens, trace=trace), expected, atol=1e-5, rtol=0)
    assert sorted(trace.inputs) == list(range(backbone.spec.text_layers + 1))


def test_causal_prompts_are_cut_and_others_are_not(pair):
    backbone, _ = pair
    short = backbone.embed_text(TEXTS[:1])
    if backbone.spec.name == "ViT-B-16-SigLIP":
        assert type(backbone.text) is PlainTextTower
        assert short.embeddings.shape[1] == 64
        assert short.eot.tolist() == [63]
    else:
        assert type(backbone.text) is TextTower
        assert short.embeddings.shape[1] == 4
        filled = replace(short, embeddings=torch.cat([short.embeddings, torch.randn(1, 5, backbone.spec.text_width)], dim=1))
        assert_close(backbone.encode_text(filled), backbone.encode_text(short), atol=1e-5, rtol=0)
        with pytest.raises(UsageError, match=r"has 76 tokens; .* holds at most 75"):
            backbone.embed_text(["x " * 76])


def test_the_sizes_are_open_clips(pair):
    backbone, model = pair
    spec = backbone.spec
    assert spec.logit_scale == pytest.approx(float(model.logit_scale.exp()))
    assert (spec.logit_bias is not None) == (spec.name == "ViT-B-16-SigLIP")
    assert all(backbone.image_weight(name).ndim >= 2 for name in spec.image_weights)
    assert all(backbone.text_weight(name).ndim >= 2 for name in spec.text_weights)
    assert len(spec.text_weights) == 4 * spec.text_layers
    backbone.train()
    assert not any(module.training for module in backbone.modules())
    assert not any(parameter.requires_grad for parameter in backbone.parameters())
