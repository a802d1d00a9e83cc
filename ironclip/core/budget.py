"""A limit on the memory that is taken while the options of a stranger's file are tried."""

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from torch import Tensor
from torch.overrides import TorchFunctionMode

from ironclip.core.errors import UsageError

MOST = 1 << 28
"""Largest number of new values: 1 GB in float32. Copies of the backbone's own weights do not count."""
MOST_TENSORS = 20_000
_SIZED = {"empty", "zeros", "ones", "full", "rand", "randn", "new_empty", "new_zeros", "new_ones", "new_full", "repeat"}
_COUNTED = {"arange", "eye", "linspace", "randperm"}


class Budget(TorchFunctionMode):
    """Inside, at most so many new tensors with so many values in all are made; the call that would make more raises
    UsageError."""

    def __init__(self, most: int = MOST, tensors: int = MOST_TENSORS) -> None:
        super().__init__()
        self.most, self.left, self.made = most, tensors, 0

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: Sequence[Any] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        given = dict(kwargs or {})
        new = _values(getattr(func, "__name__", ""), [*args, given.get("size")])
        self.made, self.left = self.made + new, self.left - bool(new)
        if self.made > self.most or self.left < 0:
            what = f"{self.most:,} new numbers" if self.left >= 0 else "the tensors of any model"
            raise UsageError(f"these options stand for more than {what}; nothing of this size is built")
        return func(*args, **given)


def _values(name: str, given: Sequence[Any]) -> int:
    """The values of the tensor that this call would make; 0 where it makes none."""
    numbers = [part for part in given if isinstance(part, int) and not isinstance(part, bool)]
    if name in _COUNTED:
        return max(numbers, default=0)
    if name not in _SIZED:
        return 0
    before = given[0].numel() if name == "repeat" and isinstance(given[0], Tensor) else 1
    size = next((part for part in given if isinstance(part, list | tuple)), numbers)
    return before * math.prod(size) if size else 0
