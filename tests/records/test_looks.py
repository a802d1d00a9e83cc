"""When an evaluation may stop, and that its interval then still holds."""

import math

import numpy as np
import pytest

from ironclip.core.errors import UsageError
from ironclip.records.looks import FIRST, confidence, narrow, sizes
from ironclip.records.record import BackboneFacts, DataFacts, Looks, Proportion, Sample, Setup
from ironclip.records.statistics import wilson
from ironclip.records.summary import summarise


def test_looks_double_until_the_widest_interval_is_narrow_or_all_images_are_in():
    assert sizes(50_000, 3) == [100, 200, 400, 800, 1600, 3200]
    assert sizes(1500, 3) == [100, 200, 400, 800, 1500]
    assert sizes(1500, 0) == [100, 200, 400, 800, 1500]
    assert sizes(60, 3) == [60]
    for images, points in ((50_000, 3), (50_000, 5), (50_000, 1.5)):
        found = sizes(images, points)
        assert narrow(found[-1] // 2, found[-1], len(found), points)
        assert not narrow(found[-2] // 2, found[-2], len(found), points)
    for wrong in (-1, 50, 99, math.nan):
        with pytest.raises(UsageError, match="--until is half the width"):
            sizes(100, wrong)


@pytest.mark.parametrize("truth", [0.02, 0.3, 0.5, 0.9])
def test_the_interval_at_the_look_where_it_stops_holds_the_truth_in_95_percent(truth):
    draw, planned, missed, runs = np.random.default_rng(0), sizes(50_000, 3), 0, 2000
    steps = np.diff([0, *planned])
    counts = np.cumsum(draw.binomial(steps, truth, size=(runs, len(planned))), axis=1)
    for row in counts:
        look = next(k for k, n in enumerate(planned) if narrow(int(row[k]), n, len(planned), 3) or n == planned[-1])
        low, high = wilson(int(row[look]), planned[look], confidence(len(planned)))
        missed += not low <= truth <= high
    assert missed / runs <= 0.05


def test_a_record_says_the_rule_and_its_intervals_are_wider():
    samples = [Sample(index=k, label=0, clean=0, clean_margin=-1, margin=-1) for k in range(200)]
    setup = Setup(method="m", backbone=BackboneFacts(name="b"), data=DataFacts(name="d"))
    plain = summarise(setup, samples, {})
    looked = summarise(setup.model_copy(update={"looks": Looks(points=3, sizes=(100, 200, 400))}), samples, {})
    assert plain.robust == Proportion.measured(200, 200)
    assert looked.robust == Proportion.measured(200, 200, 3)
    assert looked.robust.low < plain.robust.low
    (flag,) = (flag for flag in looked.flags if flag.id == "looks")
    assert flag.text.startswith(
        "look 2 of at most 3, stopped as soon as the interval of robust accuracy is narrower than ±3 points"
    )
    assert FIRST == 100
