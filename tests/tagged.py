"""Tensors that stand on a second device without one: they compute on the CPU, and meet nothing that does not stand there too.

A `Tagged` tensor says that it is on the device "meta" and keeps its numbers on the CPU. Inside `second_device()`, an operation
that mixes tagged and plain tensors fails as on a GPU (a plain number of no dimension may take part). So does a CPU generator that
serves a tagged tensor, and a 64-bit float there. `.item()`, `bool()` and the like, for which a GPU waits, are counted.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils import _pytree as tree
from torch.utils._python_dispatch import TorchDispatchMode

DEVICE = torch.device("meta")
CPU = torch.device("cpu")
WAITS = (torch.ops.aten._local_scalar_dense, torch.ops.aten.nonzero)


class Tagged(Tensor):
    """Numbers on the CPU that claim to stand elsewhere."""

    inner: Tensor

    @staticmethod
    def __new__(cls, inner: Tensor) -> "Tagged":
        made = torch.Tensor._make_wrapper_subclass(
            cls, inner.size(), strides=inner.stride(), storage_offset=inner.storage_offset(), dtype=inner.dtype, device=DEVICE
        )
        made.inner = inner
        return made

    @classmethod
    def __torch_dispatch__(cls, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return run(function, args, kwargs or {})

    def tolist(self) -> Any:
        waits.append("tolist")
        return self.inner.tolist()

    def new_tensor(self, data: Any, **options: Any) -> Tensor:  # type: ignore[override]
        return Tagged(self.inner.new_tensor(data, **options))

    def __getitem__(self, key: Any) -> Tensor:
        return super().__getitem__(_indices(key))

    def __setitem__(self, key: Any, value: Any) -> None:
        super().__setitem__(_indices(key), value)

    def quantile(self, *args: Any, **options: Any) -> Tensor:  # type: ignore[override]
        return Tagged(self.inner.quantile(*args, **options))  # inside, torch leaves float64 out on the devices without it

    def numpy(self, *_: Any, **__: Any) -> Any:  # type: ignore[override]
        raise Met("numpy() of a tensor of the device; move it to the CPU first")

    def __repr__(self) -> str:  # type: ignore[override]
        return f"Tagged({self.inner})"


def _indices(key: Any) -> Any:
    """Lists of positions as tensors of the device: torch would make them where no dispatch sees it."""
    if isinstance(key, tuple):
        return tuple(_indices(part) for part in key)
    return Tagged(torch.tensor(key)) if isinstance(key, list) else key


class Met(RuntimeError):
    """What a GPU would refuse."""


waits: list[str] = []
"""The operations for which a GPU would have waited, since `second_device` began."""


class _Mode(TorchDispatchMode):
    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        tagged = any(isinstance(each, Tagged) for each in tree.tree_leaves((args, kwargs)))
        if tagged and function.overloadpacket in WAITS:
            waits.append(str(function.overloadpacket))
        return run(function, args, kwargs or {})


def run(function: Any, args: Any, kwargs: dict[str, Any]) -> Any:
    """The operation on the CPU, its results tagged where a GPU would leave them on the GPU."""
    leaves = tree.tree_leaves((args, kwargs))
    tagged = [each for each in leaves if isinstance(each, Tagged)]
    plain = [each for each in leaves if isinstance(each, Tensor) and not isinstance(each, Tagged)]
    assert all(each.device != DEVICE for each in plain), (
        f"{function}: a tensor without numbers; this simulation misses how it was made"
    )
    to = next((each for each in leaves if isinstance(each, torch.device)), None)
    copies = function.overloadpacket in (torch.ops.aten.copy_, torch.ops.aten._copy_from)
    indexed = function.overloadpacket in (torch.ops.aten.index, torch.ops.aten.index_put, torch.ops.aten.index_put_)
    if tagged and not copies and not (indexed and isinstance(args[0], Tagged)):
        for each in plain:
            if each.ndim:
                raise Met(f"{function}: a tensor of the device meets one of the CPU, of shape {tuple(each.shape)}")
    if tagged and any(isinstance(each, torch.Generator) for each in leaves):
        raise Met(f"{function}: a CPU generator serves a tensor of the device")

    def down(each: Any) -> Any:
        if isinstance(each, Tagged):
            return each.inner
        return CPU if isinstance(each, torch.device) and each == DEVICE else each

    out = function(*tree.tree_map(down, args), **tree.tree_map(down, kwargs))
    elsewhere = to == DEVICE if to is not None else bool(tagged)
    if not elsewhere:
        return out
    for each in tree.tree_leaves(out):
        if isinstance(each, Tensor) and each.dtype in (torch.float64, torch.complex128):
            raise Met(f"{function}: {each.dtype} on a device that has none, such as Apple's")
    known = {id(each.inner): each for each in tagged}  # an operation in place returns the tensor that it changed

    def up(each: Any) -> Any:
        if id(each) in known:
            return known[id(each)]
        return Tagged(each) if type(each) is Tensor else each

    return tree.tree_map(up, out)


@contextmanager
def second_device(monkeypatch: Any) -> Iterator[None]:
    """Inside, the device "meta" is one that computes; `waits` is filled."""
    autocast = torch.autocast

    def mapped(kind: str, *args: Any, **options: Any) -> Any:
        return autocast("cpu" if kind == "meta" else kind, *args, **options)

    monkeypatch.setattr(torch, "autocast", mapped)
    waits.clear()
    with _Mode():
        yield


def move(module: nn.Module) -> nn.Module:
    """The module with its parameters and buffers on the second device, in place."""
    for part in module.modules():
        for name, parameter in list(part._parameters.items()):
            if parameter is not None and not isinstance(parameter, Tagged):
                part._parameters[name] = nn.Parameter(Tagged(parameter.detach()), requires_grad=parameter.requires_grad)
        for name, buffer in list(part._buffers.items()):
            if buffer is not None and not isinstance(buffer, Tagged):
                part._buffers[name] = Tagged(buffer)
    return module
