"""The tensors of a TorchScript archive (OpenAI's format), read without running its code, as `torch.jit.load` would.

An archive is a zip file: `data.pkl` holds the tree of modules, `data/<key>` the bytes of a storage, `code/` is never read.
The pickle machine runs with a list of the only names it may look up; each makes a tensor, a list or an empty object.
"""

import pickle
import zipfile
from collections import OrderedDict
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any

import torch
from torch import Tensor

STORAGES = {
    "FloatStorage": torch.float32, "HalfStorage": torch.float16, "BFloat16Storage": torch.bfloat16,
    "DoubleStorage": torch.float64, "LongStorage": torch.int64, "IntStorage": torch.int32, "ShortStorage": torch.int16,
    "CharStorage": torch.int8, "ByteStorage": torch.uint8, "BoolStorage": torch.bool,
}  # fmt: skip


class Module:
    """An object of the archive: the values that it held, by name."""

    def __setstate__(self, state: Any) -> None:
        self.held = state if isinstance(state, dict) else {}


def tensors(path: Path) -> dict[str, Tensor]:
    """Every tensor of the archive by its dotted name, as a state dict has them.

    Raises:
        ValueError, KeyError, pickle.UnpicklingError and what else a reader of damaged bytes raises.
    """
    with zipfile.ZipFile(path) as archive:
        (tree,) = [name for name in archive.namelist() if name.count("/") == 1 and name.endswith("/data.pkl")]
        with archive.open(tree) as file:
            root = _Reader(file, archive, tree.removesuffix("data.pkl")).load()
    return dict(_named(root, ""))


class _Reader(pickle.Unpickler):
    def __init__(self, file: IO[bytes], archive: zipfile.ZipFile, folder: str) -> None:
        super().__init__(file)
        self._archive, self._folder = archive, folder

    def find_class(self, module: str, name: str) -> Any:
        if module == "__torch__" or module.startswith("__torch__."):
            return Module
        if module == "torch" and name in STORAGES:
            return STORAGES[name]
        known = {
            ("torch._utils", "_rebuild_tensor_v2"): _tensor,
            ("torch._utils", "_rebuild_parameter"): lambda data, *_: data,
            ("collections", "OrderedDict"): OrderedDict,
            ("torch.jit._pickle", "restore_type_tag"): lambda value, _: value,
        }
        if (module, name) in known:
            return known[module, name]
        if module == "torch.jit._pickle" and name.startswith("build_"):
            return lambda values=(): values
        raise pickle.UnpicklingError(f"it holds {f'{module}.{name}'[:80]!a}, which is no tensor")

    def persistent_load(self, pid: Any) -> Any:
        kind, dtype, key, _, count = pid
        if kind != "storage" or not isinstance(dtype, torch.dtype) or not str(key).isalnum():
            raise pickle.UnpicklingError("a storage of it is described wrongly")
        content = self._archive.read(f"{self._folder}data/{key}")
        values = torch.frombuffer(bytearray(content), dtype=dtype) if content else torch.empty(0, dtype=dtype)
        if len(values) != count:
            raise pickle.UnpicklingError(f"storage {key} has {len(values)} numbers, and {count!r} were named")
        return values


def _tensor(storage: Tensor, offset: int, size: Any, stride: Any, *_: Any) -> Tensor:
    return storage.as_strided(tuple(size), tuple(stride), offset)


def _named(module: Any, prefix: str, depth: int = 0) -> Iterator[tuple[str, Tensor]]:
    if depth > 64:
        raise ValueError("its modules are nested too deeply")
    for name, value in getattr(module, "held", {}).items():
        if isinstance(value, Tensor):
            yield f"{prefix}{name}", value
        elif isinstance(value, Module):
            yield from _named(value, f"{prefix}{name}.", depth + 1)
