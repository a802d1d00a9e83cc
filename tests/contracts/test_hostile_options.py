"""Options as a stranger's file may give them, to every method: built, or refused in one line, in bounded time and memory."""

import random

import pytest
import torch

from ironclip import defenses, testtime
from ironclip.backbones.tiny import tiny_backbone
from ironclip.core.budget import Budget
from ironclip.core.errors import IronclipError, UsageError
from ironclip.core.options import check_sizes

LARGE = (10**9, 10**5)
ODD = (None, True, -1, 0, 2.5, "x", "", [], {}, [1, "a"], ["a"] * 20_000, {"a": [1]}, [10**9])


@pytest.fixture(scope="module")
def backbone():
    return tiny_backbone(layers=1)


def tried(build, option: str, value: object) -> None:
    said = ""
    try:
        build({option: value})
    except IronclipError as error:
        said = str(error)
    assert "\n" not in said
    assert len(said) < 1000


@pytest.mark.parametrize("name", defenses.NAMES)
def test_a_defence_refuses_options_of_any_size_or_kind_in_one_line(name, backbone):
    draw = random.Random(name)
    for option, usual in defenses.options(name).items():
        for value in (*(LARGE if isinstance(usual, int | None) else ()), *draw.sample(ODD, 3)):
            tried(lambda given: defenses.build(name, backbone, ("a", "b"), given=given), option, value)


@pytest.mark.parametrize("name", testtime.NAMES)
def test_a_test_time_method_refuses_options_of_any_size_or_kind_in_one_line(name):
    for option, usual in testtime.options(name).items():
        if option not in testtime.CODE:
            for value in (*(LARGE if isinstance(usual, int | None) else ()), *ODD):
                tried(lambda given: testtime.build(name, given), option, value)


@pytest.mark.parametrize(
    ("name", "given"),
    [
        ("nap", {"refiner_layers": 10**9}),
        ("nap", {"refiner_layers": 10**5}),
        ("defeat", {"codes": 10**9}),
        ("apt", {"length": 10**9}),
    ],
)
def test_layers_by_the_billion_are_refused_before_one_is_built(name, given, backbone, monkeypatch):
    monkeypatch.setattr(torch.nn.Parameter, "__new__", lambda *_, **__: pytest.fail("something was built"))
    with pytest.raises(UsageError, match="at most"):
        defenses.build(name, backbone, ("a", "b"), given=given)


def test_what_is_large_in_product_alone_is_refused_before_it_is_made():
    with pytest.raises(UsageError, match="more than 1,000 new numbers"), Budget(1000):
        [torch.zeros(10, 10), torch.randn(size=(20, 50))]
    with pytest.raises(UsageError, match="more than the tensors of any model"), Budget(1000, tensors=9):
        [torch.zeros(1) for _ in range(10)]
    with pytest.raises(UsageError, match="nothing of this size"), Budget(1000):
        torch.ones(2, 2).repeat(300, 1)
    with Budget(1000):
        assert torch.arange(900).sum() == 404_550
        assert torch.ones(3).expand(10**9, 3).shape == (10**9, 3)  # takes no memory


def test_seeds_may_be_any_and_a_large_default_allows_more():
    check_sizes({"seed": 2**62, "tapt.seed": 2**62, "codes": 40_000}, {"codes": 512})
    with pytest.raises(UsageError, match="codes is 60,000; at most 51,200"):
        check_sizes({"codes": 60_000}, {"codes": 512})
