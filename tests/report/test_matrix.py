"""The paper-like table: averages, labels, what is bold, what is not ranked."""

import csv
import io

import pytest
from reporting import record

from ironclip.records.record import AttackResult, DataFacts, Flag
from ironclip.records.statistics import harmonic, wilson
from ironclip.report.formats.markdown import markdown
from ironclip.report.labels import Entry
from ironclip.report.matrix import matrices
from ironclip.report.matrix_figures import figures
from ironclip.report.matrix_page import matrix_page
from ironclip.report.matrix_tables import cells, long
from ironclip.report.svg_labels import beside

DTD = {"data": DataFacts(name="dtd")}


def entry(*args, config=None, **changes):
    return Entry(record(*args, **changes), config or {})


def test_means_over_seeds_then_data_sets_and_h_of_the_means():
    (matrix,) = matrices(
        [
            entry("nap", 80, 40, seed=1),
            entry("nap", 60, 20, seed=2),
            entry("nap", 50, 10, seed=1, **DTD),
            entry("zero_shot", 90, 5),
            entry("zero_shot", 70, 0, **DTD),
        ]
    )
    assert list(matrix.lines) == ["zero_shot", "nap"]
    nap = matrix.lines["nap"]["shapes"]
    assert nap.harmonic == pytest.approx(2 * 0.7 * 0.3 / (0.7 + 0.3))
    average = matrix.average("nap")
    assert (average.clean, average.robust) == (pytest.approx((0.6,)), pytest.approx((0.2,)))
    assert average.harmonic == pytest.approx(2 * 0.6 * 0.2 / 0.8)
    text = markdown(cells(matrix))
    assert "| nap | 70.0 ±10.0 | **≤ 30.0** ±10.0 |" in text
    assert "≤: one loss: upper bound." in text
    assert "1 to 2 seeds" in text


def test_methods_are_compared_on_the_pictures_that_all_have_in_common():
    known = [entry("zero_shot", 68, 47, 100), entry("zero_shot", 36, 27, 50)]
    (matrix,) = matrices([*known, entry("fare", 36, 27, 50)])
    assert [(line["shapes"].images, line["shapes"].robust) for line in matrix.lines.values()] == [(50, (0.54,)), (50, (0.54,))]
    (alone,) = matrices(known)
    assert alone.lines["zero_shot"]["shapes"].images == 100


def test_an_average_needs_every_data_set():
    (matrix,) = matrices([entry("nap", **DTD), entry("nap"), entry("apt")])
    assert matrix.average("apt") is None
    assert matrix.average("nap") is not None


def test_one_table_a_threat_backbone_and_number_of_shots():
    found = matrices(
        [entry("zero_shot"), entry("zero_shot", eps=1 / 255), entry("nap"), entry("nap", shots=4), entry("nap", eps=1 / 255)]
    )
    assert len(found) == 3
    assert all("zero_shot" in matrix.lines for matrix in found)


def test_base_to_new_has_four_numbers_and_their_harmonic_means():
    def half(method, part, clean, robust, data="eurosat", **changes):
        facts = DataFacts(name=f"{data}-{part}", subset=part)
        return entry(method, clean, robust, data=facts, config={"subset": "base"}, **changes)

    (matrix,) = matrices(
        [
            half("advmask", "base", 80, 40),
            half("advmask", "new", 60, 20),
            half("advmask", "base", 60, 50, "dtd"),
            half("advmask", "new", 40, 30, "dtd"),
            half("fap", "base", 50, 10),
            half("zero_shot", "base", 70, 0),
            half("zero_shot", "new", 70, 0),
            entry("zero_shot", 99, 99, data=DataFacts(name="eurosat")),
        ]
    )
    assert matrix.facts[-1] == "base-to-new"
    grid = cells(matrix)
    table = {line[0].text: dict(zip(grid.head, [cell.text for cell in line])) for line in grid.body}
    assert list(table) == ["zero_shot", "advmask", "fap"]
    row = table["advmask"]
    assert [row[f"eurosat {part}"] for part in ("base clean", "base robust", "new clean", "new robust")] == [
        "80.0",
        "≤ 40.0",
        "60.0",
        "≤ 20.0",
    ]
    assert row["eurosat H clean"] == f"{2 * 80 * 60 / 140:.1f}"
    assert row["eurosat H robust"] == f"{2 * 40 * 20 / 60:.1f}"
    assert row["eurosat H4"] == f"{4 / (1 / 80 + 1 / 40 + 1 / 60 + 1 / 20):.1f}"
    assert row["average H4"] == f"{4 / (1 / 70 + 1 / 45 + 1 / 50 + 1 / 25):.1f}"
    assert table["zero_shot"]["eurosat H4"] == "0.0"
    assert table["fap"]["eurosat H4"] == "–"
    best = {grid.head[place] for line in grid.body for place, cell in enumerate(line) if cell.rank and line[0].text == "advmask"}
    assert {"eurosat H robust", "eurosat H4"} <= best


def test_the_printed_h4_of_advmask_follows_from_its_four_numbers():
    assert 100 * harmonic((0.695, 0.436, 0.502, 0.261)) == pytest.approx(41.9, abs=0.05)


def test_what_is_learned_on_one_set_is_averaged_with_it_and_without():
    def on(method, data, clean, robust, trained_on="", **changes):
        return entry(method, clean, robust, data=DataFacts(name=data), trained_on=trained_on, config_hash="one", **changes)

    found = matrices(
        [
            on("fap", "caltech101", 90, 60),
            on("fap", "eurosat", 40, 20, "caltech101"),
            on("fap", "dtd", 20, 10, "caltech101"),
            entry("fap", 77, 33, data=DataFacts(name="eurosat"), config_hash="other"),
            entry("zero_shot", 50, 0, data=DataFacts(name="dtd"), config_hash="none"),
        ]
    )
    few_shot, moved = sorted(found, key=lambda matrix: matrix.setting.protocol)
    assert set(few_shot.data) == {"caltech101", "eurosat"}
    assert moved.facts[-1] == "learned on caltech101"
    assert moved.data == ("caltech101", "eurosat", "dtd")
    assert moved.average("fap").clean == (pytest.approx(0.5),)
    assert moved.elsewhere().average("fap").clean == (pytest.approx(0.3),)
    grid = cells(moved)
    assert "average clean" in grid.head
    assert "average without caltech101 clean" in grid.head
    assert moved.lines["zero_shot"].keys() == {"dtd"}


def test_a_suite_has_a_table_of_its_own():
    def on(method, data, suite="", **changes):
        return entry(method, 50, 20, data=DataFacts(name=data, suite=suite), **changes)

    moved = {"trained_on": "eurosat"}
    found = matrices(
        [on("fap", "dtd", "clean", **moved), on("zero_shot", "dtd", "clean"), on("zero_shot", "dtd"), on("fap", "dtd")]
    )
    assert [(matrix.facts[-1], list(matrix.lines)) for matrix in found] == [
        ("pgd (100 steps)", ["zero_shot", "fap"]),
        ("suite clean", ["zero_shot", "fap"]),
    ]
    assert all(len(score.clean) == 1 for matrix in found for scores in matrix.lines.values() for score in scores.values())


def test_one_seed_counts_once_and_other_steps_are_another_table():
    (matrix,) = matrices([entry("nap", 40, 20, images=50), entry("nap", 120, 40, images=200)])
    assert matrix.lines["nap"]["shapes"].clean == (0.6,)
    attacks = [(AttackResult(name="pgd", constants={"steps": n}, attacked=1, broken=0, survivors=1),) for n in (10, 100)]
    assert len(matrices([entry("nap", attacks=each) for each in attacks])) == 2
    members = [
        AttackResult(name=n, constants={}, attacked=1, broken=0, survivors=1) for n in ("apgd-ce", "apgd-t", "fab-t", "square")
    ]
    (matrix,) = matrices([entry("nap", attacks=tuple(members))])
    assert "AutoAttack" in matrix.facts


def test_the_feature_distortion_has_a_column_where_it_was_measured():
    moved = {"distortion": {"pgd": {"distortion": 0.25}}}
    (matrix,) = matrices([entry("nap", diagnostics=moved), entry("apt")])
    grid = cells(matrix)
    place = grid.head.index("shapes distortion")
    assert [line[place].text for line in grid.body] == ["0.250", "–"]
    assert "distortion" not in " ".join(cells(matrices([entry("apt")])[0]).head)


def test_rows_of_one_method_are_told_apart_by_what_differs():
    (matrix,) = matrices(
        [
            entry("nap", config={"options": {"sides": "image", "length": 2}, "seed": 1, "schedule": {"epochs": 5}}),
            entry("nap", config={"options": {"sides": "text", "length": 2}, "seed": 2, "schedule": {"epochs": 5}}),
            entry("apt", config={"options": {"length": 4}}),
        ]
    )
    assert list(matrix.lines) == ["nap (sides=image)", "nap (sides=text)", "apt"]


def test_the_settings_of_most_runs_stand_for_the_method():
    plain = [entry("nap", config={"options": {"sides": "image"}, "seed": seed}) for seed in (1, 2)]
    (matrix,) = matrices([*plain, entry("nap", config={"options": {"sides": "text"}, "seed": 1})])
    assert list(matrix.lines) == ["nap", "nap (sides=text)"]


def test_a_tie_on_one_data_set_is_settled_by_the_others():
    one, four = ({"options": {"draws": draws}} for draws in (1, 4))
    (matrix,) = matrices([entry("rtpt", config=four), entry("rtpt", config=one), entry("rtpt", config=one, **DTD)])
    assert {label: set(scores) for label, scores in matrix.lines.items()} == {
        "rtpt": {"shapes", "dtd"},
        "rtpt (draws=4)": {"shapes"},
    }


def test_what_was_learned_elsewhere_is_no_rival():
    long, short = ({"schedule": {"epochs": epochs}} for epochs in (10, 2))
    found = [entry("nap", config=long), entry("nap", config=short, trained_on="dtd"), entry("nap", config=short, **DTD)]
    assert {label for matrix in matrices(found) for label in matrix.lines} == {"nap"}


def test_of_ablations_that_come_once_each_only_what_was_changed_is_spelled_out():
    changes = [{}, {"sides": "text"}, {"length": 4}, {"refiners": "off"}]
    (matrix,) = matrices([entry("nap", config={"options": {"sides": "both", "length": 2} | change}) for change in changes])
    assert list(matrix.lines) == ["nap", "nap (sides=text)", "nap (length=4)", "nap (refiners=off)"]


def test_runs_of_several_presets_are_told_apart_by_their_names():
    def run(preset, **options):
        return entry("defeat", config={"preset": f"defeat/{preset}", "options": {"codes": 512, "decay": preset} | options})

    (matrix,) = matrices([run("official"), run("stable"), run("stable"), run("stable", codes=16)])
    assert list(matrix.lines) == ["defeat (official)", "defeat (stable)", "defeat (stable, codes=16)"]


def test_a_collapsed_or_static_row_is_marked_and_never_bold():
    collapse = Flag(id="collapse", level="warn", text="training collapsed")
    (matrix,) = matrices([entry("nap", 90, 80, flags=(collapse,)), entry("apt", 70, 30), entry("fap", 60, 20)])
    text = markdown(cells(matrix))
    assert "80.0 (collapsed)" in text
    assert "**≤ 30.0**" in text
    static = matrices([entry("nap", 90, 80, knowledge="static")])
    assert "static-only" in markdown(cells(static[0]))


def test_the_csv_holds_every_number():
    rows = list(csv.DictReader(io.StringIO(long(matrices([entry("nap", 80, 40, seed=1), entry("nap", 60, 20, seed=2)])))))
    assert [(row["clean"], row["clean_std"], row["clean_std1"]) for row in rows] == [("0.700000", "0.100000", "0.141421")]
    low, high = wilson(round(0.7 * int(rows[0]["images"])), int(rows[0]["images"]))
    assert (rows[0]["clean_low"], rows[0]["clean_high"]) == (f"{low:.6f}", f"{high:.6f}")
    assert long(()) == ""


def test_the_page_holds_every_table_and_the_curves_that_there_are():
    found = [entry("zero_shot"), entry("zero_shot", 80, 60, eps=1 / 255)]
    found += [entry("nap", 70, 30 + shots, shots=shots, seed=seed) for shots in (1, 4, 16) for seed in (1, 2)]
    found += [entry("<nap>", 70, 50, eps=1 / 255)]
    text = matrix_page(matrices(found), title="A & B")
    assert text.startswith("<!doctype html>")
    assert "A &amp; B" in text
    assert "&lt;nap&gt;" in text
    assert "<nap>" not in text
    assert "<script" not in text
    assert "http" not in text.replace("http://www.w3.org", "")
    assert text.count("<main>") == text.count("</main>") == 1
    assert text.count("tabindex='0' role='region'") == len(matrices(found))
    assert text.count("<table class='matrix'>") == len(matrices(found))
    assert "Robust accuracy over shots" in text
    assert text.count("Attack radius") == 1
    assert "Robust accuracy over shots" not in matrix_page(matrices([entry("nap")]))


def test_names_in_a_scatter_keep_off_points_and_each_other():
    points = [(50.0, 50.0), (60.0, 50.0), (70.0, 50.0), (195.0, 100.0)]
    widths = [30.0, 30.0, 30.0, 40.0]
    boxes = [(x, y - 10.5, x + w, y + 3.5) for (x, y), w in zip(beside(points, widths, (0, 0, 200, 200)), widths, strict=True)]
    markers = [(x - 4, y - 4, x + 4, y + 4) for x, y in points]
    everything = boxes + markers
    for n, box in enumerate(boxes):
        assert not any(meet(box, other) for m, other in enumerate(everything) if m != n)
        assert box[0] >= 0
        assert box[2] <= 200


def meet(one, other):
    return min(one[2], other[2]) > max(one[0], other[0]) and min(one[3], other[3]) > max(one[1], other[1])


def test_figures_of_tables_and_which_lines_they_have():
    found = [entry("zero_shot", shots=None), entry("zero_shot", 80, 60, eps=1 / 255)]
    found += [entry("nap", 70, 30 + shots, shots=shots) for shots in (1, 16)] + [entry("nap", 70, 50, eps=1 / 255)]
    drawn = {figure.title: figure.svg for figure in figures(matrices(found))}
    over_radius = next(svg for title, svg in drawn.items() if title.startswith("shapes, mini, pgd"))
    assert 'data-name="nap"' in over_radius
    assert 'data-name="zero_shot"' in over_radius
    assert sum(title.startswith("Robust over clean accuracy") for title in drawn) >= 2


def test_methods_of_different_training_radii_are_marked_and_one_radius_stands_in_the_caption():
    far, near = ({"training_attack": {"attack": "pgd", "eps": eps}} for eps in (4 / 255, 1 / 255))
    text = markdown(cells(matrices([entry("nap", **far), entry("fap", **near), entry("zero_shot")])[0]))
    assert "| nap (trained at 4/255) |" in text
    assert "| fap (trained at 1/255) |" in text
    assert "| zero\\_shot |" in text
    assert "Training radii differ" in text
    text = markdown(cells(matrices([entry("nap", **near), entry("fap", **near), entry("zero_shot")])[0]))
    assert "Trained at 1/255." in text
    assert "(trained at" not in text
