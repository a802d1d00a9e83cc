"""Fixtures that the tests of loading share."""

import open_clip
import pytest
import torch
from loaded import ARCHITECTURES, VIT, shaken
from open_clip import pretrained

from ironclip.backbones.wrapping import build


@pytest.fixture(scope="module")
def architectures():
    """Architectures of open_clip's own classes that take milliseconds, with one published tag."""
    patch = pytest.MonkeyPatch()
    for name, config in ARCHITECTURES.items():
        patch.setitem(open_clip.factory._MODEL_CONFIGS, name, config)
        tag = {"mean": (0.4, 0.4, 0.4), "std": (0.3, 0.3, 0.3), "hf_hub": f"somebody/{name}/"}
        patch.setitem(pretrained._PRETRAINED, name, {"openai": {**tag, "quick_gelu": True}, "laion2b": tag})
    yield
    patch.undo()


@pytest.fixture(scope="module")
def model() -> open_clip.CLIP:
    torch.manual_seed(0)
    return shaken(build(VIT, "quick_gelu"))
