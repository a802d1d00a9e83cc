"""open_clip's own vision transformer with edit points."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from ironclip.backbones.blocks import run_block
from ironclip.backbones.towers import Tower, apply_edits, leaves_output
from ironclip.core.errors import UnsupportedEdit
from ironclip.core.types import Edit, Trace


class VitTower(Tower):
    """Wraps `open_clip.transformer.VisionTransformer`; the same features as its own forward without edits."""

    kind = "vit"

    def __init__(self, visual: Any) -> None:
        super().__init__()
        self.net = visual
        self.layers = len(visual.transformer.resblocks)
        self.width = visual.positional_embedding.shape[1]
        self.grid = visual.grid_size[0]
        self.resolution = visual.image_size[0]
        self.tokens = len(visual.positional_embedding)
        self.class_token = visual.attn_pool is None and visual.pool_type == "tok"
        if visual.grid_size != (self.grid, self.grid):
            raise UnsupportedEdit(f"the image tower must take squares; this one takes {visual.image_size[1]} x {self.resolution}")

    def run(self, images: Tensor, edits: Sequence[Edit], trace: Trace | None) -> Tensor:
        net = self.net
        patches = net.conv1(images).flatten(2).transpose(1, 2)
        start = net.class_embedding.expand(patches.shape[0], 1, -1)
        tokens = torch.cat([start, patches], dim=1) + net.positional_embedding
        tokens = net.ln_pre(apply_edits(edits, -1, tokens))
        last = self.layers - 1
        for layer, block in enumerate(net.transformer.resblocks):
            tokens = apply_edits(edits, layer, tokens)
            record: list[Tensor] | None = None
            if trace is not None and trace.wants(layer):
                if trace.tokens:
                    trace.inputs[layer] = tokens
                record = [] if trace.attention else None
            alone = layer == last and self._class_token_is_enough(edits, trace)
            rows = torch.zeros(tokens.shape[0], dtype=torch.long, device=tokens.device) if alone else None
            tokens = run_block(block, tokens, rows=rows, record=record)
            if record:
                trace.weights[layer] = record[0]  # type: ignore[union-attr]
            if alone:
                return self._read(tokens)
        tokens = apply_edits(edits, self.layers, tokens)
        if trace is not None:
            if trace.tokens and trace.wants(self.layers):
                trace.inputs[self.layers] = tokens
            if trace.grid:
                trace.projected = self._project(net.ln_post(tokens[:, 1 : 1 + self.grid**2]))
        return self._read(tokens)

    def _read(self, tokens: Tensor) -> Tensor:
        return self._project(self.net._pool(tokens)[0])

    def _project(self, tokens: Tensor) -> Tensor:
        return tokens if self.net.proj is None else tokens @ self.net.proj

    def _class_token_is_enough(self, edits: Sequence[Edit], trace: Trace | None) -> bool:
        """Whether the last block may compute the class token alone, because no other token is read."""
        wanted = trace is not None and (
            trace.grid or (trace.attention and trace.wants(self.layers - 1)) or (trace.tokens and trace.wants(self.layers))
        )
        return not wanted and self.class_token and leaves_output(edits)
