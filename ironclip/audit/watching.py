"""Watching one call of a classifier: its precision of matrix products, and whether it runs a backward pass."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from ironclip.core.types import Images

PRODUCTS = ("mm", "convolution", "attention", "linear", "einsum", "matmul")
"""Parts of the names of the operators that multiply matrices; a cast of the outputs is none of them."""


class Watch(TorchDispatchMode):
    """Context that sees every operator of this thread, those of a backward pass included, and changes none.

    Attributes:
        backward: operators that ran inside a backward pass.
        precision: the coarsest floating type in which matrices were multiplied; float32 if none were.
    """

    def __init__(self) -> None:
        super().__init__()
        self.backward = 0
        self.precision = torch.float32
        self._seen = False

    def __torch_dispatch__(
        self, func: Any, types: Sequence[Any], args: Sequence[Any] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        self.backward += torch._C._current_graph_task_id() != -1
        result = func(*args, **(kwargs or {}))
        first = result[0] if isinstance(result, tuple | list) and result else result
        if isinstance(first, Tensor) and first.is_floating_point() and any(part in func.__name__ for part in PRODUCTS):
            coarser = torch.finfo(first.dtype).eps > torch.finfo(self.precision).eps
            self.precision = first.dtype if coarser or not self._seen else self.precision
            self._seen = True
        return result


def precision_of(function: Images, images: Tensor) -> torch.dtype:
    """The coarsest floating type in which the function multiplies matrices on these images."""
    with Watch() as watch, torch.no_grad():
        function(images)
    return watch.precision
