"""The command line in this process: arguments in, (exit status, standard output, standard error) out."""

import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

Result = tuple[int, str, str]


@pytest.fixture
def ironclip(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> Callable[..., Result]:
    """Runs in an empty folder with its own cache."""
    from ironclip.cli import main

    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("IRONCLIP_CACHE", str(tmp_path / "cache"))
    monkeypatch.delenv("IRONCLIP_DATA", raising=False)

    def run(*arguments: str) -> Result:
        monkeypatch.setattr(sys, "argv", ["ironclip", *arguments])
        with pytest.raises(SystemExit) as exit_:
            main()
        said = capsys.readouterr()
        return int(exit_.value.code or 0), said.out, said.err

    return run


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    """Two classes of ten images each: dark and bright noise."""
    draw = np.random.default_rng(0)
    for label, name in enumerate(("dark", "bright")):
        folder = tmp_path / "photos" / name
        folder.mkdir(parents=True)
        for number in range(10):
            pixels = draw.integers(128 * label, 128 * label + 128, (20, 24, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(folder / f"{number}.png")
    return tmp_path / "photos"
