"""Grids that come with the package are found by name, and planned without their data."""

from pathlib import Path

import pytest

from ironclip.core.errors import UsageError
from ironclip.grid.cost import sizes_of
from ironclip.grid.located import located, packaged
from ironclip.grid.plan import plan


def test_a_file_comes_before_a_name_and_a_name_before_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert located(Path("few-shot-11")) == located(Path("grids/few-shot-11.yaml")) == packaged()["few-shot-11"]
    (tmp_path / "nap.yaml").write_text("name: mine")
    assert located(Path("nap.yaml")) == Path("nap.yaml")
    for wrong in ("few-shot", "elsewhere/nap.yaml", "[/x]"):
        with pytest.raises(UsageError, match="unknown grid file"):
            located(Path(wrong))


def test_a_grid_is_counted_without_its_data(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("IRONCLIP_DATA", str(tmp_path))
    found = sizes_of(plan(located(Path("few-shot-11")), first=2))
    assert [(size.here, size.train, size.classes, size.test) for size in found.values()] == [(False, 1281167, 1000, 50000)]
