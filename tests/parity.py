"""Reference vectors of the published implementations: how a case is read, and the plain model they were computed on.

`tests/parity_vectors` holds them; its README describes storage and tolerances. The environment variable IRONCLIP_PARITY names
another folder of the same form. Nothing here imports ironclip.
"""

import json
import os
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import open_clip
import pytest
import torch
from open_clip.tokenizer import SimpleTokenizer
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.testing import assert_close

OWN = Path(__file__).resolve().parent / "parity_vectors"
FOLDER = Path(os.environ.get("IRONCLIP_PARITY", OWN)).resolve()
if not (FOLDER / "clip" / "case.json").is_file():
    raise pytest.UsageError(f"IRONCLIP_PARITY: expected a folder with clip/case.json in it, got {FOLDER}")
SPACING = 2.0**-24  # of float32 numbers below 1
Case = tuple[dict[str, Tensor], dict[str, Any]]


def cases(prefix: str) -> list[str]:
    """The names of the cases in the folder that begin so."""
    return sorted(path.parent.name for path in FOLDER.glob(f"{prefix}*/case.json"))


def notes_of(name: str) -> dict[str, Any]:
    """The notes of a case; empty notes where another folder lacks the case."""
    path = FOLDER / name / "case.json"
    if FOLDER != OWN and not path.is_file():
        return {"constants": {}, "tensors": {}}
    return json.loads(path.read_text())


def load_case(name: str, dtype: torch.dtype = torch.float64) -> Case:
    """(tensors, notes) of a case: inputs in the working precision, expected values as stored.

    Args:
        name: of the case's folder, which holds case.safetensors and case.json.
        dtype: of the inputs and weights; pixels are divided by 255 in float32 first, as the notes ask.
    """
    notes = notes_of(name)
    if not notes["tensors"]:
        pytest.skip(f"IRONCLIP_PARITY has no case {name}")
    tensors = load_file(FOLDER / name / "case.safetensors")
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


def assert_matches(case: Case, name: str, value: Tensor, *, spread: float = 1.0) -> None:
    """The value equals the stored result of this name within its stored tolerance for the value's precision.

    Integers and masks are exact. A result that can be compared in float64 only fails in float32.

    Args:
        spread: factor on the float32 tolerance, for a quotient of two small differences: processors round it differently.
    """
    tensors, notes = case
    expected, note = tensors[name], notes["tensors"][name]
    if not expected.is_floating_point():
        assert_close(value.to(expected.dtype), expected, atol=0, rtol=0)
        return
    tolerance = note["atol_float64" if value.dtype == torch.float64 else "atol_float32"]
    assert tolerance is not None, f"{name} can be compared in float64 only: {note.get('compare_in')}"
    if value.dtype != torch.float64:
        tolerance *= spread
    assert_close(value.detach().double(), expected.double(), atol=tolerance, rtol=0, msg=lambda text: f"{name}: {text}")


def comparable(case: Case, name: str, dtype: torch.dtype) -> bool:
    """Whether a result is stated for this precision."""
    return dtype == torch.float64 or case[1]["tensors"][name].get("atol_float32") is not None


def assert_attack_matches(case: Case, name: str, value: Tensor, images: Tensor | None = None, *, share: float = 1e-3) -> None:
    """As `assert_matches` in float64. In float32 all but a small share of the numbers lie within the stored tolerance.

    A slope that is zero up to rounding may go either way in float32, so a few numbers are two steps apart. The tolerance is at
    least four spacings of float32 pixels, for we keep images where the released codes keep perturbations.

    Args:
        share: of the numbers, below which they may differ; for attacks of very many steps.
        images: where the stored tensor is a perturbation and `value` holds the perturbed images.
    """
    found = value if images is None else value.double() - images.double()
    if value.dtype == torch.float64:
        assert_matches(case, name, found)
        return
    tolerance = max(case[1]["tensors"][name].get("atol_float32") or 0.0, 4 * SPACING)
    off = (found.double() - case[0][name].double()).abs() > tolerance
    assert off.double().mean() < share, f"{name}: {int(off.sum())} of {off.numel()} numbers differ by more than {tolerance:.1e}"


def words(ids: Tensor) -> str:
    """The text of token ids [T] without start, end and padding, in lower case."""
    return SimpleTokenizer().decode(ids[1 : int(ids.argmax())].tolist()).strip()


def template(ids: Tensor, names: Sequence[str]) -> str:
    """The template of the prompts [K, T] of these classes, in lower case, with {} in the name's place.

    A class name may also be a word of the template: of its places in the first prompt, the one that fits every prompt counts.
    """
    prompts = [words(row) for row in ids]
    plain = [words(SimpleTokenizer()([name.replace("_", " ")])[0]) for name in names]
    for match in re.finditer(re.escape(plain[0]), prompts[0]):
        found = prompts[0][: match.start()] + "{}" + prompts[0][match.end() :]
        if [found.replace("{}", name) for name in plain] == prompts:
            return found
    raise ValueError(f"the stored prompts have no common template: {prompts}")


def parity_state() -> dict[str, Tensor]:
    """The backbone's weights in float32 under OpenAI's names; token rows that were not kept are NaN."""
    state = load_file(FOLDER / "clip" / "weights.safetensors")
    ids, rows = state.pop("token_embedding.ids").long(), state.pop("token_embedding.rows").float()
    table = torch.full((notes_of("clip")["constants"]["vocab_size"], rows.shape[1]), torch.nan)
    table[ids] = rows
    return {**{name: value.float() for name, value in state.items()}, "token_embedding.weight": table}


def activation() -> str:
    """quick_gelu or gelu: what the backbone's notes say, in whatever words."""
    return "quick_gelu" if "quick" in notes_of("clip")["constants"]["activation"].lower() else "gelu"


def parity_clip(dtype: torch.dtype = torch.float64) -> open_clip.CLIP:
    """A plain open_clip.CLIP with the reference weights, in eval mode."""
    sizes = notes_of("clip")["constants"]
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
    model = open_clip.CLIP(sizes["embed_dim"], vision, text, quick_gelu=activation() == "quick_gelu")
    model.load_state_dict(parity_state(), strict=True)
    for part in model.modules():
        if isinstance(part, nn.LayerNorm):
            part.eps = sizes["layer_norm_eps"]
    return model.to(dtype).eval()


class PlainClassifier(nn.Module):
    """images [B, 3, H, W] in [0, 1] -> scaled cosine logits [B, K] against fixed text features [K, E]."""

    mean: Tensor
    std: Tensor

    def __init__(self, model: open_clip.CLIP, text_features: Tensor) -> None:
        super().__init__()
        self.model, sizes = model, notes_of("clip")["constants"]
        dtype = text_features.dtype
        self.register_buffer("text", text_features.detach() / text_features.detach().norm(dim=1, keepdim=True))
        self.register_buffer("mean", torch.tensor(sizes["pixel_mean"], dtype=dtype).view(3, 1, 1))
        self.register_buffer("std", torch.tensor(sizes["pixel_std"], dtype=dtype).view(3, 1, 1))

    def forward(self, images: Tensor) -> Tensor:
        features = self.model.encode_image((images - self.mean) / self.std, normalize=True)
        return self.model.logit_scale.exp() * features @ self.text.T
