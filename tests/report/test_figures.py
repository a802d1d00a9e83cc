"""Charts are read back from the SVG."""

import math
import re
from xml.etree import ElementTree

import pytest
from reporting import log, record, views

from ironclip.core.errors import UsageError
from ironclip.report import RunView, curve
from ironclip.report.figures import diagnostic_curve, eps_curve, training_curve
from ironclip.report.svg import LEFT, RIGHT, WIDTH, Series, Tick, chart, nice_ticks


def read(svg: str) -> ElementTree.Element:
    return ElementTree.fromstring(svg)


def numbers(svg: str) -> dict[str, list[float]]:
    """name of a line -> the values that its markers tell."""
    groups = [group for group in read(svg).iter("g") if group.get("class") == "series"]
    return {
        group.get("data-name", ""): [float((title.text or "").rpartition(": ")[2]) for title in group.iter("title")]
        for group in groups
    }


def texts(svg: str) -> list[str]:
    return [element.text or "" for element in read(svg).iter("text")]


def test_the_eps_curve_starts_with_clean_accuracy_and_holds_every_number():
    assert numbers(eps_curve(views())) == {"zero_shot": [82, 45, 12, 2, 0], "nap": [76, 66, 57, 41, 14]}
    assert [text for text in texts(eps_curve(views())) if text.isdigit()][-5:] == ["0", "1", "2", "4", "8"]


def test_the_band_is_the_wilson_interval():
    svg = eps_curve(views())
    corners = re.findall(r'class="band" points="([^"]+)"', svg)[1].split()
    heights = [float(corner.split(",")[1]) for corner in corners]
    markers = [float(circle.get("cy", 0)) for circle in read(svg).iter("circle")][-5:]
    scale = (markers[-1] - markers[0]) / (0.76 - 0.14)
    for place, point in enumerate(views()[1].curve):
        assert markers[place] - heights[place] == pytest.approx(scale * (point.robust.high - point.robust.value), abs=0.15)
        assert heights[-1 - place] - markers[place] == pytest.approx(scale * (point.robust.value - point.robust.low), abs=0.15)


def test_a_radius_is_placed_in_proportion():
    found = [float(circle.get("cx", 0)) for circle in read(eps_curve(views())).iter("circle")][-5:]
    wide = WIDTH - LEFT - RIGHT
    assert found == pytest.approx([LEFT + part * wide for part in (0, 1 / 8, 2 / 8, 4 / 8, 1)], abs=0.1)


def test_an_l2_curve_says_its_unit():
    points = curve([record(eps=0.5, norm="l2"), record(eps=1.0, norm="l2", robust=10)])
    said = texts(eps_curve([RunView(record(eps=0.5, norm="l2"), curve=points)]))
    assert "Attack radius (l2, unit of pixels in [0, 1])" in said
    assert {"0", "0.5", "1"} <= set(said)


def test_records_of_one_curve_differ_in_eps_only():
    with pytest.raises(UsageError, match="differ in eps only"):
        curve([record("nap"), record("apt", eps=1 / 255)])
    with pytest.raises(UsageError, match="two records"):
        curve([record("nap"), record("nap", robust=3)])
    assert curve([]) == ()


def test_the_training_curve_holds_every_term_and_its_sum():
    entries = log(3)
    found = numbers(training_curve([{"event": "step", "epoch": 1, "terms": {"x": 9.0}}, *entries]))
    assert set(found) == {"sum of terms", "clean cross-entropy", "adv cross-entropy", "KL divergence"}
    assert found["adv cross-entropy"] == pytest.approx([entry["terms"]["adv_ce"] for entry in entries], rel=1e-3)
    assert found["sum of terms"] == pytest.approx([sum(entry["terms"].values()) for entry in entries], rel=1e-3)


def test_what_a_method_logs_beside_its_loss_is_drawn_apart():
    entries = [{**entry, "diagnostics": {"alpha": 0.5 - 0.1 * place}} for place, entry in enumerate(log(3))]
    assert numbers(diagnostic_curve(entries)) == {"alpha": pytest.approx([0.5, 0.4, 0.3])}
    assert "alpha" not in numbers(training_curve(entries))
    assert diagnostic_curve(log(3)) == ""


def test_a_collapse_is_marked_at_its_first_epoch():
    assert "collapse, epoch 7" in texts(training_curve(log(20, collapse=7)))
    assert not any("collapse" in text for text in texts(training_curve(log(20))))


def test_a_term_that_is_missing_or_not_a_number_leaves_a_gap():
    entries = [
        {"event": "epoch", "epoch": e, "terms": {"ce": 1.0 / e} | ({"kl": math.nan} if e == 2 else {})} for e in range(1, 5)
    ]
    found = numbers(training_curve(entries))
    assert len(found["cross-entropy"]) == 4
    assert found["KL divergence"] == []


def test_one_epoch_is_drawn_as_points():
    assert numbers(training_curve(log(1)))["KL divergence"] == [pytest.approx(0.17)]


def test_nothing_to_draw_is_no_chart():
    assert training_curve([]) == ""
    assert eps_curve([RunView(record())]) == ""


def test_names_are_escaped():
    svg = chart(
        [Series('<i> & "q"', ((0.0, 1.0),))],
        x_ticks=[Tick(0.0, "<0>")],
        y_ticks=[Tick(0.0, "0"), Tick(1.0, "1")],
        x_range=(0.0, 0.0),
        x_label="a < b",
        y_label="c & d",
        title='"t"',
    )
    assert '<i> & "q"' in numbers(svg)
    assert {"<0>", "a < b", "c & d"} <= set(texts(svg))


@pytest.mark.parametrize(("low", "high"), [(0, 4.2), (0, 0), (-0.3, 0.1), (0, 1e-6), (0, 12345)])
def test_ticks_enclose_the_range(low, high):
    ticks = nice_ticks(low, high)
    assert ticks[0] <= low
    assert ticks[-1] >= high
    assert 2 <= len(ticks) <= 8


def test_no_two_lines_look_alike_in_grey():
    lines = [Series(f"line {place}", ((0, 0.5), (1, 0.6)), muted=place % 2 == 0) for place in range(24)]
    svg = chart(
        lines, x_ticks=[Tick(0, "0")], y_ticks=[Tick(0, "0"), Tick(1, "1")], x_range=(0, 1), x_label="x", y_label="y", title="t"
    )
    legend = svg.partition('<g class="series"')[0]
    looks = set()
    for name in (line.name for line in lines):
        sample, marker = legend.partition(f"<title>{name}</title>")[0].splitlines()[-2:]
        dashes = re.search(r'stroke-dasharray="([^"]*)"', sample)
        start = float(re.search(r'x1="([^"]*)"', sample).group(1)) + 14
        corners = re.findall(r"([\d.]+),([\d.]+)", marker)
        row = float(re.search(r'y1="([^"]*)"', sample).group(1))
        shape = tuple((round(float(x) - start, 1), round(float(y) - row, 1)) for x, y in corners)
        looks.add((dashes.group(1) if dashes else "", shape))
    assert len(looks) == len(lines)
