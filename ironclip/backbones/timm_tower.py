"""Image towers that open_clip takes from timm: SigLIP, EVA, Perception Encoder, and feature-only for the rest.

Edits and traces need a plain sequence of blocks: timm's `VisionTransformer` (SigLIP, SigLIP 2, ViTamin, MobileCLIP-B) and `Eva`
(EVA, EVA02, PE). Convolutional trunks (ConvNeXt, FastViT) and windowed ones give features only.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch
from open_clip.timm_model import TimmModel
from timm.models.eva import Eva
from timm.models.vision_transformer import VisionTransformer
from timm.models.vision_transformer_relpos import VisionTransformerRelPos
from torch import Tensor, nn

from ironclip.backbones.towers import Tower, apply_edits
from ironclip.core.errors import UnsupportedEdit
from ironclip.core.types import Edit, Trace


class TimmTower(Tower):
    """An open_clip TimmModel behind the interface of the image towers.

    The sequence is [prefix (class and register tokens, perhaps none), grid, whatever edits append]. Tokens after the grid get no
    rotary position, like the prefix in timm. Pools that average or attend see every token left after layer L, so an edit that
    adds tokens removes them there.
    """

    kind = "timm"

    def __init__(self, visual: TimmModel) -> None:
        super().__init__()
        self.net = visual
        trunk = visual.trunk
        self.has_tokens = type(trunk) in (VisionTransformer, Eva)
        self.prefix: int = trunk.num_prefix_tokens if self.has_tokens else 0
        self.layers = len(trunk.blocks) if self.has_tokens else 0
        self.width = trunk.embed_dim if self.has_tokens else trunk.num_features
        self.resolution = visual.image_size[0]
        self.grid = trunk.patch_embed.grid_size[0] if self.has_tokens else 0
        self.tokens = self.prefix + self.grid**2 if self.has_tokens else 0
        self.class_token = self.has_tokens and trunk.global_pool == "token"
        if isinstance(trunk, VisionTransformerRelPos) and trunk.global_pool == "token":
            # a class token has no position; in the last layer its attention alone is read out
            self.idle = (f"trunk.blocks.{len(trunk.blocks) - 1}.attn.rel_pos.",)

    @property
    def weight_names(self) -> tuple[str, ...]:
        inside = "trunk.blocks." if self.has_tokens else ""
        names = self.net.named_parameters()
        return tuple(n for n, value in names if n.startswith(inside) and n.endswith(".weight") and value.ndim > 1)

    def run(self, images: Tensor, edits: Sequence[Edit], trace: Trace | None) -> Tensor:
        """[B, E] features, not normalised.

        `trace.projected` [B, G*G, E] is the final norm, the pool of every grid token alone, and the projection: for an
        attention pool its value readout (attention over one token is 1), for class-token and average pools the token itself.

        Raises:
            UnsupportedEdit: edits or a trace of a trunk without a token sequence; tokens removed where positions are rotary.
        """
        if not edits and trace is None:
            return self.net(images)
        trunk = self.net.trunk
        if not self.has_tokens:
            raise UnsupportedEdit(
                f"{type(trunk).__name__} has no plain token sequence to edit or trace; use a ViT, SigLIP or EVA backbone"
            )
        tokens, rope = self._embed(images)
        tokens = trunk.norm_pre(apply_edits(edits, -1, tokens))
        for layer, block in enumerate(trunk.blocks):
            tokens = apply_edits(edits, layer, tokens)
            self._note(trace, layer, tokens)
            positions = () if rope is None else (self._rotations(rope, layer, tokens.shape[1]),)
            if trace is not None and trace.attention and trace.wants(layer):
                with _attention_of(block.attn) as seen:
                    tokens = block(tokens, *positions)
                trace.weights[layer] = seen[0]
            else:
                tokens = block(tokens, *positions)
        tokens = apply_edits(edits, self.layers, tokens)
        self._note(trace, self.layers, tokens)
        tokens = trunk.norm(tokens)
        if trace is not None and trace.grid:
            trace.projected = self._dense(tokens[:, self.prefix : self.prefix + self.grid**2])
        return self.net.head(trunk.forward_head(tokens))

    def _embed(self, images: Tensor) -> tuple[Tensor, Tensor | None]:
        """Tokens [B, N, D] with positions, and the rotations of the grid where the trunk has them."""
        trunk = self.net.trunk
        embedded = trunk._pos_embed(trunk.patch_embed(images))
        return embedded if isinstance(embedded, tuple) else (embedded, None)

    def _rotations(self, rope: Tensor, layer: int, tokens: int) -> Tensor:
        """Rotations [.., N - prefix, 2 R] (sines, then cosines): those of the grid, and none for what stands behind it."""
        if getattr(self.net.trunk, "rope_mixed", False):
            rope = rope[layer]
        behind = tokens - self.prefix - rope.shape[-2]
        if behind < 0:
            raise UnsupportedEdit(
                f"this backbone has rotary positions, so grid tokens cannot be removed: {self.prefix + rope.shape[-2]} tokens "
                f"expected at layer {layer}, {tokens} came; use a backbone with learned positions"
            )
        if behind == 0:
            return rope
        sines, cosines = rope.new_zeros(rope.shape[-1] // 2), rope.new_ones(rope.shape[-1] // 2)
        return torch.cat([rope, torch.cat([sines, cosines]).expand(*rope.shape[:-2], behind, -1)], dim=-2)

    def _dense(self, grid: Tensor) -> Tensor:
        trunk = self.net.trunk
        if trunk.attn_pool is not None:
            grid = trunk.attn_pool(grid.reshape(-1, 1, grid.shape[-1])).reshape(*grid.shape[:2], -1)
        return self.net.head(trunk.head(trunk.fc_norm(grid)))

    def _note(self, trace: Trace | None, layer: int, tokens: Tensor) -> None:
        if trace is not None and trace.tokens and trace.wants(layer):
            trace.inputs[layer] = tokens


@contextmanager
def _attention_of(attention: nn.Module) -> Iterator[list[Tensor]]:
    """Collect the probabilities [B, H, N, N] of a timm attention module, on the autograd path.

    timm computes them itself when its fused kernel is off, and hands them to `attn_drop`, which passes them on unchanged.
    """
    drop, fused = getattr(attention, "attn_drop", None), getattr(attention, "fused_attn", None)
    if drop is None or fused is None:
        raise UnsupportedEdit(f"{type(attention).__name__} does not show its attention; use a ViT backbone of open_clip")
    seen: list[Tensor] = []
    hook = drop.register_forward_hook(lambda module, inputs, output: seen.append(output))
    setattr(attention, "fused_attn", False)  # noqa: B010  mypy takes a module's attributes for tensors
    try:
        yield seen
    finally:
        setattr(attention, "fused_attn", fused)  # noqa: B010
        hook.remove()
