"""Facts about this machine and its installation, as JSON values."""

import os
import re
import shutil
import subprocess
from importlib.metadata import metadata
from pathlib import Path
from typing import Any

import torch

from ironclip.backbones.registry import EMBEDDED, WEIGHTS_FOLDER
from ironclip.core.memory import free_bytes
from ironclip.core.version import installed
from ironclip.data.checking import available
from ironclip.data.packing import cache_folder

PACKAGES = ("ironclip", "torch", "torchvision", "open_clip_torch", "timm", "safetensors", "numpy", "pydantic")
FOR = {
    "report": "figures as PDF and PNG", "pandas": "records as data frames", "parquet": "samples as Parquet",
    "cluster": "grids on Ray", "dist": "one training on several GPUs", "serve": "the HTTP service", "export": "ONNX files",
    "hf": "data sets of the Hugging Face hub", "heif": "HEIC photos",
    "corruptions": "the table of common corruptions", "slurm": "grids on Slurm", "vlm": "vision-language models",
    "crosscheck": "comparison with other attack libraries",
}  # fmt: skip
BESIDE = {"transformers": "tokenizers of SigLIP and other models that do not use CLIP's"}


def facts() -> dict[str, Any]:
    """Versions, devices with memory and driver, optional packages and what misses them, caches with sizes, data, weights."""
    packages = optional()
    return {
        "versions": {package: installed(package) or "not installed" for package in PACKAGES},
        "devices": devices(),
        "driver": _driver(),
        "cuda": torch.version.cuda or "this torch is built without CUDA",
        "threads": torch.get_num_threads(),
        "optional packages": {package: found or "not installed" for package, found, _ in packages},
        "missing": [f"{package}: {use}" for package, found, use in packages if not found],
        "data sets ready": [entry.name for entry in available() if entry.ready],
        "backbones ready": list(EMBEDDED),
        "weights folder": os.environ.get(WEIGHTS_FOLDER, f"${WEIGHTS_FOLDER} is not set"),
        "caches": {name: f"{place} ({_gigabytes(size_of(place))})" for name, place in caches().items()},
        "runs can be written": os.access(Path.cwd(), os.W_OK),
    }


def devices() -> list[str]:
    """Every device by name, with its memory."""
    found = [f"cpu ({_gigabytes(free_bytes('cpu'))} free)"]
    for number in range(torch.cuda.device_count()):
        free, whole = torch.cuda.mem_get_info(number)
        name = torch.cuda.get_device_name(number)
        found.append(f"cuda:{number} {name} ({_gigabytes(free)} of {_gigabytes(whole)} free)")
    if torch.backends.mps.is_available():
        found.append(f"mps ({_gigabytes(torch.mps.recommended_max_memory())})")
    return found


def optional() -> list[tuple[str, str, str]]:
    """(package, version or "", what needs it) of every optional package that users install, from the package's own metadata."""
    needed: dict[str, list[str]] = {package: [use] for package, use in BESIDE.items()}
    for line in metadata("ironclip").get_all("Requires-Dist") or []:
        match = re.match(r"([\w.-]+).*extra == ['\"](\w+)['\"]", line)
        if match and match[2] in FOR:
            needed.setdefault(match[1], []).append(f"{FOR[match[2]]} (pip install 'ironclip[{match[2]}]')")
    return [(package, installed(package), "; ".join(uses)) for package, uses in sorted(needed.items())]


def caches() -> dict[str, Path]:
    """Where images and weights are kept."""
    from huggingface_hub.constants import HF_HUB_CACHE

    return {"images": cache_folder(), "hub": Path(HF_HUB_CACHE), "open_clip": Path.home() / ".cache" / "clip"}


def size_of(folder: Path) -> int:
    """Bytes of all files below a folder, links not followed; 0 where it is not there."""
    size = 0
    waiting = [folder] if folder.is_dir() else []
    while waiting:
        with os.scandir(waiting.pop()) as entries:
            for entry in entries:
                if entry.is_dir(follow_symlinks=False):
                    waiting.append(Path(entry.path))
                elif entry.is_file(follow_symlinks=False):
                    size += entry.stat(follow_symlinks=False).st_size
    return size


def _driver() -> str:
    tool = shutil.which("nvidia-smi")
    if tool is None:
        return "no NVIDIA driver found"
    try:
        asked = [tool, "--query-gpu=driver_version", "--format=csv,noheader"]
        said = subprocess.run(asked, capture_output=True, text=True, timeout=10, check=False).stdout.split()
    except (OSError, subprocess.TimeoutExpired):
        return "nvidia-smi does not answer"
    return said[0] if said else "nvidia-smi finds no GPU"


def _gigabytes(count: int) -> str:
    return f"{count / 1e9:.1f} GB"
