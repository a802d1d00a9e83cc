"""Weights in a folder, as a cloned hub repository or a saved transformers model has them, and weights in several files."""

from pathlib import Path

from ironclip.core.errors import CheckpointError
from ironclip.core.texts import json_value, plain_bytes

OPEN_CLIP, TRANSFORMERS, PIXELS = "open_clip_config.json", "config.json", "preprocessor_config.json"
INDEX = ".index.json"
# In this order: what open_clip wrote before what transformers wrote, safetensors before pickles.
FILES = (
    "open_clip_model.safetensors", "open_clip_pytorch_model.bin", "model.safetensors", "model.safetensors.index.json",
    "pytorch_model.bin", "pytorch_model.bin.index.json",
)  # fmt: skip


def weights_in(folder: Path) -> Path:
    """The file of the folder that holds the weights, or the index of several.

    Raises:
        CheckpointError: there is none of the known names.
    """
    for name in FILES:
        if (folder / name).is_file():
            return folder / name
    dangling = [name for name in FILES if (folder / name).is_symlink()]
    if dangling:
        raise CheckpointError(f"{folder / dangling[0]} points to a file that is not there; delete the link and fetch it again")
    held = sorted(path.name for path in folder.iterdir())
    seen = f"it holds {', '.join(held[:4])}" if held else "it is empty"
    raise CheckpointError(f"{folder} is a folder without weights of a known name, such as {FILES[0]} or {FILES[2]}; {seen}")


def shard_names(index: Path) -> list[str]:
    """Names of the files that an index names, in order; all lie beside it.

    Raises:
        CheckpointError: no index, or a file outside the folder.
    """
    try:
        names = sorted(set(json_value(plain_bytes(index))["weight_map"].values()))
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise CheckpointError(f"{index} should say which file holds which weight (weight_map): {error!r}"[:300]) from None
    for name in names:
        if not isinstance(name, str) or Path(name).name != name or name.endswith(INDEX):
            raise CheckpointError(f"{index} names {name!r}, which is no file beside it")
    return names


def shards(index: Path) -> list[Path]:
    """The files that an index names; CheckpointError where one is not there."""
    names = shard_names(index)
    for name in names:
        if not (index.parent / name).is_file():
            raise CheckpointError(f"{index} names {name}, which is not there; the weights lie in {len(names)} files")
    return [index.parent / name for name in names]


def belonging(folder: Path) -> list[Path]:
    """Every file that affects what is loaded from the folder, in order of name; CheckpointError where there are no weights."""
    file = weights_in(folder)
    parts = {file, *(shards(file) if file.name.endswith(INDEX) else ())}
    return sorted(parts | {folder / name for name in (OPEN_CLIP, TRANSFORMERS, PIXELS) if (folder / name).is_file()})


def description(path: Path) -> Path | None:
    """The configuration beside weights of the names that a hub repository has, or None."""
    file = path if path.is_dir() else path.parent
    if not path.is_dir() and path.name not in FILES:
        return None
    return next((file / name for name in (OPEN_CLIP, TRANSFORMERS) if (file / name).is_file()), None)
