"""Published numbers beside ours, and two runs image by image."""

import pytest
from reporting import record

from ironclip.core.errors import UsageError
from ironclip.records.record import BackboneFacts, DataFacts
from ironclip.records.statistics import paired
from ironclip.report.published import compare, differences, printed

EUROSAT = DataFacts(name="eurosat", available=100)


def test_the_file_holds_numbers_of_all_five_papers():
    rows = printed()
    assert len(rows) > 2500
    for paper in ("NAP-Tuning", "CAPT", "DEFEAT", "AdvMask", "A-TPT"):
        assert any(row.paper.startswith(paper) for row in rows), paper
    assert {row.read_in for row in rows} == {"paper", "summary"}
    assert all(0 <= row.value <= 100 for row in rows if row.metric in ("clean_acc", "robust_acc"))


def test_the_closest_rows_come_first_and_say_what_differs():
    ours = record("fap", 80, 40, data=EUROSAT, eps=1 / 255, backbone=BackboneFacts(name="ViT-B-32/openai"))
    found = compare(ours)
    assert found
    best = next(each for each in found if each.theirs.metric == "robust_acc")
    assert best.differs == ("64 px, theirs 224 px",)
    assert best.difference == pytest.approx(40 - best.theirs.value)
    assert (best.theirs.shots, best.theirs.eps) == ("16", "1/255")


def test_every_difference_in_protocol_is_named():
    row = next(
        row
        for row in printed()
        if row.method == "fap" and row.metric == "robust_acc" and row.dataset == "eurosat" and row.shots == "4"
    )
    said = " | ".join(
        differences(record("fap", data=DataFacts(name="eurosat", available=900), eps=4 / 255, knowledge="static"), row)
    )
    for part in (
        "backbone mini, theirs ViT-B-32",
        "16 shots, theirs 4",
        "eps 4/255, theirs 1/255",
        "static attack, theirs white-box",
        "100 of 900",
    ):
        assert part in said


def test_nothing_is_found_for_a_method_nobody_printed():
    assert compare(record("fap", data=DataFacts(name="flowers5"))) == ()


def test_paired_shares_and_intervals():
    first = dict(enumerate([True] * 60 + [False] * 40))
    second = dict(enumerate([True] * 40 + [False] * 60))
    found = paired(first, second)
    assert (found["first"], found["second"], found["only_first"], found["only_second"]) == (0.6, 0.4, 20, 0)
    assert found["p"] < 1e-4
    assert found["difference"] == pytest.approx(0.2)
    assert 0.1 < found["low"] < 0.2 < found["high"] < 0.3
    assert paired(first, first)["p"] == 1
    with pytest.raises(UsageError, match="different images"):
        paired({1: True}, {2: True})
