"""Masks over the weights of an image tower: which matrices, the straight-through gate, bits on the disk.

A set of masks is a mapping from weight names to bool tensors of the weights' shapes; a name that is missing keeps everything.
"""

import re
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ironclip.core.errors import UnsupportedEdit, UsageError, unknown
from ironclip.core.types import BackboneSpec

Masks = Mapping[str, Tensor]

SHORT = {"attention": ("q", "k", "v", "out"), "mlp": ("mlp_fc", "mlp_proj")}
SHORT["both"] = (*SHORT["attention"], *SHORT["mlp"])
TARGETS = ("q", "k", "v", "out", "mlp_fc", "mlp_proj", "conv")
THIRDS = ("q", "k", "v")
"""Row thirds of a fused matrix [3 D, D], in this order in open_clip and in timm."""
PATTERNS = {
    "q": r"\.attn\.(in_proj_weight|qkv\.weight|q_proj\.weight)$",
    "k": r"\.attn\.(in_proj_weight|qkv\.weight|k_proj\.weight)$",
    "v": r"\.attn\.(in_proj_weight|qkv\.weight|v_proj\.weight)$",
    "out": r"\.attn\.(out_proj|proj)\.weight$",
    "mlp_fc": r"\.mlp\.(c_fc|fc1|fc1_g|fc1_x)\.weight$",
    "mlp_proj": r"\.mlp\.(c_proj|fc2)\.weight$",
}
CONV = {"vit": "conv1.weight", "timm": "trunk.patch_embed.proj.weight"}
FUSED = r"\.(in_proj_weight|qkv\.weight)$"


def chosen(targets: str | Sequence[str]) -> tuple[str, ...]:
    """The targets in canonical order; "attention", "mlp" and "both" stand for several.

    Raises:
        UsageError: no target, or an unknown one.
    """
    given = SHORT.get(targets, (targets,)) if isinstance(targets, str) else tuple(targets)
    for target in given:
        if target not in TARGETS:
            raise unknown("target", str(target), (*TARGETS, *SHORT))
    if not given:
        raise UsageError(f"targets must name at least one of {', '.join(TARGETS)}; got none")
    return tuple(target for target in TARGETS if target in given)


def maskable(spec: BackboneSpec, targets: Sequence[str], layers: Sequence[int] | None = None) -> dict[str, tuple[str, ...]]:
    """Weight name -> the targets it holds, in the order of the tower; several only where q, k and v are one matrix.

    Args:
        layers: blocks to mask, 0 to L - 1; None: all.

    Raises:
        UnsupportedEdit: a tower without transformer blocks, or without one of the targets.
        UsageError: a layer that the tower does not have.
    """
    if not spec.image_tokens or spec.kind not in CONV:
        raise UnsupportedEdit(f"{spec.name} has no transformer blocks whose weights could be masked; use a ViT backbone")
    wanted = range(spec.image_layers) if layers is None else layers
    for layer in wanted:
        if isinstance(layer, bool) or not isinstance(layer, int) or not 0 <= layer < spec.image_layers:
            raise UsageError(f"layers are whole numbers from 0 to {spec.image_layers - 1}; got {layer!r}")
    found: dict[str, tuple[str, ...]] = {CONV[spec.kind]: ("conv",)} if "conv" in targets else {}
    for name in spec.image_weights:
        block = re.search(r"blocks\.(\d+)\.", name)
        held = tuple(target for target in targets if target in PATTERNS and re.search(PATTERNS[target], name))
        if block and int(block[1]) in wanted and held:
            found[name] = held
    missing = set(targets) - {target for held in found.values() for target in held}
    if missing:
        raise UnsupportedEdit(f"{spec.name} has no weights of the kind {', '.join(sorted(missing))} in the layers asked for")
    return found


def rows_of(name: str, held: Sequence[str], weight: Tensor) -> Tensor | None:
    """Positions of the rows of a fused matrix [3 D, D] that these targets hold; None: all rows of the weight."""
    if not re.search(FUSED, name) or len(held) == len(THIRDS):
        return None
    third = len(weight) // 3
    parts = [torch.arange(third) + THIRDS.index(target) * third for target in held]
    return torch.cat(parts)


class MaskGate(torch.autograd.Function):
    """1[score > threshold], strictly, whose gradient is handed to the scores as it is (straight-through, no clipping)."""

    @staticmethod
    def forward(ctx: Any, scores: Tensor, threshold: float) -> Tensor:
        return (scores > threshold).to(scores)

    @staticmethod
    def backward(ctx: Any, *slopes: Any) -> Any:
        return slopes[0], None


def pack(mask: Tensor) -> Tensor:
    """uint8 [ceil(n / 8)]: the n bits row by row, the most significant one first, zeros at the end."""
    return torch.from_numpy(np.packbits(mask.detach().cpu().numpy().astype(bool).reshape(-1)))


def unpack(bits: Tensor, shape: Sequence[int]) -> Tensor:
    """The bool mask [*shape] that was packed.

    Raises:
        UsageError: bytes of another type or number than the shape needs.
    """
    count = int(np.prod(shape))
    if bits.dtype != torch.uint8 or bits.numel() != -(-count // 8):
        raise UsageError(f"a mask of shape {tuple(shape)} is {-(-count // 8)} bytes; got {bits.numel()} of {bits.dtype}")
    return torch.from_numpy(np.unpackbits(bits.cpu().numpy(), count=count)).bool().reshape(tuple(shape))
