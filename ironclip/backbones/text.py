"""The text engine: causal CLIP text towers, run only over tokens that can affect the result.

Exact to float tolerance: prompts are cut at the last end-of-text token (attention is causal), the prefix that all classes
share runs once, the rest runs in groups of similar length, the last layer computes the end-of-text row alone, and many classes
run in length-sorted chunks whose activations are recomputed in the backward pass.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from ironclip.backbones.blocks import pick, run_block
from ironclip.backbones.towers import apply_edits, leaves_output, matrices, named_weight, with_weights
from ironclip.core.types import Edit, PromptTokens, Trace

PADDING = 32  # tokens that a group of classes must save to run apart from the longer ones
PARTS = ("token_embedding", "positional_embedding", "transformer", "ln_final", "text_projection")


class TextTower(nn.Module):
    """A causal text tower read out at the end-of-text token; wraps open_clip's `CLIP` or `TextTransformer`.

    Args:
        text: holder of token_embedding, positional_embedding, transformer, ln_final and text_projection.
        chunk: number of classes that run at once.
    """

    net: Any

    def __init__(self, text: Any, *, chunk: int = 256) -> None:
        super().__init__()
        self.net = nn.Module()
        for part in PARTS:
            setattr(self.net, part, getattr(text, part))
        self.chunk = chunk
        self.layers = len(self.net.transformer.resblocks)
        self.context_length, self.width = self.net.positional_embedding.shape
        self.eos_id: int | None = None
        if getattr(text, "text_pool_type", getattr(text, "pool_type", "argmax")) == "eos":
            self.eos_id = int(getattr(text, "text_eos_id", getattr(text, "eos_id", 2)))

    @property
    def weight_names(self) -> tuple[str, ...]:
        return matrices(self.net)

    @property
    def parameter_names(self) -> tuple[str, ...]:
        """Every parameter that `weights=` replaces: all but the token table, which `embed` uses before."""
        return tuple(name for name, _ in self.net.named_parameters() if not name.startswith("token_embedding."))

    def weight(self, name: str) -> Tensor:
        return named_weight(self.net, name)

    def embed(self, ids: Tensor) -> PromptTokens:
        """The prompts of token ids [K, T], cut at the last end-of-text token."""
        eot = ids.argmax(1) if self.eos_id is None else (ids == self.eos_id).int().argmax(1)
        ids = ids[:, : int(eot.max()) + 1]
        return PromptTokens(self.net.token_embedding(ids), eot, shared_columns(ids), ids)

    def forward(
        self,
        tokens: PromptTokens,
        *,
        edits: Sequence[Edit] = (),
        weights: Mapping[str, Tensor] | None = None,
        trace: Trace | None = None,
    ) -> Tensor:
        """[K, E] features, not normalised."""
        if trace is not None or len(tokens.eot) <= self.chunk:
            return with_weights(self, weights, tokens.embeddings, tokens.eot, tokens.shared, edits, trace)
        order = tokens.eot.argsort(stable=True)
        features = []
        for part in order.split(self.chunk):
            args = (tokens.embeddings[part], tokens.eot[part], tokens.shared, edits, None)
            if torch.is_grad_enabled():
                features.append(checkpoint(with_weights, self, weights, *args, use_reentrant=False))
            else:
                features.append(with_weights(self, weights, *args))
        return torch.cat(features)[order.argsort()]

    def run(self, embeddings: Tensor, eot: Tensor, shared: int, edits: Sequence[Edit], trace: Trace | None) -> Tensor:
        length = int(eot.max()) + 1
        tokens = embeddings[:, :length] + self.net.positional_embedding[:length]
        split = self._prefix(len(tokens), int(eot.min()), shared, edits) if trace is None else 0
        if split:
            return self._run_grouped(tokens, eot, split, edits)
        positions = torch.arange(length, device=tokens.device)
        causal = positions[:, None] >= positions
        last = self.layers - 1
        for layer, block in enumerate(self.net.transformer.resblocks):
            tokens = apply_edits(edits, layer, tokens)
            if layer == last and trace is None and leaves_output(edits):
                sees = (positions <= eot[:, None])[:, None, None]
                return self._project(run_block(block, tokens, rows=eot, mask=sees)[:, 0])
            record: list[Tensor] | None = None
            if trace is not None and trace.wants(layer):
                if trace.tokens:
                    trace.inputs[layer] = tokens
                record = [] if trace.attention else None
            tokens = run_block(block, tokens, mask=causal, record=record)
            if record:
                trace.weights[layer] = record[0]  # type: ignore[union-attr]
        tokens = apply_edits(edits, self.layers, tokens)
        if trace is not None and trace.tokens and trace.wants(self.layers):
            trace.inputs[self.layers] = tokens
        return self._project(pick(tokens, eot)[:, 0])

    def _run_grouped(self, tokens: Tensor, eot: Tensor, split: int, edits: Sequence[Edit]) -> Tensor:
        """[K, E]: the first `split` positions run once, the rest of the classes in groups of similar length."""
        groups = length_groups(eot)
        prefix = tokens[:1, :split]
        parts = [tokens[group, split : int(eot[group[-1]]) + 1] for group in groups]
        positions = torch.arange(tokens.shape[1], device=tokens.device)
        causal = positions[:, None] >= positions
        alone = [edit.beyond for edit in edits if hasattr(edit, "beyond")]
        *blocks, last = self.net.transformer.resblocks
        for layer, block in enumerate(blocks):
            prefix = apply_edits(edits, layer, prefix)
            for i, part in enumerate(parts):
                mask = causal[split : split + part.shape[1], : split + part.shape[1]]
                parts[i] = run_block(block, apply_edits(alone, layer, part), prefix=prefix, mask=mask)
            prefix = run_block(block, prefix, mask=causal[:split, :split])
        prefix = apply_edits(edits, len(blocks), prefix)
        for i, (group, part) in enumerate(zip(groups, parts, strict=True)):
            sees = (positions[: split + part.shape[1]] <= eot[group, None])[:, None, None]
            part = apply_edits(alone, len(blocks), part)
            parts[i] = run_block(last, part, rows=eot[group] - split, prefix=prefix, mask=sees)
        return self._project(torch.cat(parts)[torch.cat(groups).argsort(), 0])

    def _project(self, rows: Tensor) -> Tensor:
        rows = self.net.ln_final(rows)
        projection: Any = self.net.text_projection
        if projection is None:
            return rows
        return projection(rows) if isinstance(projection, nn.Linear) else rows @ projection

    def _prefix(self, classes: int, first_eot: int, shared: int, edits: Sequence[Edit]) -> int:
        """Number of leading positions to run once for all classes; 0 where an edit may depend on later positions."""
        split = min(shared, first_eot)
        if classes < 2 or not leaves_output(edits):
            return 0
        return split if all(0 <= _reach(edit) <= split for edit in edits) else 0


def _reach(edit: Edit) -> int:
    """Number of leading positions within which an edit depends on positions, -1 where it does not say."""
    return int(getattr(edit, "reach", -1))


def length_groups(eot: Tensor) -> list[Tensor]:
    """The classes [K] in groups, each by rising length, so that padding to the longest of its group costs little."""
    order = eot.argsort(stable=True)
    ends = eot[order].tolist()
    cuts = [0]
    for i in range(1, len(ends)):
        if (i - cuts[-1]) * (ends[i] - ends[i - 1]) > PADDING:
            cuts.append(i)
    return list(order.tensor_split(cuts[1:]))


def shared_columns(ids: Tensor) -> int:
    """Number of leading columns of ids [K, T] that are the same in every row."""
    same = (ids == ids[:1]).all(0)
    return int(same.int().cumprod(0).sum())
