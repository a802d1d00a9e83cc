"""Tensors on the disk: what was learned, and the state of a training that was interrupted. Never a pickle."""

import hashlib
import json
import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import safetensors
import torch
from safetensors.torch import load_file, save
from torch import Tensor

from ironclip.core.errors import CheckpointError
from ironclip.core.files import check_head, disk_errors, write_whole
from ironclip.core.texts import json_value
from ironclip.records.record import canonical_hash

FORMAT, OLDER = "2", "1"
"""Of the metadata. In format 2 they and the tensors are under checksums; format 1 had none but a learned file's CRC-32, and is
read by `seal_again` only."""


@dataclass(frozen=True)
class Learned:
    """What a defence learned.

    Args:
        tensors: the defence's state_dict.
        base_sha256: hash of the frozen weights it was learned on.
        method: canonical name, with `+` where defences are stacked.
        options: keyword arguments that build the defence again.
        classes: the class names, in the order of the labels.
    """

    tensors: dict[str, Tensor]
    base_sha256: str
    method: str
    options: dict[str, Any]
    classes: tuple[str, ...]

    def check_base(self, sha256: str) -> None:
        """Raises CheckpointError where the tensors were learned on other frozen weights."""
        if sha256 != self.base_sha256:
            raise CheckpointError(
                f"{self.method} was learned on a backbone with sha256 {self.base_sha256[:12]}, but this one has {sha256[:12]}; "
                "load the backbone it was trained on"
            )


def save_learned(path: Path, learned: Learned) -> None:
    """Write one safetensors file, whole."""
    metadata = {
        "base_sha256": learned.base_sha256,
        "method": learned.method,
        "options": json.dumps(learned.options, sort_keys=True, allow_nan=False),
        "classes": json.dumps(learned.classes),
    }
    _write(path, learned.tensors, metadata)


def load_learned(path: Path, base_sha256: str | None = None) -> Learned:
    """Read what `save_learned` wrote, on the CPU.

    Args:
        base_sha256: hash of the backbone at hand; None: not compared.

    Raises:
        CheckpointError: no such file, not one of ours, learned on other frozen weights, or a bit of a tensor has flipped.
    """
    tensors, metadata = _read(path)
    try:
        learned = Learned(
            tensors=tensors,
            base_sha256=metadata["base_sha256"],
            method=metadata["method"],
            options=_options(json_value(metadata["options"])),
            classes=_names(json_value(metadata["classes"])),
        )
    except KeyError as missing:
        raise CheckpointError(f"{path} does not say its {missing.args[0]}; it was not written by `ironclip train`") from None
    except (ValueError, TypeError):
        raise CheckpointError(f"{path} is damaged: its metadata cannot be read; train again or copy it again") from None
    if base_sha256 is not None:
        learned.check_base(base_sha256)
    return learned


def _names(value: Any) -> tuple[str, ...]:
    if not isinstance(value, list) or not all(isinstance(name, str) for name in value):
        raise ValueError("class names are a list of texts")
    return tuple(value)


def _options(value: Any) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise ValueError("options are keys and values")
    return value


def checksums(tensors: Mapping[str, Tensor]) -> dict[str, int]:
    """CRC-32 of the bytes of each tensor: safetensors itself notices no flipped bit, and in a mask every bit is a weight."""
    flat = {name: tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8) for name, tensor in tensors.items()}
    return {name: zlib.crc32(values.numpy().tobytes()) for name, values in flat.items()}


def fingerprint(tensors: Mapping[str, Tensor]) -> str:
    """sha256 over names, types, shapes and bytes of tensors; "" where there are none."""
    seen = hashlib.sha256()
    for name, tensor in sorted(tensors.items()):
        values = tensor.detach().cpu().contiguous()
        seen.update(f"{name} {values.dtype} {tuple(values.shape)}\n".encode())
        seen.update(values.reshape(-1).view(torch.uint8).numpy().tobytes())
    return seen.hexdigest() if tensors else ""


def save_state(path: Path, state: Any) -> None:
    """Write any tree of dictionaries, lists, tuples, tensors, numbers, strings and None as one file, whole.

    An optimiser's and a scheduler's state_dict are such trees.
    """
    tensors: dict[str, Tensor] = {}
    tree = _pack(state, tensors)
    _write(path, tensors, {"tree": json.dumps(tree)})


def load_state(path: Path) -> Any:
    """The tree that `save_state` wrote, on the CPU.

    Raises:
        CheckpointError: no such file, or not one of ours.
    """
    tensors, metadata = _read(path)
    if "tree" not in metadata:
        raise CheckpointError(f"{path} is no training state; remove it to train from the start")
    try:
        return _unpack(json.loads(metadata["tree"]), tensors)
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError):
        raise CheckpointError(f"{path} is no training state; remove it to train from the start") from None


def _write(path: Path, tensors: Mapping[str, Tensor], metadata: dict[str, str]) -> None:
    """One file with its checksums: CRC-32 of each tensor, sha256 of all metadata."""
    metadata = metadata | {"format": FORMAT, "crc32": json.dumps(checksums(tensors), sort_keys=True)}
    metadata |= {"sha256": canonical_hash(metadata)}
    content = _ordered(save({name: tensor.detach().cpu().contiguous().clone() for name, tensor in tensors.items()}, metadata))
    with disk_errors(path):
        write_whole(path, lambda temporary: temporary.write_bytes(content))


def _ordered(content: bytes) -> bytes:
    """The same safetensors file with the keys of its head in order; the library writes them in another order each time."""
    size = int.from_bytes(content[:8], "little")
    head = json.dumps(json.loads(content[8 : 8 + size]), sort_keys=True, separators=(",", ":")).encode()
    head += b" " * (-len(head) % 8)
    return len(head).to_bytes(8, "little") + head + content[8 + size :]


def seal_again(path: Path) -> bool:
    """Write a file of format 1 again with its checksums, as the caller vouches for it; whether it was one.

    Raises:
        CheckpointError: no such file, or not one of ours.
    """
    tensors, metadata = _read(path, formats=(FORMAT, OLDER))
    if metadata["format"] == OLDER:
        _write(path, tensors, {key: value for key, value in metadata.items() if key not in ("format", "crc32")})
    return metadata["format"] == OLDER


def _read(path: Path, formats: tuple[str, ...] = (FORMAT,)) -> tuple[dict[str, Tensor], dict[str, str]]:
    """(tensors, metadata) of a file of one of these formats, compared with the checksums that it must have."""
    if not path.is_file():
        raise CheckpointError(f"{path} does not exist; the run has not got that far")
    try:
        with disk_errors(path):
            check_head(path)
        with disk_errors(path), safetensors.safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
        tensors = load_file(path)
    except safetensors.SafetensorError as error:
        raise CheckpointError(f"{path} is damaged: {error}") from None
    again = "train again or copy it again"
    seal, kind = metadata.pop("sha256", None), metadata.get("format")
    if kind is None:
        raise CheckpointError(f"{path} does not say its format; it was not written by `ironclip train`")
    if kind not in formats:
        vouch = "; if it is yours: `ironclip verify --seal RUN`" if kind == OLDER else ""
        raise CheckpointError(f"{path} has format {kind[:20]!r}; this version reads format {FORMAT}{vouch}")
    if kind == FORMAT and (seal != canonical_hash(metadata) or "crc32" not in metadata):
        raise CheckpointError(f"{path} is damaged: its metadata are not those that were written; {again}")
    if "crc32" in metadata and metadata["crc32"] != json.dumps(checksums(tensors), sort_keys=True):
        raise CheckpointError(f"{path} is damaged: its tensors are not those that were written; {again}")
    return tensors, metadata


def _pack(value: Any, tensors: dict[str, Tensor]) -> Any:
    """JSON for a tree; tensors go into `tensors`, other containers become {kind: items}."""
    if isinstance(value, Tensor):
        tensors[name := f"t{len(tensors)}"] = value
        return {"tensor": name}
    if isinstance(value, Mapping):
        return {"dict": [[_pack(key, tensors), _pack(item, tensors)] for key, item in value.items()]}
    if isinstance(value, tuple):
        return {"tuple": [_pack(item, tensors) for item in value]}
    if isinstance(value, list):
        return [_pack(item, tensors) for item in value]
    if value is None or isinstance(value, (bool, int, float, str)):
        return value
    raise TypeError(f"a training state holds tensors, numbers, strings and None; got {type(value).__name__}")


def _unpack(value: Any, tensors: Mapping[str, Tensor]) -> Any:
    if isinstance(value, list):
        return [_unpack(item, tensors) for item in value]
    if not isinstance(value, dict):
        return value
    ((kind, content),) = value.items()
    if kind == "tensor":
        return tensors[content]
    if kind == "tuple":
        return tuple(_unpack(item, tensors) for item in content)
    return {_unpack(key, tensors): _unpack(item, tensors) for key, item in content}
