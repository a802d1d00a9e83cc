"""Weights from files of every supported format, checked; nothing but tensors is ever unpickled.

Containers: safetensors; `torch.save` files read with `weights_only=True`; OpenAI's TorchScript archives; each alone or in several
files with an index. `names` translates the names of the weights.
"""

import hashlib
import pickle
import warnings
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn

from ironclip.backbones.folders import INDEX, shards, weights_in
from ironclip.backbones.names import Layout, check_tensors, named
from ironclip.backbones.torchscript import tensors
from ironclip.core.errors import CheckpointError
from ironclip.core.files import check_head


@dataclass(frozen=True)
class Checkpoint:
    """The content of a file, a folder or several files.

    Args:
        layout: "clip": both towers, open_clip's names; "visual": an image tower alone, names without `visual.`.
        openai: it is OpenAI's own file (recognised by its format).
        metadata: of a safetensors file, else empty.
        form: container and style of names, in words.
    """

    path: Path
    state: dict[str, Tensor]
    layout: Layout
    openai: bool = False
    metadata: Mapping[str, str] = field(default_factory=dict)
    form: str = ""


def read_checkpoint(path: Path) -> Checkpoint:
    """The tensors of a weights file, of the folder that holds it, or of all files that an index names.

    Raises:
        CheckpointError: no such file, not a weights file, damaged, holding more than tensors, or not a CLIP.
    """
    path = path.expanduser()
    if path.is_dir():
        path = weights_in(path)
    if not path.is_file():
        raise CheckpointError(f"no weights file at {path}")
    files = shards(path) if path.name.endswith(INDEX) else [path]
    metadata: Mapping[str, str] = {}
    loaded: Any = {}
    for file in files:
        content, metadata, container = _read(file)
        if len(files) > 1 and isinstance(content, Mapping):
            content = {**loaded, **content}
        loaded = content
    if len(files) > 1:
        container = f"{len(files)} files, {container}"
    state, layout, names, openai = named(path, loaded)
    check_tensors(path, state)
    archive = container == TORCHSCRIPT
    return Checkpoint(path, state, layout, openai or archive, metadata, f"{container}, {names}")


TORCHSCRIPT = "OpenAI's TorchScript archive"
MOST_PACKED, HEADS = 4, 1 << 20
"""Times its size, and bytes more, that an archive may unpack to: packed once more by somebody, numbers hardly shrink."""


def _read(path: Path) -> tuple[Any, Mapping[str, str], str]:
    """(what the file holds, its metadata, its container in words)."""
    with path.open("rb") as file:
        head = file.read(256)
    if head[4:9] == b"\0\0\0\0{":  # the length of a header below 4 GB, and the header
        return *_read_safetensors(path), "safetensors"
    if head[:4] == b"PK\x03\x04":
        if _is_torchscript(path):
            return _read_torchscript(path), {}, TORCHSCRIPT
        return _read_torch(path), {}, "torch file"
    if head[:1] == b"\x80":
        return _read_torch(path), {}, "torch file of before 2020"
    raise CheckpointError(
        f"{path} is not a weights file: expected safetensors or a torch file (.pt, .bin, .pth.tar); {_kind(head)}"
    )


def _kind(head: bytes) -> str:
    known = {
        b"\xff\xd8\xff": "a JPEG image",
        b"\x89PNG": "a PNG image",
        b"version https": "a Git LFS pointer",
        b"\x1f\x8b": "gzip",
        b"\x89HDF": "an HDF5 file (TensorFlow)",
        b"GGUF": "a GGUF file (quantised)",
        b"\x93NUMPY": "a NumPy array",
        b"<": "an HTML or XML page, as a browser saves instead of the file",
        b"{": "JSON; the weights lie in another file",
    }
    names = [name for start, name in known.items() if head.lstrip().startswith(start)]
    return f"it is {names[0]}" if names else ("it is empty" if not head else f"it starts with {head[:8]!r}")


def _read_safetensors(path: Path) -> tuple[dict[str, Tensor], Mapping[str, str]]:
    try:
        check_head(path)
        with safe_open(path, framework="pt") as file:
            return {name: file.get_tensor(name) for name in file.keys()}, file.metadata() or {}  # noqa: SIM118
    except (SafetensorError, OSError) as error:
        raise CheckpointError(f"{path} is a damaged or truncated safetensors file: {_line(error)}") from None


def _is_torchscript(path: Path) -> bool:
    """Whether an archive is one; False where it cannot be read, which its reader says.

    Raises:
        CheckpointError: it would unpack to far more than it has, by compression or because its members lie over one another.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            members = archive.infolist()
    except (zipfile.BadZipFile, NotImplementedError, ValueError):
        return False
    unpacked, there = sum(member.file_size for member in members), path.stat().st_size
    if unpacked > MOST_PACKED * there + HEADS:
        raise CheckpointError(f"{path} is no weights file: its {there:,} bytes would unpack to {unpacked:,}; torch packs nothing")
    names = [member.filename for member in members]
    if names and not any(name.endswith("data.pkl") for name in names):
        raise CheckpointError(
            f"{path} is not a weights file: expected safetensors or a torch file (.pt, .bin, .pth.tar); it is a zip archive of "
            f"{names[0][:100]!r} and the like; unpack it, and name the file with the weights"
        )
    return any("/code/" in name for name in names)


def _read_torchscript(path: Path) -> dict[str, Tensor]:
    try:
        return tensors(path)
    except Exception as error:  # whatever a reader of foreign bytes raises
        raise CheckpointError(f"{path} is a damaged or foreign TorchScript archive: {_line(error)}") from None


def _read_torch(path: Path) -> Any:
    # TeCoA's files keep their best accuracy as a NumPy number beside the tensors; it is read as a plain number.
    scalar: Any = np.float64(0).__reduce__()[0]
    numbers: list[Any] = [(scalar, f"numpy.{core}.multiarray.scalar") for core in ("core", "_core")]
    kinds = [type(np.dtype(kind)) for kind in ("float64", "float32", "int64")]
    try:
        with torch.serialization.safe_globals([*numbers, np.dtype, *kinds]), warnings.catch_warnings():
            warnings.simplefilter("ignore")  # remarks on pickles that are refused a moment later
            return torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        if "weights_only" in str(error).lower() or "Unsupported" in str(error):
            raise CheckpointError(
                f"{path} holds Python objects beside tensors, which are never unpickled; save its state dict alone"
            ) from None
        raise CheckpointError(f"{path} is a damaged torch file: {_line(error)}") from None
    except (RuntimeError, EOFError, OSError, ValueError, KeyError, AttributeError, IndexError) as error:
        raise CheckpointError(f"{path} is a damaged or truncated torch file: {_line(error)}") from None


def _line(error: BaseException) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0][:200]


def fill(module: nn.Module, state: Mapping[str, Tensor], path: Path | None, what: str) -> None:
    """Copy the tensors into the module, in its precision; every name and shape must agree.

    Raises:
        CheckpointError: names the first tensor that is missing, of another shape, or too many, and describes the file.
    """
    expected = module.state_dict()
    got = dict(state)
    for name, tensor in expected.items():
        if name.endswith("num_batches_tracked"):
            got.setdefault(name, tensor)  # a counter that older files do not have and evaluation does not use
        elif name in ("logit_scale", "logit_bias") and name in got and got[name].numel() == 1:
            got[name] = got[name].reshape(tensor.shape)
    missing = [name for name in expected if name not in got]
    wrong = [name for name in expected if name in got and got[name].shape != expected[name].shape]
    extra = [name for name in got if name not in expected]
    if wrong:
        name = wrong[0]
        problem = f"{name} is {list(got[name].shape)}, expected {list(expected[name].shape)}"
    elif missing:
        problem = f"{len(missing)} of {len(expected)} tensors are missing, first {missing[0]}"
    elif extra:
        problem = f"it has {len(extra)} tensors too many, first {extra[0]}"
    else:
        module.load_state_dict(got)
        return
    raise CheckpointError(f"{path} does not fit {what}: {problem}; the file holds {_look(state)}")


def _look(state: Mapping[str, Tensor]) -> str:
    """A description of the image tower of these weights."""
    names = {name.removeprefix("visual."): tensor for name, tensor in state.items()}
    if any(name.startswith("trunk.") for name in names):
        return "a timm image tower"
    if "layer1.0.conv1.weight" in names:
        blocks = [_count(names, f"layer{n}.", 1) for n in (1, 2, 3, 4)]
        return f"a ResNet with {blocks} blocks of width {len(names['layer1.0.conv1.weight'])}"
    patches = names.get("conv1.weight")
    if patches is None or patches.ndim != 4:
        return f"tensors such as {', '.join(sorted(state)[:3])}"
    layers = _count(state, "visual.transformer.resblocks.", 3) or _count(state, "transformer.resblocks.", 2)
    return f"a ViT with patch {patches.shape[-1]}, width {len(patches)} and {layers} layers"


def openai_config(state: Mapping[str, Tensor]) -> dict[str, Any]:
    """The configuration of OpenAI's weights, from their shapes; heads are 64 wide in all of OpenAI's models.

    Source: openai/CLIP, clip/model.py: build_model.
    """
    if "visual.conv1.weight" not in state or "text_projection" not in state:
        raise CheckpointError("OpenAI's format needs both towers: visual.conv1.weight and text_projection")
    first, positions = state["visual.conv1.weight"], "visual.positional_embedding"
    resnet = "visual.layer1.0.conv1.weight" in state
    side = round((len(state["visual.attnpool.positional_embedding" if resnet else positions]) - 1) ** 0.5)
    if resnet:
        width = len(state["visual.layer1.0.conv1.weight"])
        blocks = [_count(state, f"visual.layer{n}.", 2) for n in (1, 2, 3, 4)]
        vision: dict[str, Any] = {"layers": blocks, "width": width, "image_size": 32 * side, "patch_size": None}
    else:
        layers = _count(state, "visual.transformer.resblocks.", 3)
        patch = first.shape[-1]
        vision = {"layers": layers, "width": len(first), "patch_size": patch, "image_size": patch * side}
    vocabulary, width = state["token_embedding.weight"].shape
    text = {
        "context_length": len(state["positional_embedding"]),
        "vocab_size": vocabulary,
        "width": width,
        "heads": width // 64,
        "layers": _count(state, "transformer.resblocks.", 2),
    }
    return {"embed_dim": state["text_projection"].shape[1], "vision_cfg": vision, "text_cfg": text}


def _count(state: Mapping[str, Tensor], start: str, part: int) -> int:
    """Number of different values of the next dotted part of the names with this start."""
    return len({name.split(".")[part] for name in state if name.startswith(start)})


def tensor_hash(module: nn.Module) -> str:
    """sha256 over the names, shapes and float32 bytes of all weights, in order of name: the same for every file format."""
    digest = hashlib.sha256()
    for name, tensor in sorted(module.state_dict().items()):
        if tensor.is_floating_point():
            digest.update(f"{name}{list(tensor.shape)}".encode())
            digest.update(tensor.detach().float().cpu().contiguous().numpy().data)
    return digest.hexdigest()
