"""The equality that the benchmarks of test-time methods assert before they time, in miniature."""

import torch

from benchmarks import atpt_image, rtpt_image


def test_a_batch_under_rtpt_equals_the_plain_work_on_each_image() -> None:
    row = rtpt_image.measure("tiny", 5, 3, 0, views=12, dtype=torch.float64, tolerance=1e-9)
    assert row.deviations.keys() == {"gradient 0", "answer 0", "gradient 1", "answer 1"}
    rtpt_image.measure("tiny", 5, 2, 0, views=12)


def test_maps_views_and_answer_of_atpt_equal_the_plain_work() -> None:
    row = atpt_image.measure("tiny", 5, 1, 0, tolerance=1e-9)
    assert row.deviations.keys() == {"maps", "views", "answer"}
