"""Weights from the Hugging Face hub or open_clip's addresses, with one line when they cannot be had."""

import json
import socket
import urllib.request
from collections.abc import Mapping
from pathlib import Path
from typing import Any
from urllib.parse import urlparse

import huggingface_hub
from huggingface_hub.errors import EntryNotFoundError
from open_clip.pretrained import download_pretrained_from_url

from ironclip.core.errors import CheckpointError

WEIGHTS = "open_clip_pytorch_model.bin"
CONFIG = "open_clip_config.json"


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
        return from_hub(name, repository, filename or WEIGHTS)
    try:
        return Path(download_pretrained_from_url(known["url"]))
    except (OSError, RuntimeError, ValueError) as error:
        raise _refused(name, error) from None


def from_hub(name: str, repository: str, filename: str = WEIGHTS) -> Path:
    """A file of a hub repository, as safetensors where it is offered; without a connection the cached one.

    Raises:
        CheckpointError: no connection and not in the cache, or refused.
    """
    host = urlparse(huggingface_hub.constants.ENDPOINT).hostname or ""
    offline = not _reachable(host)
    missing: Exception | None = None
    for candidate in _candidates(filename):
        try:
            return Path(huggingface_hub.hf_hub_download(repository, candidate, local_files_only=offline))
        except EntryNotFoundError as error:
            missing = error
        except (OSError, RuntimeError, ValueError) as error:
            raise _refused(name, error) from None
    if offline:
        raise CheckpointError(
            f"{name} is not in the local cache and there is no connection to {host}; connect once or name a local file"
        )
    raise _refused(name, missing or FileNotFoundError(filename))


def hub_config(name: str, repository: str) -> dict[str, Any]:
    """open_clip's description of a hub model: `model_cfg` and `preprocess_cfg`."""
    path = from_hub(name, repository, CONFIG)
    try:
        note = json.loads(path.read_text(encoding="utf-8"))
        return {"preprocess_cfg": {}, **note} if "model_cfg" in note else {"model_cfg": note, "preprocess_cfg": {}}
    except (ValueError, TypeError) as error:
        raise CheckpointError(f"{CONFIG} of {name} is damaged: {error}") from None


def _candidates(filename: str) -> list[str]:
    safe = {WEIGHTS: "open_clip_model.safetensors"}.get(filename)
    if safe is None and filename.endswith((".bin", ".pth")):
        safe = filename[:-4] + ".safetensors"
    return [safe, filename] if safe else [filename]


def _reachable(host: str) -> bool:
    """Whether it is worth asking: the hub's own retries take most of a minute without a network."""
    if urllib.request.getproxies():
        return True
    try:
        socket.getaddrinfo(host, 443)
    except OSError:
        return False
    return True


def _refused(name: str, error: Exception) -> CheckpointError:
    reason = (str(error).strip() or type(error).__name__).splitlines()[0][:160]
    return CheckpointError(f"{name} could not be downloaded ({reason}); check the name and the connection, or name a local file")
