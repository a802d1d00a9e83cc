"""Rows, captions and ranks; the printed forms down to the character."""

import csv
import io
import json
import math
from types import SimpleNamespace

import pytest
from reporting import check, record
from rich.console import Console
from typer.testing import CliRunner

from ironclip.attacks import STANDARD_FAST
from ironclip.cli import app
from ironclip.core.errors import UsageError
from ironclip.core.escapes import tex
from ironclip.records.record import AttackResult, Cost, DataFacts, Flag, Proportion, Timing
from ironclip.report import RunView, as_csv, as_json, caption, formats, latex, markdown, page, rows, terminal
from ironclip.report.cells import grid
from ironclip.report.tables import percent, rank
from ironclip.report.views import methods_of

BROKEN = Flag(id="nothing_perturbed", level="fail", text="no attack changed a single image")


def evaluated(monkeypatch, *records):
    """As if every folder were a run with these records."""
    places = [SimpleNamespace(record=lambda one=one: one) for one in records]
    run = SimpleNamespace(config={}, evaluations=lambda: places)
    monkeypatch.setattr("ironclip.records.folder.RunFolder.open", lambda folder: run)


def test_a_table_has_a_line_for_every_radius(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("ironclip.cli.report.run_paths", lambda targets: [tmp_path])
    evaluated(monkeypatch, record("nap", 80, 40, eps=1 / 255), record("nap", 80, 10, eps=4 / 255))
    done = CliRunner().invoke(app, ["report", "run", "--csv", "numbers.csv", "--json"])
    assert done.exit_code == 0, done.output
    with open("numbers.csv", newline="") as stream:
        assert [(row["eps"], row["robust"]) for row in csv.DictReader(stream)] == [("linf 1/255", "0.4"), ("linf 4/255", "0.1")]


def test_several_tables_have_labels_of_their_own_and_every_format_is_offered(tmp_path, monkeypatch):
    table = rows([record("nap", 80, 40)])
    assert [r"\label{tab:ironclip}" in formats.written("latex", [table] * count) for count in (1, 2)] == [True, False]
    assert r"\label{tab:ironclip2}" in formats.written("latex", [table, table])
    with pytest.raises(UsageError, match="unknown table format 'latx'; did you mean 'latex'"):
        formats.written("latx", [table])
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("ironclip.cli.report.run_paths", lambda targets: [tmp_path])
    evaluated(monkeypatch, record("nap", 80, 40))
    wanted = [word for name in formats.NAMES for word in (f"--{name}", name)]
    done = CliRunner().invoke(app, ["report", "run", *wanted])
    assert done.exit_code == 0, done.output
    for name in formats.NAMES:
        assert (tmp_path / name).read_text(encoding="utf-8") == formats.written(name, [table])


def test_the_undefended_model_comes_first_in_each_group():
    other = {"data": DataFacts(name="dtd")}
    table = rows([record("nap"), record("apt"), record("zero_shot"), record("apt", **other), record("zero_shot", **other)])
    assert [(row.data, row.method) for row in table] == [
        ("shapes", "zero_shot"),
        ("shapes", "nap"),
        ("shapes", "apt"),
        ("dtd", "zero_shot"),
        ("dtd", "apt"),
    ]


def test_the_caption_carries_the_threat_and_all_that_rows_share():
    said = caption(rows([record("zero_shot"), record("nap")]))
    assert said.startswith(
        "All rows: shapes, backbone mini, 16 shots, seed 1, white-box linf 4/255 at 64 px, pgd (100 steps), n = 100."
    )


def test_what_differs_is_a_column():
    text = markdown(rows([record("nap", seed=1), record("nap", seed=2), record("nap", seed=3, shots=4)]))
    assert text.splitlines()[0] == "| Method | Shots | Seed | Clean | Robust | H | Learned |"
    assert text.splitlines()[4].startswith("| nap | 4 | 3 |")


def test_markdown_is_exactly_this():
    table = rows([record("nap"), record("apt", 78, 33), record("zero_shot", 82, 2)])
    assert markdown(table).split("\n\n")[0] == "\n".join(
        [
            "| Method | Clean | Robust | H | Learned |",
            "| :-- | --: | --: | --: | --: |",
            "| zero\\_shot (no defence) | **82.0** [73.3, 88.3] | ≤ 2.0 [0.6, 7.0] | 3.9 | 0 |",
            "| nap | <ins>80.0</ins> [71.1, 86.7] | **≤ 40.0** [30.9, 49.8] | **53.3** | 12,288 |",
            "| apt | 78.0 [68.9, 85.0] | <ins>≤ 33.0</ins> [24.6, 42.7] | <ins>46.4</ins> | 12,288 |",
        ]
    )


def test_a_worst_case_over_several_losses_has_no_mark_and_one_loss_has_a_legend():
    pgd = record("nap")
    margin = pgd.attacks[0].model_copy(update={"name": "cw", "constants": {"attack": "cw", "derived": {}}})
    whole = record("apt", attacks=(*pgd.attacks, margin))
    assert "≤: one loss: upper bound." in caption(rows([pgd, whole]))
    assert "≤" not in caption(rows([whole]))
    assert "≤" not in markdown(rows([whole]))
    assert [row["one_loss"] for row in json.loads(as_json(rows([pgd, whole])))["rows"]] == [True, False]


def test_the_default_attack_is_called_by_its_name():
    shown = [f"{name}/base" if made_elsewhere else name for made_elsewhere in (False, True) for name in STANDARD_FAST]
    many = tuple(AttackResult(name=name, constants={"steps": 20}, attacked=1, broken=0, survivors=1) for name in shown)
    assert rows([record("apt", attacks=many)])[0].attacks == "standard-fast"


def test_latex_is_exactly_this():
    lines = latex(rows([record("nap"), record("zero_shot", 82, 2)]), number=3).splitlines()
    assert lines[:2] == [r"\begin{table}", r"\centering"]
    assert r"95 \% Wilson interval" in lines[2]
    assert lines[3:] == [
        r"\label{tab:ironclip3}",
        r"\begin{tabular}{lrrrr}",
        r"\toprule",
        r"Method & Clean & Robust & H & Learned \\",
        r"\midrule",
        r"zero\_shot {\scriptsize (no defence)} & \textbf{82.0} {\scriptsize [73.3, 88.3]} "
        r"& $\leq$ 2.0 {\scriptsize [0.6, 7.0]} & 3.9 & 0 \\",
        r"nap & 80.0 {\scriptsize [71.1, 86.7]} & \textbf{$\leq$ 40.0} {\scriptsize [30.9, 49.8]} & \textbf{53.3} & 12,288 \\",
        r"\bottomrule",
        r"\end{tabular}",
        r"\end{table}",
    ]


def test_latex_escapes_every_special_character():
    assert tex("a&b_c%d$e#f{g}h~i^j\\k<l>m|n") == (
        r"a\&b\_c\%d\$e\#f\{g\}h\textasciitilde{}i\textasciicircum{}j\textbackslash{}k\textless{}l\textgreater{}m\textbar{}n"
    )


def test_markdown_escapes_what_would_break_the_table():
    assert r"a\|b\*c\_d" in markdown(rows([record("a|b*c_d")]))


@pytest.mark.parametrize("knowledge", ["static", "transfer"])
def test_a_number_made_on_another_model_is_labelled_and_never_ranked(knowledge):
    table = rows([record("nap", 80, 40), record("apt", 80, 30), record("fap", 99, 90, knowledge=knowledge)])
    for text in (markdown(table), latex(table), as_csv(table), as_json(table)):
        assert f"{knowledge}-only" in text
    assert rank(table, lambda row: row.robust.value) == (1, 0, 0)
    assert "overstates the defence" in caption(table)


def test_a_record_that_failed_a_check_is_not_ranked():
    table = rows([record("nap", 80, 40), record("apt", 80, 70, flags=(BROKEN,)), record("zero_shot", 82, 2)])
    assert rank(table, lambda row: row.robust.value) == (0, 1, 0)
    assert "not trusted" in caption(table)


def test_equal_as_printed_is_equal_rank():
    table = rows([record("nap", 80, 40), record("apt", 80, 40), record("fap", 80, 20)])
    assert rank(table, lambda row: row.robust.value) == (1, 1, 2)


def test_a_single_row_is_not_the_best_of_anything():
    assert rank(rows([record()]), lambda row: row.robust.value) == (0,)


def test_no_number_is_a_dash_in_print_and_null_in_json():
    nothing = Proportion(count=0, of=0, value=math.nan, low=math.nan, high=math.nan)
    table = rows([record("nap", robust=0).model_copy(update={"robust": nothing}), record("apt"), record("fap", 70, 10)])
    assert "| – [–, –] |" in markdown(table).splitlines()[2]
    assert json.loads(as_json(table))["rows"][0]["robust"] is None
    assert percent(math.inf) == "–"


def test_no_rows_give_an_empty_table():
    assert rows([]) == ()
    assert markdown(()).startswith("| Method | Clean | Robust | H | Learned |")
    assert as_csv(()) == ""
    assert json.loads(as_json(()))["rows"] == []


def test_csv_and_json_hold_fractions_and_every_column():
    table = rows([record("nap", 80, 40)])
    (line,) = csv.DictReader(io.StringIO(as_csv(table)))
    assert (line["clean"], line["robust"], line["learned_parameters"], line["images"]) == ("0.8", "0.4", "12288", "100")
    (value,) = json.loads(as_json(table))["rows"]
    assert value["robust_low"] == pytest.approx(0.3094, abs=1e-4)
    assert value["threat"] == "white-box linf 4/255 at 64 px"


def test_csv_and_json_hold_the_options_that_tell_variants_of_a_method_apart():
    options = {"tau": None, "filter": 'low "pass", ideal', "eps": 4 / 255}
    table = rows([record("csr", options=options), record("csr", options={"tau": 0.85})])
    lines = list(csv.DictReader(io.StringIO(as_csv(table))))
    assert [json.loads(line["options"]) for line in lines] == [options, {"tau": 0.85}]
    assert [row["options"] for row in json.loads(as_json(table))["rows"]] == [options, {"tau": 0.85}]


def test_the_terminal_shows_names_as_they_are():
    console = Console(width=120, record=True, file=io.StringIO())
    console.print(terminal(rows([record("[bold]x[/bold]"), record("zero_shot", 82, 2)])))
    text = console.export_text()
    assert "[bold]x[/bold]" in text
    assert "40.0 [30.9, 49.8]" in text


def test_the_cost_of_an_answer_is_shown_where_a_test_time_method_was_measured():
    cost, timing = Cost(forward_passes=35, backward_passes=19), Timing(answer_seconds=0.25)
    plain, adapting = record("nap"), record("nap+atpt", cost=cost, timing=timing)
    assert "Passes" not in grid(rows([plain])).head
    table = grid(rows([plain, adapting]))
    assert table.head[-2:] == ("Passes", "Seconds")
    assert [[cell.text for cell in line[-2:]] for line in table.body] == [["–", "–"], ["35 + 19", "0.25"]]
    assert "forward + backward" in table.caption
    line = next(csv.DictReader(io.StringIO(as_csv(rows([adapting])))))
    assert (line["forward_passes"], line["backward_passes"], line["answer_seconds"]) == ("35.0", "19.0", "0.25")
    shown = page([RunView(adapting)])
    assert "35 forward and 19 backward passes of the image encoder, 0.25 s per image" in shown
    assert "forward and" not in page([RunView(plain)])


def test_different_training_radii_are_a_column_and_one_is_in_the_caption():
    far, near = ({"training_attack": {"attack": "pgd", "eps": eps, "norm": "linf"}} for eps in (4 / 255, 1 / 255))
    table = rows([record("zero_shot"), record("nap", **far), record("fap", **near)])
    assert "Trained at" in grid(table).head
    assert [row.trained_at for row in table] == ["", "4/255", "1/255"]
    table = rows([record("zero_shot"), record("nap", **near), record("fap", **near)])
    assert "Trained at" not in grid(table).head
    assert "trained at 1/255" in caption(table)


def test_variants_of_a_method_have_names_of_their_own():
    records = [record("csr", 60, 2), record("csr", 62, 4), record("nap", 70, 30)]
    configs = [{"method": "csr", "options": {"tau": tau}} for tau in (0.85, None)] + [{"method": "nap"}]
    shown = [RunView(each, config=config) for each, config in zip(records, configs)]
    assert methods_of(shown) == ["csr (tau=0.85)", "csr (tau=None)", "nap"]
    assert [row.method for row in rows(records, methods_of(shown))] == methods_of(shown)
    text = check(page(shown)).text
    assert text.count("csr (tau=0.85)") >= 2
    assert [row.method for row in rows(records)] == ["csr", "csr", "nap"]
