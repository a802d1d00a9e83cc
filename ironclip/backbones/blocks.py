"""One pre-norm transformer block of open_clip with three additions to its own forward: attention on the autograd path, selected
query rows, and keys from a prefix that all rows of the batch share."""

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ironclip.core.errors import UnsupportedEdit


def run_block(
    block: Any,
    tokens: Tensor,
    *,
    mask: Tensor | None = None,
    rows: Tensor | None = None,
    prefix: Tensor | None = None,
    record: list[Tensor] | None = None,
) -> Tensor:
    """Tokens after the block.

    Args:
        block: an `open_clip.transformer.ResidualAttentionBlock`.
        tokens: [B, N, D].
        mask: bool, broadcastable to [B, H, Q, P + N]; True where a query may look.
        rows: [B] position of the one row to compute for each batch item; the result is then [B, 1, D].
        prefix: [1, P, D] tokens that enter the same block before `tokens` for every batch item; only looked at.
        record: the attention probabilities [B, H, Q, P + N] are appended to it, on the autograd path.

    Raises:
        UnsupportedEdit: the block is of another kind.
    """
    if not isinstance(getattr(block, "attn", None), nn.MultiheadAttention):
        raise UnsupportedEdit(f"edit points need open_clip's standard attention block; this tower has {type(block).__name__}")
    plain = mask is None and prefix is None and record is None  # as image towers run it: few shapes, which compile to few graphs
    return (computed if plain else _block)(block, tokens, mask, rows, prefix, record)


def _block(
    block: Any, tokens: Tensor, mask: Tensor | None, rows: Tensor | None, prefix: Tensor | None, record: list[Tensor] | None
) -> Tensor:
    normed = block.ln_1(tokens)
    queries = normed if rows is None else pick(normed, rows)
    skip = tokens if rows is None else pick(tokens, rows)
    before = None if prefix is None else block.ln_1(prefix)
    attended = _attention(block.attn, queries, normed, before, mask, record)
    hidden = skip + block.ls_1(attended)
    return hidden + block.ls_2(block.mlp(block.ln_2(hidden)))


computed: Callable[..., Tensor] = _block
"""The function that computes a block of an image tower; compiled inside `compiled.compiling`."""


def pick(tokens: Tensor, rows: Tensor) -> Tensor:
    """[B, 1, D]: of each sequence in tokens [B, N, D] the token at position rows [B]."""
    return tokens.gather(1, rows[:, None, None].expand(-1, 1, tokens.shape[2]))


def _attention(
    attn: nn.MultiheadAttention,
    queries: Tensor,
    keys: Tensor,
    prefix: Tensor | None,
    mask: Tensor | None,
    record: list[Tensor] | None,
) -> Tensor:
    width, heads = attn.embed_dim, attn.num_heads
    weight_q, weight_kv = attn.in_proj_weight.split([width, 2 * width])
    bias_q, bias_kv = attn.in_proj_bias.split([width, 2 * width])
    q = F.linear(queries, weight_q, bias_q)
    kv = F.linear(keys, weight_kv, bias_kv)
    if prefix is not None:
        kv = torch.cat([F.linear(prefix, weight_kv, bias_kv).expand(len(kv), -1, -1), kv], dim=1)
    k, v = kv.chunk(2, dim=-1)
    q, k, v = (t.unflatten(-1, (heads, -1)).transpose(1, 2) for t in (q, k, v))
    if record is None:
        out = F.scaled_dot_product_attention(q, k, v, attn_mask=mask)
    else:
        scores = q @ k.transpose(-1, -2) * q.shape[-1] ** -0.5
        if mask is not None:
            scores = scores.masked_fill(~mask, -torch.inf)
        probabilities = scores.softmax(-1)
        record.append(probabilities)
        out = probabilities @ v
    return attn.out_proj(out.transpose(1, 2).flatten(2))
