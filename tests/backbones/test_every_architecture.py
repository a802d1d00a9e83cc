"""Every architecture that open_clip lists, in its published widths with two layers each: our logits are open_clip's."""

import copy
import importlib.util
from contextlib import ExitStack
from typing import Any
from unittest.mock import patch

import open_clip
import pytest
import torch
import torch.nn.functional as F
from open_clip import timm_model
from torch.testing import assert_close
from towers.small import TOKENIZERS

from ironclip.backbones.wrapping import build, tokenizer_for, wrap
from ironclip.core.errors import IronclipError

TEXTS = ["a photo of a cat.", "the dog"]
LAYERS = 2
DEEP = ("vit", "eva", "naflex", "samvit")
"""Beginnings of the names of timm's towers whose depth is one number; convolutional ones are built as they are."""


def shallow(config: dict[str, Any]) -> dict[str, Any]:
    """The architecture with few layers in open_clip's own towers."""
    config = copy.deepcopy(config)
    for tower in (config["vision_cfg"], config["text_cfg"]):
        if "layers" in tower:
            tower["layers"] = [1] * len(tower["layers"]) if isinstance(tower["layers"], list) else LAYERS
    return config


def shallow_timm(name: str, **options: Any) -> Any:
    if name.startswith(DEEP) and not name.startswith("vitamin"):
        options["depth"] = LAYERS
    return create(name, **options)


create = timm_model.timm.create_model


@pytest.fixture(autouse=True)
def patched():
    """Few layers in timm's towers, and a tokenizer that needs no download where open_clip's would."""
    known = open_clip.get_tokenizer

    def tokenizer(name: str, *given: Any, **options: Any) -> Any:
        return TOKENIZERS["siglip"] if "hf_tokenizer_name" in text_of(name) else known(name, *given, **options)

    with ExitStack() as stack:
        stack.enter_context(patch.object(timm_model.timm, "create_model", shallow_timm))
        stack.enter_context(patch.object(open_clip, "get_tokenizer", tokenizer))
        yield


def text_of(name: str) -> dict[str, Any]:
    return (open_clip.get_model_config(name) or {}).get("text_cfg", {})


@pytest.mark.slow
@pytest.mark.parametrize("name", open_clip.list_models())
def test_logits_equal_open_clips(name):
    config = shallow(open_clip.get_model_config(name))
    if "hf_model_name" in config["text_cfg"] and importlib.util.find_spec("transformers") is None:
        pytest.skip("its text tower is one of transformers, which is not installed")
    activation = "quick_gelu" if config.pop("quick_gelu", False) else "gelu"
    torch.manual_seed(0)
    try:
        theirs = build(config, activation).eval()
        ours = wrap(theirs, tokenizer_for(name, config), name=name, activation=activation)
    except IronclipError as refused:
        pytest.skip(f"refused: {refused}")
    side = ours.spec.resolution
    images = torch.rand(1, 3, side, side)
    with torch.no_grad():
        image = F.normalize(theirs.encode_image((images - ours.mean) / ours.std), dim=-1)
        text = F.normalize(theirs.encode_text(ours.tokenize(TEXTS)), dim=-1)
        own = F.normalize(ours.encode_image(images), dim=-1), F.normalize(ours.encode_text(ours.embed_text(TEXTS)), dim=-1)
    assert_close(own[0], image, atol=1e-5, rtol=0)
    assert_close(own[1], text, atol=1e-5, rtol=0)
