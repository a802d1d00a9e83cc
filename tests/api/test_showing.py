"""Everything that the front door hands out shows itself: one short line, a table in a notebook, a frame, a figure."""

import sys
from pathlib import Path

import pytest
from reporting import record

import ironclip
from ironclip.api.result import Result
from ironclip.core.errors import UsageError
from ironclip.serve.export import Exported
from ironclip.serve.exported import ExportedClassifier
from ironclip.serve.facts import facts_of


@pytest.fixture(scope="module")
def shown(tmp_path_factory: pytest.TempPathFactory):
    """One of each thing that a call of the front door returns."""
    place = tmp_path_factory.mktemp("shown")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("IRONCLIP_CACHE", str(place / "cache"))
        backbone, data = ironclip.load("mini"), ironclip.dataset("shapes", shots=1)
        plain = ironclip.zero_shot(backbone, data, root=place)
        guarded = ironclip.test_time("ttc", plain, steps=1)
        result = ironclip.evaluate(plain, attack="fgsm", eps="1/255,2/255", limit=2, root=place)
        facts = facts_of(plain.experiment, [])
    file = place / "plain.pt2"
    exported, alone = Exported(file, facts, 0.0, 0.0, 1.0), ExportedClassifier(file, facts, plain)
    inside = [data.dataset, data.batch(limit=2, resolution=64), plain.experiment, plain.run, result.records[0]]
    return [backbone, data, plain, plain.classifier, guarded, guarded.classifier, exported, alone, *inside, result]


def test_a_repr_is_one_short_line(shown) -> None:
    for each in shown:
        assert len(repr(each)) < 200, type(each)
        assert "\n" not in repr(each)


def test_a_notebook_shows_data_models_classifiers_and_results_as_tables(shown) -> None:
    tables = [each for each in shown if hasattr(each, "_repr_html_")]
    assert {type(each).__name__ for each in tables} == {"Data", "Model", "AdaptedClassifier", "ExportedClassifier", "Result"}
    for each in tables:
        assert "<table" in each._repr_html_()
        assert each._repr_html_().count("<table") == each._repr_html_().count("</table>")


def test_several_radii_give_one_record_each(shown) -> None:
    assert [round(255 * each.threat.eps) for each in shown[-1].records] == [1, 2]


def test_names_are_text_in_a_notebook_and_never_markup() -> None:
    told = record("<script>alert(1)</script>")
    assert "<script>" not in Result((told,))._repr_html_()


def test_a_notebook_shows_each_warning_once_with_the_methods_it_is_about() -> None:
    from ironclip.records.record import Flag

    flag = Flag(id="x", level="warn", text="one loss")
    shown = Result((record("apt", flags=(flag,)), record("nap", flags=(flag,))))._repr_html_()
    assert shown.count("warn: one loss (apt, nap)") == 1


def test_a_frame_has_one_row_per_record_in_their_order() -> None:
    pytest.importorskip("pandas")
    result = Result((record("nap", 80, 40),)) + Result((record("zero_shot", 90, 0),))
    frame = result.to_pandas()
    assert list(frame.method) == ["nap", "zero_shot"]
    assert list(frame.robust) == [0.4, 0.0]
    assert frame.robust_low[0] < 0.4 < frame.robust_high[0]
    assert list(frame.columns) == result.table("csv").splitlines()[0].split(",")


@pytest.mark.parametrize(("missing", "call", "extra"), [("pandas", "to_pandas", "pandas"), ("matplotlib", "plot", "report")])
def test_a_missing_extra_is_named(monkeypatch: pytest.MonkeyPatch, missing: str, call: str, extra: str) -> None:
    monkeypatch.setitem(sys.modules, missing, None)
    monkeypatch.delitem(sys.modules, "ironclip.report.plots", raising=False)
    with pytest.raises(UsageError, match=rf'pip install "ironclip\[{extra}\]"'):
        getattr(Result((record(),)), call)()


def test_from_pretrained_refuses_an_exported_file(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="load_classifier"):
        ironclip.Model.from_pretrained(tmp_path / "model.onnx")
