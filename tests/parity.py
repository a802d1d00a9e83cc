"""Reference vectors of the published implementations: how a case is read, and the plain model they were computed on.

The folder is `<shared>/parity`; its README describes storage and tolerances. Nothing here imports ironclip.
"""

import json
from pathlib import Path
from typing import Any

import open_clip
import torch
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.testing import assert_close


def load_case(folder: Path, dtype: torch.dtype = torch.float64) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """(tensors, notes) of a case: inputs in the working precision, expected values as stored.

    Args:
        folder: holds case.safetensors and case.json.
        dtype: of the inputs and weights; pixels are divided by 255 in float32 first, as the notes ask.
    """
    notes = json.loads((folder / "case.json").read_text())
    tensors = load_file(folder / "case.safetensors")
    for name, note in notes["tensors"].items():
        value = tensors[name]
        if note.get("storage", "").startswith("pixels"):
            value = value.float() / 255
        if value.dtype == torch.int32:
            value = value.long()
        if value.dtype == torch.float16 or (value.is_floating_point() and note["role"] != "expected"):
            value = value.to(dtype)
        tensors[name] = value
    return tensors, notes


def assert_matches(case: tuple[dict[str, Tensor], dict[str, Any]], name: str, value: Tensor) -> None:
    """The value equals the stored result of this name within its stored tolerance for the value's precision.

    Integers and masks are exact. A result that can be compared in float64 only fails in float32.
    """
    tensors, notes = case
    expected, note = tensors[name], notes["tensors"][name]
    if not expected.is_floating_point():
        assert_close(value.to(expected.dtype), expected, atol=0, rtol=0)
        return
    tolerance = note["atol_float64" if value.dtype == torch.float64 else "atol_float32"]
    assert tolerance is not None, f"{name} can be compared in float64 only: {note.get('compare_in')}"
    assert_close(value.detach().double(), expected.double(), atol=tolerance, rtol=0, msg=lambda text: f"{name}: {text}")


def parity_state(folder: Path) -> dict[str, Tensor]:
    """The backbone's weights in float32 under OpenAI's names; token rows that were not kept are NaN.

    Args:
        folder: the parity folder.
    """
    state = load_file(folder / "clip" / "weights.safetensors")
    ids, rows = state.pop("token_embedding.ids").long(), state.pop("token_embedding.rows").float()
    table = torch.full((49408, rows.shape[1]), torch.nan)
    table[ids] = rows
    return {**{name: value.float() for name, value in state.items()}, "token_embedding.weight": table}


def parity_clip(folder: Path, dtype: torch.dtype = torch.float64) -> open_clip.CLIP:
    """A plain open_clip.CLIP with the reference weights, in eval mode.

    Args:
        folder: the parity folder.
    """
    sizes = json.loads((folder / "clip" / "case.json").read_text())["constants"]
    vision = open_clip.CLIPVisionCfg(
        layers=sizes["vision_layers"],
        width=sizes["vision_width"],
        head_width=sizes["vision_width"] // sizes["vision_heads"],
        patch_size=sizes["patch_size"],
        image_size=sizes["image_size"],
    )
    text = open_clip.CLIPTextCfg(
        context_length=sizes["context_length"],
        vocab_size=sizes["vocab_size"],
        width=sizes["text_width"],
        heads=sizes["text_heads"],
        layers=sizes["text_layers"],
    )
    model = open_clip.CLIP(sizes["embed_dim"], vision, text, quick_gelu=True)
    model.load_state_dict(parity_state(folder), strict=True)
    return model.to(dtype).eval()


class PlainClassifier(nn.Module):
    """images [B, 3, H, W] in [0, 1] -> scaled cosine logits [B, K] against fixed text features [K, E]."""

    mean: Tensor
    std: Tensor

    def __init__(self, model: open_clip.CLIP, text_features: Tensor, notes: dict[str, Any]) -> None:
        super().__init__()
        self.model = model
        dtype = text_features.dtype
        self.register_buffer("text", text_features.detach() / text_features.detach().norm(dim=1, keepdim=True))
        self.register_buffer("mean", torch.tensor(notes["constants"]["pixel_mean"], dtype=dtype).view(3, 1, 1))
        self.register_buffer("std", torch.tensor(notes["constants"]["pixel_std"], dtype=dtype).view(3, 1, 1))

    def forward(self, images: Tensor) -> Tensor:
        features = self.model.encode_image((images - self.mean) / self.std, normalize=True)
        return self.model.logit_scale.exp() * features @ self.text.T
