"""Weights from the Hugging Face hub or open_clip's addresses; one clear line says why a download failed."""

import socket
import urllib.request
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any
from urllib.parse import urlparse

import huggingface_hub
from huggingface_hub.errors import EntryNotFoundError
from open_clip.pretrained import download_pretrained_from_url

from ironclip.backbones.folders import INDEX, OPEN_CLIP, PIXELS, TRANSFORMERS, shard_names
from ironclip.core.errors import CheckpointError

WEIGHTS = "open_clip_pytorch_model.bin"
OF = {
    OPEN_CLIP: ("open_clip_model.safetensors", WEIGHTS),
    TRANSFORMERS: ("model.safetensors", "model.safetensors.index.json", "pytorch_model.bin", "pytorch_model.bin.index.json"),
}
"""The files with the weights that each description announces, the safe ones first."""


def from_tag(name: str, known: Mapping[str, Any]) -> Path:
    """The file behind a tag of open_clip.

    Args:
        name: of the backbone, for messages.
        known: open_clip's entry for the tag: `hf_hub` is "org/name/" or "org/name/file", `url` an address.

    Raises:
        CheckpointError: no connection and not in the cache, or refused.
    """
    if known.get("hf_hub"):
        repository, _, filename = str(known["hf_hub"]).rpartition("/")
        return from_hub(name, repository, *_candidates(filename or WEIGHTS))
    try:
        return Path(download_pretrained_from_url(known["url"]))
    except Exception as error:  # the library raises errors of several packages
        raise _refused(name, str(known["url"]), error) from None


def from_hub(name: str, repository: str, *filenames: str) -> Path:
    """The first of these files that a hub repository has; without a connection the cached one.

    Raises:
        CheckpointError: no connection and not in the cache, refused, or a cache entry that points nowhere.
    """
    host = urlparse(huggingface_hub.constants.ENDPOINT).hostname or ""
    offline = not reachable(host)
    missing: Exception | None = None
    for filename in filenames:
        _check_entry(repository, filename)
        try:
            return Path(huggingface_hub.hf_hub_download(repository, filename, local_files_only=offline))
        except EntryNotFoundError as error:
            missing = missing or error
        except Exception as error:  # the library raises errors of several packages
            raise _refused(name, f"{filenames[0]} of {repository}", error) from None
    if offline:
        raise CheckpointError(
            f"{name} is not in the local cache and there is no connection to {host}; connect once (ironclip backbones fetch "
            f"{name}), or put {filenames[0]} of {repository} into {huggingface_hub.constants.HF_HUB_CACHE}, or name a local file"
        )
    raise _refused(name, f"{filenames[0]} of {repository}", missing or FileNotFoundError(filenames[0]))


def described_on_hub(name: str, repository: str) -> tuple[Path, Path | None, Callable[[], Path]]:
    """(configuration of open_clip or transformers, transformers' pixel statistics, a function that fetches the weights).

    Raises:
        CheckpointError: as `from_hub`.
    """
    note = from_hub(name, repository, OPEN_CLIP, TRANSFORMERS)
    kind = OPEN_CLIP if note.name == OPEN_CLIP else TRANSFORMERS

    def weights() -> Path:
        path = from_hub(name, repository, *OF[kind])
        if path.name.endswith(INDEX):
            for shard in shard_names(path):
                from_hub(name, repository, shard)
        return path

    pixels = None
    if kind == TRANSFORMERS:
        try:
            pixels = from_hub(name, repository, PIXELS)
        except CheckpointError:
            pixels = None  # the statistics of the model's kind then
    return note, pixels, weights


def _candidates(filename: str) -> list[str]:
    safe = {WEIGHTS: "open_clip_model.safetensors"}.get(filename)
    if safe is None and filename.endswith((".bin", ".pth")):
        safe = filename[:-4] + ".safetensors"
    return [safe, filename] if safe else [filename]


def reachable(host: str) -> bool:
    """Whether the network is there: without it the hub's own retries take most of a minute.

    With a proxy, names need not be resolvable here; `no_proxy` alone is no proxy.
    """
    if set(urllib.request.getproxies()) & {"http", "https", "all", "socks"}:
        return True
    try:
        socket.getaddrinfo(host, 443)
    except OSError:
        return False
    return True


def _check_entry(repository: str, filename: str) -> None:
    """CheckpointError where the cache has a link to a missing file; the hub's own message would not name it."""
    folder = Path(huggingface_hub.constants.HF_HUB_CACHE) / f"models--{repository.replace('/', '--')}" / "snapshots"
    for revision in folder.glob("*"):
        link = revision / filename
        if link.is_symlink() and not link.exists():
            raise CheckpointError(
                f"{link} in the download cache points to a file that is gone; delete the link and fetch it again"
            )


def _refused(name: str, what: str, error: Exception) -> CheckpointError:
    reason = (str(error).strip() or type(error).__name__).splitlines()[0][:160]
    return CheckpointError(
        f"{name} could not be downloaded ({what}: {reason}); check the name and the connection, or name a local file"
    )
