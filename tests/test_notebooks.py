"""The notebooks run as they are, on embedded defaults, and show what they promise; they are stored without outputs."""

from pathlib import Path

import pytest

nbclient = pytest.importorskip("nbclient", reason="nbclient and ipykernel come with the extra `dev`")
nbformat = pytest.importorskip("nbformat")

FOLDER = Path(__file__).resolve().parents[1] / "docs" / "notebooks"
PROMISED = {
    "robust-classifier": ("<b>Data: photos</b>", "train nap:", "<b>Model: nap</b>", "image/png", "robust_low", "mini-robust"),
    "audit-your-defence": ("dead gradients", "(True, ['D1'", "through BPDA"),
    "table-of-a-paper": ("toprule", "zero_shot", "image/png", "ironclip evaluate runs/apt-shapes-mini-1shot-seed1"),
}
DIAGNOSED = "audit-your-defence"


def read(name: str):
    return nbformat.read(FOLDER / f"{name}.ipynb", as_version=4)


def test_every_notebook_is_tested() -> None:
    assert {path.stem for path in FOLDER.glob("*.ipynb")} == PROMISED.keys()


@pytest.mark.parametrize("name", PROMISED)
def test_a_notebook_is_stored_without_outputs(name: str) -> None:
    for cell in read(name).cells:
        assert cell.cell_type != "code" or (not cell.outputs and cell.execution_count is None)


@pytest.mark.parametrize("name", sorted(PROMISED.keys() - {DIAGNOSED}))
def test_a_notebook_runs_and_shows_what_it_promises(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    check(executed(read(name), tmp_path, monkeypatch), PROMISED[name])


def test_the_notebook_on_audits_runs_without_its_diagnostics(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """They take half a minute of a core, on however few images; the slow test runs them."""
    notebook = read(DIAGNOSED)
    cells = [cell for cell in notebook.cells if "diagnostics=2" in cell.source]
    assert len(cells) == 1
    cells[0].source = cells[0].source.replace("diagnostics=2", "diagnostics=0")
    check(executed(notebook, tmp_path, monkeypatch), ("all-zero", "through BPDA"))


@pytest.mark.slow
def test_the_notebook_on_audits_runs_as_it_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    check(executed(read(DIAGNOSED), tmp_path, monkeypatch), PROMISED[DIAGNOSED])


def executed(notebook, place: Path, monkeypatch: pytest.MonkeyPatch) -> list:
    """All outputs of a notebook that ran in an empty folder."""
    monkeypatch.setenv("IRONCLIP_CACHE", str(place / "cache"))
    monkeypatch.setenv("IPYTHONDIR", str(place / "ipython"))
    nbclient.NotebookClient(notebook, timeout=600, resources={"metadata": {"path": str(place)}}).execute()
    return [output for cell in notebook.cells if cell.cell_type == "code" for output in cell.outputs]


def check(outputs: list, promised: tuple[str, ...]) -> None:
    for each in promised:
        assert each in str(outputs), each
    said = "".join(output.text for output in outputs if output.output_type == "stream" and output.name == "stderr")
    assert "Warning" not in said
