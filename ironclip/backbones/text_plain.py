"""Text towers whose prompts cannot be cut, such as SigLIP's: no causal mask, read out at the last of 64 padded positions."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from ironclip.backbones.blocks import run_block
from ironclip.backbones.text import TextTower, shared_columns
from ironclip.backbones.towers import apply_edits
from ironclip.core.types import Edit, PromptTokens, Trace


class PlainTextTower(TextTower):
    """open_clip's text tower as it is, over all positions, with edit points: no truncation, no shared prefix.

    Args:
        text: as for `TextTower`; its pool and mask are kept.
        chunk: number of classes that run at once.
    """

    def __init__(self, text: nn.Module, *, chunk: int = 64) -> None:
        super().__init__(text, chunk=chunk)
        self.pool = str(getattr(text, "text_pool_type", getattr(text, "pool_type", "argmax")))
        self.causal = getattr(text, "attn_mask", None) is not None

    def embed(self, ids: Tensor) -> PromptTokens:
        """The prompts of token ids [K, T], whole, with `eot` the position that the pool reads."""
        ends = {"last": torch.full_like(ids[:, 0], ids.shape[1] - 1), "first": torch.zeros_like(ids[:, 0])}
        found = ids.argmax(1) if self.eos_id is None else (ids == self.eos_id).int().argmax(1)
        return PromptTokens(self.net.token_embedding(ids), ends.get(self.pool, found), shared_columns(ids), ids)

    def run(self, embeddings: Tensor, eot: Tensor, shared: int, edits: Sequence[Edit], trace: Trace | None) -> Tensor:
        tokens = embeddings + self.net.positional_embedding[: embeddings.shape[1]]
        positions = torch.arange(tokens.shape[1], device=tokens.device)
        for layer, block in enumerate(self.net.transformer.resblocks):
            tokens = apply_edits(edits, layer, tokens)
            record: list[Tensor] | None = None
            if trace is not None and trace.wants(layer):
                if trace.tokens:
                    trace.inputs[layer] = tokens
                record = [] if trace.attention else None
            tokens = run_block(block, tokens, mask=positions[:, None] >= positions if self.causal else None, record=record)
            if trace is not None and record:
                trace.weights[layer] = record[0]
        tokens = apply_edits(edits, self.layers, tokens)
        if trace is not None and trace.tokens and trace.wants(self.layers):
            trace.inputs[self.layers] = tokens
        return self._project(tokens[torch.arange(len(tokens), device=tokens.device), eot])
