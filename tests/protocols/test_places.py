"""A run finds its images from any folder, and one whose images moved says where they were and what to do."""

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from ironclip.core.errors import DataError, RunError
from ironclip.protocols.config import configure
from ironclip.protocols.few_shot import open_run, train
from ironclip.protocols.places import found_again, places
from ironclip.records.folder import RunFolder

CONFIG = {"method": "zero_shot", "dataset": "photos", "classes": "names.txt"}


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with images, names and a run, which is also the working directory."""
    draw = np.random.default_rng(0)
    for name in ("d", "b"):
        folder = tmp_path / "project" / "photos" / name
        folder.mkdir(parents=True)
        for number in range(6):
            Image.fromarray(draw.integers(0, 255, (9, 9, 3), dtype=np.uint8)).save(folder / f"{number}.png")
    (tmp_path / "project" / "names.txt").write_text("b\tbright\nd\tdark\n")
    monkeypatch.chdir(tmp_path / "project")
    monkeypatch.setenv("IRONCLIP_CACHE", str(tmp_path / "cache"))
    monkeypatch.delenv("IRONCLIP_DATA", raising=False)
    train(configure(CONFIG), out=Path("run"))
    return tmp_path / "project"


def test_paths_are_noted_absolute_and_with_what_they_were_relative_to(project: Path) -> None:
    noted = json.loads((project / "run" / "places.json").read_text())
    assert noted == {"dataset": f"{project}/photos", "classes": f"{project}/names.txt", "relative_to": str(project)}
    assert RunFolder.open(project / "run").config["dataset"] == "photos"
    absolute = configure(CONFIG | {"dataset": str(project / "photos"), "classes": None})
    assert places(absolute) == {"dataset": f"{project}/photos"}
    assert places(configure({"method": "zero_shot", "dataset": "shapes"})) == {}


def test_a_run_is_opened_from_any_folder_and_after_its_project_moved(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir("/")
    assert open_run(project / "run")[1].dataset.classes == ("bright", "dark")
    moved = project.rename(project.parent / "elsewhere")
    with pytest.raises(DataError, match="are not at"):
        open_run(moved / "run")
    monkeypatch.setenv("IRONCLIP_DATA", str(moved))
    assert open_run(moved / "run")[1].dataset.classes == ("bright", "dark")
    monkeypatch.delenv("IRONCLIP_DATA")
    monkeypatch.chdir(moved)
    assert open_run(Path("run"))[1].config.dataset == "photos"


@pytest.mark.parametrize("noted", [True, False], ids=["noted", "of an older version"])
@pytest.mark.parametrize("what", ["photos", "names.txt"])
def test_what_moved_is_said_in_one_line_with_what_to_do(project: Path, what: str, noted: bool) -> None:
    (project / what).rename(project / "other")
    if not noted:
        (project / "run" / "places.json").unlink()
    with pytest.raises(DataError, match=rf"run: its (images|class names) are not at .*{what} any more.*IRONCLIP_DATA") as caught:
        open_run(project / "run")
    assert "\n" not in str(caught.value)
    assert (f"(typed {what} in {project})" in str(caught.value)) == noted


def test_damaged_notes_are_one_line(project: Path) -> None:
    (project / "run" / "places.json").write_text('{"dataset": 3}')
    with pytest.raises(RunError, match="holds no paths; remove it"):
        open_run(project / "run")
    assert found_again(configure({"method": "zero_shot", "dataset": "shapes"}), {}, project).dataset == "shapes"


@pytest.mark.parametrize(
    "verb",
    [
        ["evaluate", "run", "--attack", "fgsm"], ["classify", "names.txt", "--model", "run"], ["serve", "run", "--port", "0"],
        ["export", "run", "m.onnx"], ["save", "run", "saved"], ["audit", "run"], ["attack", "run", "--save", "adv"],
        ["push", "run", "org/name"],
    ],
    ids=lambda verb: verb[0],
)  # fmt: skip
def test_every_verb_that_needs_the_pictures_says_so(project: Path, verb: list[str], monkeypatch, capsys) -> None:
    from ironclip.cli import main

    (project / "photos").rename(project / "other")
    before = sorted(project.rglob("*"))
    monkeypatch.setattr("sys.argv", ["ironclip", *verb])
    with pytest.raises(SystemExit) as end:
        main()
    said = capsys.readouterr().err
    assert end.value.code == 2
    assert "its images are not at" in said
    assert "IRONCLIP_DATA=FOLDER" in said
    assert sorted(path for path in project.rglob("*") if path.name != ".lock") == [p for p in before if p.name != ".lock"]
