"""Small folders of images, written by code from lists of paths; used by the zoo of layouts and tables."""

import hashlib
from collections.abc import Sequence
from pathlib import Path

from PIL import Image


def picture(path: Path) -> Path:
    """An image of its own colours for each path."""
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.frombytes("RGB", (3, 3), hashlib.sha256(str(path).encode()).digest()[:27]).save(path, "PNG")
    return path


def build(root: Path, paths: Sequence[str]) -> Path:
    """The folder with these paths. `a/{b,c}/` means both folders; a folder gets three images, `x.png` is an image, any other
    file holds text; a trailing `//` leaves a folder empty."""
    root.mkdir(parents=True, exist_ok=True)
    for path in (one for each in paths for one in braces(each)):
        if path.endswith("//"):
            (root / path).mkdir(parents=True, exist_ok=True)
        elif path.endswith("/"):
            for n in range(3):
                picture(root / path / f"{n}.png")
        elif path.lower().endswith(".png"):
            picture(root / path)
        else:
            (root / path).parent.mkdir(parents=True, exist_ok=True)
            (root / path).write_text("text")
    return root


def braces(path: str) -> list[str]:
    """`a/{b,c}/` -> a/b/, a/c/."""
    head, brace, rest = path.partition("{")
    if not brace:
        return [path]
    inner, _, tail = rest.partition("}")
    return [one for part in inner.split(",") for one in braces(head + part + tail)]
