"""The frozen model that a configuration names; its weights may be in files on this machine.

A configuration holds absolute paths and the sha256 of each file, so a run is opened from any folder, finds a file that was moved,
and refuses another one under the same name.
"""

import hashlib
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ironclip.core.errors import CheckpointError, UsageError
from ironclip.core.files import disk_errors
from ironclip.protocols.config import RunConfig
from ironclip.protocols.outside import registered

if TYPE_CHECKING:
    from ironclip.backbones import ClipBackbone

NAMES = ("backbone", "weights", "base")
"""Settings that may name a file or a folder, alone or as ARCHITECTURE@FILE."""


@dataclass(frozen=True)
class Frozen:
    """The settings of a configuration that decide which frozen model it has; equal settings, the same model."""

    backbone: str
    weights: str | None = None
    base: str | None = None
    activation: str | None = None
    files: tuple[tuple[str, str], ...] = ()

    @classmethod
    def of(cls, config: RunConfig) -> "Frozen":
        return cls(config.backbone, config.weights, config.base, config.activation, tuple(sorted(config.files.items())))


def given(**options: Any) -> dict[str, str]:
    """The settings of a frozen model that were given, as a configuration has them."""
    return {key: str(value) for key, value in options.items() if value is not None}


def named(backbone: "ClipBackbone") -> dict[str, str]:
    """The settings that load a backbone again; only its name if no local file is among them."""
    origin = dict(backbone.origin)
    if any(local(origin[key]) for key in NAMES if key in origin):
        return origin
    return {"backbone": backbone.spec.name, **{key: origin[key] for key in ("base", "activation") if key in origin}}


def moved_weights(frozen: Mapping[str, str] | None) -> str | None:
    """The new place of a run's file; UsageError if other settings of the frozen model are given, because the run knows them."""
    for key in frozen or {}:
        if key != "weights":
            raise UsageError(f"a run knows the {key} of its backbone; leave out --{key}")
    return (frozen or {}).get("weights")


def settled(config: RunConfig) -> RunConfig:
    """The configuration with absolute paths and their sha256 where it names files of this machine."""
    changes: dict[str, Any] = {}
    files: dict[str, str] = {}
    for key in NAMES:
        said = getattr(config, key)
        path = None if said is None else local(said)
        if path is not None:
            place = str(path.expanduser().absolute())
            changes[key] = said.replace(said.partition("@")[2] if "@" in said and not Path(said).exists() else said, place)
            files[place] = content_sha256(Path(place))
    return config.model_copy(update={**changes, "files": files}) if files else config


def load_frozen(frozen: Frozen, *, device: str = "cpu", weights: Path | str | None = None) -> "ClipBackbone":
    """The frozen model of a configuration.

    Args:
        weights: where the file of a run lies now, if it was moved.

    Raises:
        CheckpointError: a file is gone or is another one; the message says what is looked for.
    """
    from ironclip.backbones import load

    names = {key: getattr(frozen, key) for key in NAMES}
    if weights is not None and not frozen.files:
        raise UsageError("--weights says where the file of a run lies now; this run names none")
    for path, sha in frozen.files:
        place = _found(Path(path), sha, None if weights is None else Path(weights))
        names = {key: value and value.replace(path, str(place)) for key, value in names.items()}
    return load(names["backbone"], weights=names["weights"], base=names["base"], activation=frozen.activation, device=device)


def local(name: str) -> Path | None:
    """The file or folder that a backbone's name means, where it is there and no name of the package or of open_clip."""
    whole = Path(name).expanduser()
    if name.startswith("hf-hub:") or (not whole.exists() and "@" not in name):
        return None
    path = whole if whole.exists() else Path(name.partition("@")[2]).expanduser()
    return path if path.exists() and not registered(name) else None


def content_sha256(path: Path) -> str:
    """sha256 of a file; of a folder over the names and sha256 of the files in it that hold weights or describe them."""
    if not path.is_dir():
        facts = path.stat()
        return _sha256(path.absolute(), facts.st_size, facts.st_mtime_ns)
    from ironclip.backbones.folders import belonging

    parts = [f"{file.name} {content_sha256(file)}\n" for file in belonging(path)]
    return hashlib.sha256("".join(parts).encode()).hexdigest()


@lru_cache(maxsize=64)
def _sha256(path: Path, size: int, changed: int) -> str:
    with disk_errors(path), path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _found(path: Path, sha: str, moved: Path | None) -> Path:
    """The path of the content with this sha256: the recorded path, the caller's, or any name in the searched folders."""
    if moved is not None:
        if moved.exists() and content_sha256(moved) == sha:
            return moved.absolute()
        raise CheckpointError(f"{moved} is not the file {path.name} of this run: expected sha256 {sha[:12]}...")
    if path.exists():
        if content_sha256(path) == sha:
            return path
        raise CheckpointError(f"{path} is another file than the one this run was made with, which had sha256 {sha[:12]}...")
    for other in _candidates(path):
        if content_sha256(other) == sha:
            return other
    raise CheckpointError(
        f"the weights {path.name} of this run (sha256 {sha[:12]}...) are no longer at {path}; put them into the folder "
        "$IRONCLIP_WEIGHTS, or say where they lie with --weights FILE"
    )


def _candidates(path: Path) -> Iterator[Path]:
    """Weights in $IRONCLIP_WEIGHTS and in the current folder: first those of the same name, then those of the same kind."""
    from ironclip.backbones.registry import WEIGHTS_FOLDER

    folders = [Path(folder) for folder in (os.environ.get(WEIGHTS_FOLDER), ".") if folder]
    for folder in folders:
        if (folder / path.name).exists():
            yield (folder / path.name).absolute()
    for folder in folders:
        if path.suffix and folder.is_dir():
            yield from (each.absolute() for each in sorted(folder.glob(f"*{path.suffix}")) if each.is_file())
