"""On what a run was made: versions, device, commit. Imports none of the packages it names."""

import platform
import subprocess
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

PACKAGES = ("ironclip", "torch", "torchvision", "open_clip_torch", "timm", "safetensors", "numpy", "pillow")


def environment(device: str = "") -> dict[str, str]:
    """Names and versions, the kind of machine and device, and the commit if the package runs from a checkout."""
    facts = {"python": platform.python_version(), "system": platform.system(), "machine": platform.machine()}
    if device:
        facts["device"] = device
    for package in PACKAGES:
        try:
            facts[package] = version(package)
        except PackageNotFoundError:
            facts[package] = "absent"
    if commit := _commit(Path(__file__).resolve().parents[1]):
        facts["commit"] = commit
    return facts


def _commit(package: Path) -> str:
    """The commit, with "+changes" where tracked files differ; empty where git does not track this very package."""
    tracked = _git(package, "ls-files", "--error-unmatch", "__init__.py")
    commit = _git(package, "rev-parse", "HEAD") if tracked else ""
    return commit + "+changes" if commit and _git(package, "status", "--porcelain", "--untracked-files=no") else commit


def _git(folder: Path, *arguments: str) -> str:
    try:
        done = subprocess.run(
            ["git", *arguments],
            cwd=folder,
            capture_output=True,
            text=True,
            encoding="utf-8",
            errors="replace",
            timeout=10,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return done.stdout.strip() if done.returncode == 0 else ""
