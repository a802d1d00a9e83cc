"""`load`: a frozen backbone by name, with its activation settled, its weights checked and hashed."""

from collections.abc import Mapping
from pathlib import Path
from typing import cast

import torch
from open_clip.model import convert_to_custom_text_state_dict
from torch import Tensor

from ironclip.backbones.adapter import ClipBackbone
from ironclip.backbones.checkpoints import fill, tensor_hash
from ironclip.backbones.probe import check_probe
from ironclip.backbones.recipes import Recipe
from ironclip.backbones.registry import Activation
from ironclip.backbones.sources import resolve
from ironclip.backbones.wrapping import build, tokenizer_for, wrap
from ironclip.core.errors import UsageError

PRECISIONS = {"float32": torch.float32, "float64": torch.float64}


def load(
    name: str,
    *,
    weights: str | Path | None = None,
    base: str | None = None,
    device: torch.device | str = "cpu",
    precision: str = "float32",
    activation: str | None = None,
) -> ClipBackbone:
    """A frozen backbone in evaluation mode.

    Names: `mini`, `mini-robust`; `ViT-B-32/openai` (any architecture/tag of open_clip, downloaded); `hf-hub:org/name`;
    `tecoa-vitb32-eps4` and its like; `ViT-B-32@FILE`, or `ViT-B-32` with `weights=FILE`; a file that describes itself.

    The activation is taken from where it is known: our table for tags, the metadata entry `activation` of a safetensors file,
    the configuration of a hub model or an architecture (`-quickgelu`; timm towers have GELU), OpenAI's format (QuickGELU),
    and for a file with an image tower alone (TeCoA, FARE) its base. Otherwise `activation` must say it.

    Args:
        weights: a file, a folder or a tag of open_clip.
        base: the backbone that gives the text tower where the file holds an image tower alone; default `ARCHITECTURE/openai`.
        precision: of the weights, "float32" or "float64"; to compute in bfloat16 give `precision` to `assemble`.

    Raises:
        UsageError: an unknown name, device or precision.
        CheckpointError: weights that cannot be loaded, do not fit, or have an unknown or contradictory activation.
    """
    if precision not in PRECISIONS:
        raise UsageError(f"weights are loaded in float32 or float64; got {precision!r} (bfloat16 is an option of assemble)")
    where = check_device(device)
    backbone, _ = assembled(name, weights=weights, base=base, activation=activation)
    return backbone.to(device=where, dtype=PRECISIONS[precision])


def assembled(name: str, *, weights: str | Path | None, base: str | None, activation: str | None) -> tuple[ClipBackbone, Recipe]:
    """(the backbone in float32 on the CPU, what it was made from); arguments and errors as for `load`."""
    if activation not in (None, "gelu", "quick_gelu"):
        raise UsageError(f"activation is 'gelu' or 'quick_gelu'; got {activation!r}")
    recipe = resolve(name, weights=weights, base=base, activation=cast(Activation | None, activation))
    model = build(recipe.config, recipe.activation)
    fill(model, _text_names(recipe.state, custom=hasattr(model, "text")), recipe.path, recipe.tokenizer)
    if recipe.visual is not None:
        fill(model.visual, recipe.visual, recipe.visual_path, f"the image tower of {recipe.tokenizer}")
    backbone = wrap(
        model,
        tokenizer_for(recipe.tokenizer, recipe.config),
        name=recipe.name,
        activation=recipe.activation,
        mean=recipe.mean,
        std=recipe.std,
        sha256=tensor_hash(model),
    )
    if recipe.probe is not None:
        check_probe(backbone, recipe.probe, recipe.visual_path or recipe.path)
    given = {"backbone": name, "weights": weights, "base": base, "activation": activation}
    backbone.origin = {key: str(value) for key, value in given.items() if value is not None}
    return backbone, recipe


def check_device(device: torch.device | str) -> torch.device:
    """The device, or UsageError where this machine does not have it."""
    try:
        return torch.empty(0, device=device).device
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        raise UsageError(f"device {str(device)!r} cannot be used here: {str(error).splitlines()[0][:120]}") from None


def _text_names(state: Mapping[str, Tensor], *, custom: bool) -> dict[str, Tensor]:
    """The state dict with its text tower where the model has it: below `text.` or flat."""
    if custom:
        return convert_to_custom_text_state_dict(dict(state))
    return {name.removeprefix("text."): tensor for name, tensor in state.items()}
