"""The paper-like table: averages, labels, what is bold, what is not ranked."""

import csv
import io

import pytest
from reporting import record

from ironclip.report import formats
from ironclip.report.matrix import Entry, cells, long, matrices
from ironclip.runs.records import DataFacts, Flag

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
    text = formats.markdown(cells(matrix))
    assert "| nap | 70.0 ±10.0 | **30.0** ±10.0 |" in text
    assert "1 to 2 seeds" in text


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


def test_rows_of_one_method_are_told_apart_by_what_differs():
    (matrix,) = matrices(
        [
            entry("nap", config={"options": {"sides": "image", "length": 2}, "seed": 1, "schedule": {"epochs": 5}}),
            entry("nap", config={"options": {"sides": "text", "length": 2}, "seed": 2, "schedule": {"epochs": 5}}),
            entry("apt", config={"options": {"length": 4}}),
        ]
    )
    assert list(matrix.lines) == ["nap (sides=image)", "nap (sides=text)", "apt"]


def test_a_collapsed_or_static_row_is_marked_and_never_bold():
    collapse = Flag(id="collapse", level="warn", text="training collapsed")
    (matrix,) = matrices([entry("nap", 90, 80, flags=(collapse,)), entry("apt", 70, 30), entry("fap", 60, 20)])
    text = formats.markdown(cells(matrix))
    assert "80.0 (collapsed)" in text
    assert "**30.0**" in text
    static = matrices([entry("nap", 90, 80, knowledge="static")])
    assert "static-only" in formats.markdown(cells(static[0]))


def test_the_csv_holds_every_number():
    rows = list(csv.DictReader(io.StringIO(long(matrices([entry("nap", 80, 40, seed=1), entry("nap", 60, 20, seed=2)])))))
    assert [(row["clean"], row["clean_std"], row["clean_std1"]) for row in rows] == [("0.700000", "0.100000", "0.141421")]
    assert long(()) == ""
