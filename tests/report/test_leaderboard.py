"""The leaderboard: what makes a line, what may be ranked, what an audit adds, and the files of the site."""

import json

import pytest
from reporting import check, record

from ironclip.core.errors import UsageError
from ironclip.records.record import AttackResult, BackboneFacts, Cost, DataFacts, Flag
from ironclip.report.leaderboard import Measured, file_name, lines, site

FREE = Cost()


def board(*records, audited=()):
    return lines([*map(Measured, records), *(Measured(each, True) for each in audited)], audited=bool(audited))


def test_static_stands_beside_the_lowest_attack_that_saw_the_defence():
    static, white, adaptive = (
        record("mta", 80, robust, knowledge=knowledge, cost=FREE)
        for robust, knowledge in ((60, "static"), (50, "white-box"), (20, "adaptive"))
    )
    (line,) = board(static, white, adaptive, record("mta", 80, 5, knowledge="black-box", cost=FREE))
    assert (line.static, line.headline, line.rank) == (static, adaptive, 1)
    assert len(line.members) == 4


@pytest.mark.parametrize("knowledge", ["static", "transfer", "black-box"])
def test_what_did_not_attack_the_defence_is_shown_and_never_ranked(knowledge):
    best, other = record("nap", 80, 79, knowledge=knowledge), record("apt", 80, 10)
    ranked = {line.method: line for line in board(best, other)}
    assert (ranked["nap"].rank, ranked["nap"].robust, ranked["nap"].why) == (0, None, f"{knowledge}-only")
    assert ranked["apt"].rank == 1


def test_a_number_that_a_check_distrusts_is_no_headline():
    failed = record("nap", 80, 79, flags=(Flag(id="x", level="fail", text="masked"),))
    (line,) = board(failed)
    assert (line.headline, line.rank, line.why) == (None, 0, "not trusted")


@pytest.mark.parametrize(
    "change",
    [
        {"eps": 2 / 255},
        {"norm": "l2", "eps": 0.5},
        {"backbone": BackboneFacts(name="mini-robust", sha256="ef" * 32)},
        {"data": DataFacts(name="eurosat", available=100)},
        {"options": {"layers": 3}},
        {"learned_sha256": "12" * 32},
        {"shots": 4},
    ],
)
def test_another_threat_backbone_data_or_defence_is_another_line(change):
    one, other = record("nap", 80, 40), record("nap", 80, 30, **change)
    assert len(board(one, other)) == 2
    same_place = "options" in change or "learned_sha256" in change or "shots" in change
    assert sorted(line.rank for line in board(one, other)) == ([1, 2] if same_place else [1, 1])


def test_variants_of_a_method_are_told_apart_by_the_options_in_which_they_differ():
    first, second = ({"tau": tau, "filter": "ideal"} for tau in (None, 0.85))
    shown = board(
        record("csr", 80, 40, options=first, cost=FREE),
        record("csr", 80, 30, options=second | {"steps": 9}, cost=FREE),
        record("nap", 80, 20, options={"length": 2}),
    )
    assert [line.told for line in shown] == [
        "steps=default, tau=None, 16 shots",
        "steps=9, tau=0.85, 16 shots",
        "16 shots, seed 1",
    ]
    hostile = board(record("csr", options={"tau": "<b>" + "x" * 500}), record("csr", options=second))
    page = site(hostile)["index.html"]
    assert isinstance(page, str)
    assert "<b>" not in page
    assert "x" * 50 not in page


def test_one_loss_on_few_images_is_no_headline_beside_a_worst_case_unless_it_is_clearly_lower():
    three = tuple(
        AttackResult(name=name, constants={"attack": name, "loss": loss, "eps": 4 / 255}, attacked=240, broken=140, survivors=100)
        for name, loss in (("pgd", "ce"), ("pgd-margin", "margin"))
    )
    worst = record("nap", 240, 100, images=300, attacks=three)
    assert not worst.one_loss
    assert record("nap", 80, 32).one_loss
    assert board(worst, record("nap", 80, 32))[0].headline == worst  # 32.0 against 33.3 %
    assert board(worst, record("nap", 80, 5))[0].headline.robust.count == 5
    assert board(record("nap", 80, 32))[0].headline.robust.count == 32


def test_the_images_that_are_measured_count_and_not_those_that_were_trained_on():
    one, two = (DataFacts(name="eurosat", split_hash=shots, images_hash="cd", available=100) for shots in ("16", "none"))
    assert sorted(line.rank for line in board(record("nap", 80, 40, data=one), record("zero_shot", 80, 1, data=two))) == [1, 2]


def test_lines_about_the_same_images_stand_together_in_their_order():
    few, many = (DataFacts(name="eurosat", images_hash=images, available=100) for images in ("few", "many"))
    scores = (("nap", 40, few), ("apt", 20, few), ("fap", 30, many), ("apd", 10, many))
    shown = board(*(record(name, 80, right, data=data) for name, right, data in scores))
    assert [(line.method, line.rank) for line in shown] == [("nap", 1), ("apt", 2), ("fap", 1), ("apd", 2)]


def test_equal_numbers_have_equal_ranks():
    ranks = {line.method: line.rank for line in board(record("nap"), record("apt"), record("fap", 80, 30))}
    assert ranks == {"nap": 1, "apt": 1, "fap": 3}


def test_with_audits_only_what_they_measured_is_listed_and_the_lower_number_counts():
    claimed, other = record("nap", 80, 60, learned_sha256="12" * 32), record("apt", 80, 70)
    found = record("nap", 80, 33, learned_sha256="12" * 32, seed=0)
    (line,) = board(claimed, other, audited=[found])
    assert (line.method, line.audited, line.headline) == ("nap", True, found)
    assert not board(claimed)[0].audited


def test_an_audit_of_other_tensors_says_nothing_about_a_claim():
    claimed = record("nap", 80, 60, learned_sha256="12" * 32)
    (line,) = board(claimed, audited=[record("nap", 80, 33, learned_sha256="34" * 32)])
    assert [each.record.robust.count for each in line.members] == [33]


def test_the_same_record_twice_is_one():
    (line,) = board(record("nap"), record("nap"))
    assert len(line.members) == 1


def test_a_board_needs_something_to_show():
    with pytest.raises(UsageError, match="no finished evaluation"):
        board()
    with pytest.raises(UsageError, match="no audit is one of a run"):
        lines([Measured(record("nap"))], audited=True)


def test_the_site_holds_the_page_and_two_files_for_each_record():
    told = [record("zero_shot", 80, 3), record("nap", 80, 60, knowledge="static"), record("nap", 80, 40)]
    files = site(board(*told), title="Board")
    assert len(files) == 1 + 2 * len(told)
    assert list(files)[-1] == "index.html"
    for each in told:
        assert files[f"records/{file_name(each)}.json"] == json.loads(json.dumps(each.model_dump(mode="json")))
        info = files[f"robustbench/{file_name(each)}.json"]
        assert (info["external"], info["n"], info["norm"]) == (f"{each.robust.count:.2f}", 100, "Linf")
        assert "audited" not in info["footnote"]
    page = check(files["index.html"])
    assert not {"script", "link", "iframe", "object", "img"} & set(page.tags)
    assert all("://" not in value for _, name, value in page.attributes if name in ("src", "href"))
    for text in ("≤ 40.0", "[30.9, 49.8]", "≤ 60.0", "white-box", told[0].command, "12,288 learned"):
        assert text in page.text


def test_every_choice_of_a_filter_names_the_rows_that_it_keeps():
    html = site(board(record("nap"), record("nap", eps=1 / 255), record("apt", eps=1 / 255)))["index.html"]
    rows = [value for tag, name, value in check(html).attributes if (tag, name) == ("tr", "data-threat")]
    assert sorted(rows) == ["1", "1", "2"]
    for choice in ("1", "2"):
        rule = f'main:has(#by-threat option[value="{choice}"]:checked) tbody tr:not([data-threat="{choice}"])'
        assert html.count(rule) == 1
