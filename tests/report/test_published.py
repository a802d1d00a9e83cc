"""Published numbers beside ours, and two runs image by image."""

import pytest
from reporting import record

from ironclip import defenses, testtime
from ironclip.core.errors import UsageError
from ironclip.records.record import BackboneFacts, DataFacts
from ironclip.records.statistics import paired
from ironclip.report.published import compare, differences, printed

EUROSAT = DataFacts(name="eurosat", available=100)
RECENT = ("csr", "et3", "ttp", "nac", "dbd", "clipure", "agft", "comp_tga", "adapt", "advflyp", "saft")
"""Sim-CLIP's and AdvCLIP-LoRA's papers print captions and answers to questions, or nothing that was read."""


def test_the_file_holds_numbers_of_all_five_papers():
    rows = printed()
    assert len(rows) > 2500
    for paper in ("NAP-Tuning", "CAPT", "DEFEAT", "AdvMask", "A-TPT"):
        assert any(row.paper.startswith(paper) for row in rows), paper
    assert {row.read_in for row in rows} == {"paper", "summary"}
    assert all(0 <= row.value <= 100 for row in rows if row.metric in ("clean_acc", "robust_acc"))


def test_every_method_of_the_file_is_one_of_ours_or_a_stack_of_ours():
    ours = {*defenses.NAMES, *testtime.NAMES}
    assert {part for row in printed() if row.method for part in row.method.split("+")} <= ours


@pytest.mark.parametrize("method", RECENT)
def test_the_recent_defences_have_their_published_numbers(method):
    rows = [row for row in printed() if row.method == method]
    assert any("acc" in row.metric for row in rows)
    assert all(row.eps or "clean" not in row.metric for row in rows)


@pytest.mark.parametrize("method", ["rtpt", "et3", "ttp"])
def test_a_test_time_method_on_the_plain_model_stands_beside_its_papers_rows(method):
    found = compare(record(f"zero_shot+{method}", data=EUROSAT, eps=1 / 255, knowledge="static"))
    assert {each.theirs.metric for each in found} == {"clean_acc", "robust_acc"}
    assert {each.theirs.method for each in found} == {method}
    robust = [each for each in found if each.theirs.metric == "robust_acc"]
    assert all(not any("static attack" in what for what in each.differs) for each in robust)
    adaptive = compare(record(f"zero_shot+{method}", data=EUROSAT, eps=1 / 255, knowledge="adaptive"))
    assert any("adaptive attack, theirs static" in each.differs for each in adaptive)


def test_a_test_time_method_on_a_defence_is_not_compared_with_the_plain_model():
    assert compare(record("nap+rtpt", data=EUROSAT)) == ()


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
