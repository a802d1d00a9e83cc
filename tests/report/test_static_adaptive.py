"""The figure of static beside attacked numbers: which numbers make a pair, from records and from tables alike."""

import re

import pytest
from reporting import check, record

from ironclip.core.errors import DataError, UsageError
from ironclip.records.record import DataFacts, Flag, Proportion
from ironclip.report import as_csv, rows
from ironclip.report.static_adaptive import of_csv, of_rows, pairs, picture


def told(method="zero_shot+mta", robust=40, knowledge="static", data="eurosat", images=100, **changes):
    facts = DataFacts(name=data, available=images)
    return record(method, 80, robust, images, knowledge=knowledge, data=facts, **changes)


def drawn(*records):
    return pairs(of_rows(rows(records)))


def test_a_pair_is_the_lowest_attacked_number_beside_the_static_one():
    (pair,) = drawn(told(), told(robust=30, knowledge="white-box"), told(robust=12, knowledge="adaptive"))
    assert (pair.method, pair.reported.count, pair.attacked.count) == ("mta", 40, 12)


def test_a_trained_defence_without_a_static_number_reports_the_white_box_one():
    found = [told("defeat", 34, "white-box"), told("defeat", 25, "adaptive"), told("nap", 31, "white-box")]
    (pair,) = drawn(*found)
    assert (pair.method, pair.knowledge, pair.reported.count, pair.attacked.count) == ("defeat", "white-box", 34, 25)
    (pair,) = drawn(*found, told("defeat", 50))
    assert (pair.knowledge, pair.reported.count, pair.attacked.count) == ("static", 50, 25)
    assert "white-box, an attack on its answer alone" in check(picture(drawn(*found))).text
    mixed = check(picture(drawn(*found, told(), told(robust=12, knowledge="adaptive")))).text
    assert "static, or white-box where trained" in mixed


def test_several_data_sets_are_counted_together_where_both_numbers_are_there():
    found = [told(), told(robust=10, knowledge="adaptive", data="eurosat"), told(robust=60, data="flowers5"),
             told(robust=9, images=90, knowledge="adaptive", data="flowers5"), told(robust=80, data="shapes")]  # fmt: skip
    (pair,) = drawn(*found)
    assert pair.data == ("eurosat", "flowers5")
    assert pair.reported == Proportion.measured(100, 200)
    assert pair.attacked == Proportion.measured(19, 190)


def test_what_is_not_trusted_or_was_made_elsewhere_makes_no_pair():
    failed = told(robust=1, knowledge="adaptive", flags=(Flag(id="x", level="fail", text="masked"),))
    with pytest.raises(UsageError, match="no method has both"):
        drawn(told(), failed, told(knowledge="transfer"), told(knowledge="black-box"))


def test_radii_and_backbones_are_never_mixed():
    assert (
        len(drawn(told(), told(robust=1, knowledge="adaptive"), told(eps=1 / 255), told(knowledge="adaptive", eps=1 / 255))) == 2
    )
    with pytest.raises(UsageError, match="no method has both"):
        drawn(told(), told(knowledge="adaptive", eps=1 / 255))


def test_a_table_says_what_its_records_say():
    table = rows([told(), told(robust=12, knowledge="adaptive"), told("nap", 33), told("nap", 31, "white-box")])
    assert pairs(of_csv(as_csv(table), "t.csv")) == pairs(of_rows(table))


@pytest.mark.parametrize("text", ["", "a,b\n1,2\n", "method,data,backbone,eps,threat,robust,images\nm,d,b,e,static,x,3\n"])
def test_what_is_no_such_table_is_refused(text):
    with pytest.raises(DataError, match=r"t\.csv is no table of `ironclip report --csv`"):
        of_csv(text, "t.csv")


def test_the_picture_places_every_number_and_shows_names_as_text():
    shown = drawn(
        told("zero_shot+<b>", 50), told("zero_shot+<b>", 10, "adaptive"), told("zero_shot", 4), told("zero_shot", 4, "white-box")
    )
    svg = picture(shown)
    text = check(svg).text
    assert all(part in text for part in ("<b>", "no defence", "50.0 → 10.0", "4.0 → 4.0", "mini, linf 4/255; eurosat"))
    centres = [float(x) for x in re.findall(r'cx="([\d.]+)" cy="[\d.]+" r="5"[^>]*><title>', svg)]
    start, per_point = centres[2] - 4 * (centres[0] - centres[1]) / 40, (centres[0] - centres[1]) / 40
    assert centres == pytest.approx([start + per_point * value for value in (50, 10, 4, 4)], abs=0.2)
