"""The verb `doctor`: what is installed, and on which machine."""

from pathlib import Path
from typing import Any

from ironclip.cli.common import Json, app, emit
from ironclip.cli.terminal import say


@app.command()
def doctor(as_json: Json = False) -> None:
    """Versions, devices, data sets and backbones found here, and whether runs can be written."""
    import os
    from importlib.metadata import PackageNotFoundError, version

    import torch

    from ironclip.backbones.registry import EMBEDDED, WEIGHTS_FOLDER
    from ironclip.data.checking import available
    from ironclip.data.packing import cache_folder

    def found(package: str) -> str:
        try:
            return version(package)
        except PackageNotFoundError:
            return "not installed"

    packages = ("ironclip", "torch", "torchvision", "open_clip_torch", "timm", "safetensors", "numpy", "pydantic", "matplotlib")
    devices = ["cpu", *[f"cuda:{i} {torch.cuda.get_device_name(i)}" for i in range(torch.cuda.device_count())]]
    devices += ["mps"] if torch.backends.mps.is_available() else []
    here = Path.cwd()
    facts: dict[str, Any] = {
        "versions": {package: found(package) for package in packages},
        "devices": devices,
        "threads": torch.get_num_threads(),
        "data sets ready": [entry.name for entry in available() if entry.ready],
        "backbones ready": list(EMBEDDED),
        "weights folder": os.environ.get(WEIGHTS_FOLDER, f"${WEIGHTS_FOLDER} is not set"),
        "cache": str(cache_folder()),
        "runs can be written": os.access(here, os.W_OK),
    }
    if as_json:
        emit(facts)
        return
    for name, value in facts.items():
        text = ", ".join(f"{k} {v}" for k, v in value.items()) if isinstance(value, dict) else value
        say(f"{name}: {', '.join(text) if isinstance(text, list) else text}")
