"""The examples run on embedded defaults as they are."""

import importlib.util
from pathlib import Path
from types import ModuleType

import pytest

ROOT = Path(__file__).resolve().parents[1] / "examples"


@pytest.fixture
def example(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("IRONCLIP_CACHE", str(tmp_path / "cache"))

    def run(name: str) -> ModuleType:
        spec = importlib.util.spec_from_file_location(name, ROOT / f"{name}.py")
        assert spec is not None
        assert spec.loader is not None
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        return module

    return run


def test_the_researcher_gets_a_table(example, tmp_path: Path) -> None:
    table = example("researcher").main(tmp_path / "runs")
    rows = [line.split("|")[1].strip() for line in table.splitlines() if line.startswith("|")]
    assert rows[2:] == ["zero\\_shot (no defence)", "apt", "nap"]
    assert "toprule" in (tmp_path / "runs" / "table.tex").read_text()


def test_the_engineer_gets_a_file_that_works_alone(example, tmp_path: Path) -> None:
    module = example("engineer")
    lines = module.main(module.photos(tmp_path / "photos"), tmp_path)
    assert (tmp_path / "robust.pt2").stat().st_size > 1e6
    assert len(lines) >= 4
    assert {line.split(":")[0] for line in lines} == {"red circle", "green square"}


def test_the_redteamer_sees_that_an_attack_through_the_defence_is_stronger(example, tmp_path: Path) -> None:
    found = example("redteamer").main(tmp_path / "runs")
    assert set(found) == {"static", "adaptive", "FGSM", "PGD"}
    assert found["adaptive"] <= found["static"]
    assert all(0 <= value <= 1 for value in found.values())


def test_every_example_is_tested() -> None:
    assert {path.stem for path in ROOT.glob("*.py")} == {"researcher", "engineer", "redteamer"}
