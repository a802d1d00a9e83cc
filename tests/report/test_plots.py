"""Figures of matplotlib: what is drawn, in which formats, and without touching matplotlib's global state."""

import sys
from pathlib import Path

import pytest
from reporting import record

pytest.importorskip("matplotlib", reason="the extra `report` is not installed")

from ironclip.core.errors import RunError, UsageError
from ironclip.report import plots


def test_records_of_one_radius_are_points_with_their_intervals() -> None:
    (axes,) = plots.figure([record("zero_shot", 90, 0), record("nap", 80, 40)]).axes
    assert [label.get_text() for label in axes.get_yticklabels()] == ["zero_shot", "nap"]
    clean, robust = axes.containers
    assert list(clean.lines[0].get_xdata()) == [90, 80]
    assert list(robust.lines[0].get_xdata()) == [0, 40]
    (low, _), (high, _) = robust.lines[2][0].get_segments()[1]
    told = record("nap", 80, 40).robust
    assert (low, high) == pytest.approx((100 * told.low, 100 * told.high))
    assert "1/255" not in axes.get_xlabel()
    assert "4/255" in axes.get_xlabel()


def test_several_radii_of_one_classifier_are_a_curve_that_starts_clean() -> None:
    records = [record("nap", 80, 60, eps=1 / 255), record("nap", 80, 40, eps=4 / 255)]
    (axes,) = plots.figure(records).axes
    (line,) = axes.containers
    assert list(line.lines[0].get_ydata()) == [80, 60, 40]
    assert [label.get_text() for label in axes.get_xticklabels()] == ["0", "1/255", "4/255"]


def test_what_an_attack_did_not_see_is_said_beside_the_name() -> None:
    (axes,) = plots.figure([record("nap", knowledge="static"), record("nap", knowledge="adaptive")]).axes
    assert [label.get_text() for label in axes.get_yticklabels()] == ["nap\nstatic", "nap\nadaptive"]


def test_an_upper_bound_is_called_one() -> None:
    (axes,) = plots.figure([record("nap")]).axes
    assert "upper bound" in axes.get_legend().get_texts()[1].get_text()


@pytest.mark.parametrize(("ending", "start"), [(".pdf", b"%PDF"), (".png", b"\x89PNG"), (".svg", b"<?xml")])
def test_the_ending_chooses_the_format(tmp_path: Path, ending: str, start: bytes) -> None:
    path = tmp_path / f"figure{ending}"
    plots.save(plots.figure([record()]), path)
    assert path.read_bytes().startswith(start)
    assert b"/Type3" not in path.read_bytes()


def test_another_ending_is_refused_and_pgf_without_tex_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(UsageError, match=r"\.pdf, \.pgf, \.png, \.svg"):
        plots.save(plots.figure([record()]), tmp_path / "figure.doc")
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(RunError, match=r"xelatex.*write \.pdf"):
        plots.save(plots.figure([record()]), tmp_path / "figure.pgf")
    assert not list(tmp_path.iterdir())


def test_nothing_to_plot_is_said() -> None:
    with pytest.raises(UsageError, match="no record"):
        plots.figure([])


def test_a_notebook_gets_a_picture_and_pyplot_is_left_alone() -> None:
    sys.modules.pop("matplotlib.pyplot", None)
    assert plots.figure([record()])._repr_png_().startswith(b"\x89PNG")
    assert "matplotlib.pyplot" not in sys.modules
