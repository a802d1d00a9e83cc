"""Low-rank changes of weight matrices as plain tensors. Towers take the sums by name, so no module is changed.

Source: LoRA (arXiv 2106.09685): W + scale * up down, `down` [r, in] drawn as PyTorch draws linear layers, `up` [out, r]
zero, so training starts at W. A matrix that stacks queries, keys and values (`in_proj_weight`) has one pair for all three
[ours], or with `apart` one each as in LoRA: `down` [3, r, in], `up` [3, out / 3, r]. Convolutions are flattened behind their
output axis.
"""

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

from ironclip.core.errors import UsageError
from ironclip.defenses._named import named, plant

STACKED = (".in_proj_weight", ".qkv.weight")
"""Ends of the names of matrices that stack queries, keys and values."""


def stacked(names: Sequence[str]) -> tuple[str, ...]:
    """Those of the names that are matrices of queries, keys and values."""
    return tuple(name for name in names if name.endswith(STACKED))


class LowRank(nn.Module):
    """One pair `<name>.down`, `<name>.up` for each matrix.

    Args:
        base: name -> matrix [out, ...].
        rank: r.
        scale: factor on the change.
        apart: one pair each for queries, keys and values where a matrix stacks them.

    Raises:
        UsageError: a rank that saves nothing.
    """

    def __init__(
        self, base: Mapping[str, Tensor], *, rank: int, scale: float = 1.0, apart: bool = False,
        generator: torch.Generator | None,
    ) -> None:  # fmt: skip
        super().__init__()
        self.names, self.scale = tuple(base), scale
        for name, weight in base.items():
            parts = (3,) if apart and stacked((name,)) else ()
            rows, columns = weight.flatten(1).shape
            rows = rows // 3 if parts else rows
            if rank * (rows + columns) >= rows * columns:
                raise UsageError(
                    f"lora_rank {rank} saves nothing on {name!r} [{rows}, {columns}]; use a lower rank, or 0 for all"
                )
            bound = columns**-0.5
            plant(self, f"{name}.down", (torch.rand(*parts, rank, columns, generator=generator) * 2 - 1) * bound)
            plant(self, f"{name}.up", torch.zeros(*parts, rows, rank))

    def values(self, base: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """The changed matrices, differentiable; `base` holds those named `names`."""
        own = named(self)
        change = {name: (own[f"{name}.up"] @ own[f"{name}.down"]).view_as(weight) for name, weight in base.items()}
        return {name: weight + self.scale * change[name] for name, weight in base.items()}
