"""What a grid costs: passes of an image through the tower, by the method, the attack and what a test-time method needs."""

import pytest

from ironclip import testtime
from ironclip.grid.cost import Size, passes
from ironclip.grid.file import Measure
from ironclip.grid.plan import Cell
from ironclip.protocols.resolve import resolve

SIZES = {"shapes": Size(train=480, classes=30, test=200)}


def cost(method: str, *measures: dict, **changes) -> float:
    config = resolve(method, "shapes", given={"shots": 1}, changes=[f"{key}={value}" for key, value in changes.items()])
    return passes(Cell(config, tuple(Measure.model_validate(measure) for measure in measures)), SIZES)


def measured(**measure) -> float:
    """Of a measure alone."""
    return cost("zero_shot", {"attacks": "pgd", "set": {"steps": 10}, "limit": 100, **measure})


def test_nothing_is_learned_by_what_learns_nothing():
    assert cost("zero_shot") == cost("hep") == cost("rtpt") == 0
    assert cost("apt", **{"epochs": 2, "attack.steps": 3}) == 30 * 2 * (2 * 3 + 4)


def test_a_defence_that_goes_through_its_images_several_times_costs_so_many_times_more():
    once = cost("advmask", **{"epochs": 2, "batch_size": 10, "min_steps": 0})
    assert cost("advmask", **{"epochs": 2, "batch_size": 10, "min_steps": 18}) == 3 * once
    stacked = cost("apt+advmask", **{"epochs": 2, "batch_size": 10, "advmask.min_steps": 18})
    assert stacked == 3 * cost("apt+advmask", **{"epochs": 2, "batch_size": 10, "advmask.min_steps": 0})


@pytest.mark.parametrize("name", ["atpt", "rtpt", "ttc"])
def test_an_answer_of_a_test_time_method_costs_its_passes(name):
    method = testtime.build(name)
    assert method.passes > 1
    assert measured() == 100 * (2 + 20)
    assert measured(test_time=name, knowledge="static") == 100 * (2 * method.passes + 20)
    assert measured(test_time=name, knowledge="adaptive") == 100 * (
        2 * method.passes + 20 * (1 + method.passes * (1 + method.draws))
    )
    of_run = cost(f"zero_shot+{name}", {"attacks": "pgd", "set": {"steps": 10}, "limit": 100, "knowledge": "static"})
    assert of_run == measured(test_time=name, knowledge="static")


def test_options_of_the_test_time_method_count():
    few = measured(test_time="rtpt", knowledge="static", set={"steps": 10, "rtpt.views": 4})
    assert few == 100 * (2 * testtime.build("rtpt", {"views": 4}).passes + 20)


@pytest.mark.parametrize("method", ["nap", "advmask"])
def test_a_set_that_is_neither_here_nor_published_can_be_planned(method):
    config = resolve(method, "photos", given={})
    assert passes(Cell(config, ()), {"photos": Size(0, 0, 0, here=False)}) == 0
