"""The notebooks run as they are, on embedded defaults, and show what they promise; they are stored without outputs."""

from pathlib import Path

import pytest

nbclient = pytest.importorskip("nbclient", reason="nbclient and ipykernel come with the extra `dev`")
nbformat = pytest.importorskip("nbformat")

FOLDER = Path(__file__).resolve().parents[1] / "docs" / "notebooks"
PROMISED = {
    "robust-classifier": ("<b>Data: photos</b>", "train nap:", "<b>Model: nap</b>", "image/png", "robust_low", "red heart"),
    "audit-your-defence": ("dead gradients", "(True, ['D1'", "through BPDA"),
    "table-of-a-paper": ("toprule", "zero_shot", "image/png", "ironclip evaluate runs/apt-shapes-mini-1shot-seed1"),
}


def read(name: str):
    return nbformat.read(FOLDER / f"{name}.ipynb", as_version=4)


def test_every_notebook_is_tested() -> None:
    assert {path.stem for path in FOLDER.glob("*.ipynb")} == PROMISED.keys()


@pytest.mark.parametrize("name", PROMISED)
def test_a_notebook_is_stored_without_outputs(name: str) -> None:
    for cell in read(name).cells:
        assert cell.cell_type != "code" or (not cell.outputs and cell.execution_count is None)


@pytest.mark.parametrize("name", PROMISED)
def test_a_notebook_runs_and_shows_what_it_promises(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("IRONCLIP_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("IPYTHONDIR", str(tmp_path / "ipython"))
    notebook = read(name)
    nbclient.NotebookClient(notebook, timeout=300, resources={"metadata": {"path": str(tmp_path)}}).execute()
    outputs = [output for cell in notebook.cells if cell.cell_type == "code" for output in cell.outputs]
    for promised in PROMISED[name]:
        assert promised in str(outputs), promised
    said = "".join(output.text for output in outputs if output.output_type == "stream" and output.name == "stderr")
    assert "Warning" not in said
