"""Low-rank changes of weight matrices, as plain tensors: towers take the sums by name, so no module has to be rewritten.

Source: LoRA (arXiv 2106.09685): W + alpha / r * up down, `down` [r, in] drawn as PyTorch draws linear layers, `up` [out, r]
zero, so training starts at W. A matrix that stacks queries, keys and values (`in_proj_weight`) has one pair for all three,
where LoRA has one each [ours]; convolutions are flattened behind their output axis.
"""

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from ironclip.core.errors import UsageError
from ironclip.defenses._named import named, plant


class LowRank(nn.Module):
    """One pair `<name>.down`, `<name>.up` for each matrix.

    Args:
        base: name -> matrix [out, ...].
        rank: r.
        alpha: the change is scaled by alpha / r; default: r, a scale of 1.

    Raises:
        UsageError: a rank that saves nothing.
    """

    def __init__(self, base: Mapping[str, Tensor], *, rank: int, alpha: float | None, generator: torch.Generator | None) -> None:
        super().__init__()
        self.names, self.scale = tuple(base), 1.0 if alpha is None else alpha / rank
        for name, weight in base.items():
            rows, columns = weight.flatten(1).shape
            if rank * (rows + columns) >= rows * columns:
                raise UsageError(
                    f"lora_rank {rank} saves nothing on {name!r} [{rows}, {columns}]; use a lower rank, or 0 for all"
                )
            bound = columns**-0.5
            plant(self, f"{name}.down", (torch.rand(rank, columns, generator=generator) * 2 - 1) * bound)
            plant(self, f"{name}.up", torch.zeros(rows, rank))

    def values(self, base: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """The changed matrices, differentiable; `base` holds those named `names`."""
        own = named(self)
        change = {name: (own[f"{name}.up"] @ own[f"{name}.down"]).view_as(weight) for name, weight in base.items()}
        return {name: weight + self.scale * change[name] for name, weight in base.items()}
