"""The environment of a run: versions, device, commit. Imports none of the packages it names."""

import hashlib
import platform
import subprocess
from functools import cache
from pathlib import Path

from ironclip.core.version import installed

PACKAGES = ("ironclip", "torch", "torchvision", "open_clip_torch", "timm", "safetensors", "numpy", "pillow")
OURS = Path(__file__).resolve().parents[1]


def environment(device: str = "") -> dict[str, str]:
    """Names and versions, the kind of machine and device, and the commit if the package runs from a checkout."""
    facts = {"python": platform.python_version(), "system": platform.system(), "machine": platform.machine()}
    if device:
        facts["device"] = device
    facts |= packages()
    if commit := _commit(OURS):
        facts["commit"] = commit
    return facts


def packages() -> dict[str, str]:
    """Versions of the numerical packages."""
    return {package: installed(package) or "absent" for package in PACKAGES}


@cache
def code() -> str:
    """Hash of the program's own files: it tells any two of its versions apart, installed or edited, and needs no git."""
    found = hashlib.sha256()
    for path in sorted(OURS.rglob("*.py")):
        found.update(f"{path.relative_to(OURS).as_posix()}\0".encode() + path.read_bytes() + b"\0")
    return found.hexdigest()[:16]


def _commit(package: Path) -> str:
    """The commit, with "+changes" where tracked files differ, and "+unknown" where git did not say whether they do; empty where
    git does not track this very package."""
    tracked = _git(package, "ls-files", "--error-unmatch", "__init__.py")
    if not tracked or not (commit := _git(package, "rev-parse", "HEAD")):
        return ""
    changes = _git(package, "status", "--porcelain", "--untracked-files=no")
    return commit + ("+unknown" if changes is None else "+changes" if changes else "")


def _git(folder: Path, *arguments: str) -> str | None:
    """What git says; None where it fails, takes long, or is not there."""
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
        return None
    return done.stdout.strip() if done.returncode == 0 else None
