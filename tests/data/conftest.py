"""Small data sets written to a temporary folder; no test reads or fills the user's own folders."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image


@pytest.fixture(autouse=True)
def own_folders(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("IRONCLIP_CACHE", str(tmp_path / "cache"))
    monkeypatch.delenv("IRONCLIP_DATA", raising=False)
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def paint() -> Callable[..., Path]:
    """Writes an image with a gradient; the seed changes every pixel."""

    def write(path: Path, seed: int = 0, size: tuple[int, int] = (20, 16)) -> Path:
        path.parent.mkdir(parents=True, exist_ok=True)
        values = np.random.default_rng(seed).integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)
        Image.fromarray(values).save(path)
        return path

    return write


@pytest.fixture
def photos(tmp_path: Path, paint: Callable[..., Path]) -> Path:
    """A folder with three classes of 10, 7 and 5 images."""
    for k, (name, count) in enumerate({"red_fox": 10, "badger": 7, "owl": 5}.items()):
        for n in range(count):
            paint(tmp_path / "photos" / name / f"{n:02d}.png", 100 * k + n)
    return tmp_path / "photos"
