"""The equality that the benchmarks of test-time methods assert before they time, in miniature."""

from xml.etree import ElementTree

import torch

from benchmarks import atpt_image, rtpt_image, testtime_cost


def test_a_batch_under_rtpt_equals_the_plain_work_on_each_image() -> None:
    row = rtpt_image.measure("tiny", 5, 3, 0, views=12, dtype=torch.float64, tolerance=1e-9)
    assert row.deviations.keys() == {"gradient 0", "answer 0", "gradient 1", "answer 1"}
    rtpt_image.measure("tiny", 5, 2, 0, views=12)


def test_maps_views_and_answer_of_atpt_equal_the_plain_work() -> None:
    row = atpt_image.measure("tiny", 5, 1, 0, tolerance=1e-9)
    assert row.deviations.keys() == {"maps", "views", "answer"}


def test_the_cost_by_views_is_measured_and_drawn() -> None:
    points = testtime_cost.measure(1, {"views": (2, 4)}, "tiny")
    assert [(point.method, point.views) for point in points] == [
        (name, views) for views in (2, 4) for name in testtime_cost.METHODS
    ]
    assert all(point.seconds > 0 and (point.classes, point.batch) == (10, 4) for point in points)
    assert testtime_cost.as_csv(points).splitlines()[0] == "method,varied,views,classes,batch,seconds"
    drawn = ElementTree.fromstring(testtime_cost.figure(points))
    assert drawn.tag.endswith("svg")
    said = "".join(drawn.itertext())
    assert all(word in said for word in (*testtime_cost.METHODS, "views V (C = 10, B = 4)"))
