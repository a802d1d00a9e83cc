"""A bounded part of the drills (`python -m drills`): pre-training killed at some of its writes, and on a disk that fills."""

import pytest

from drills.jobs import outcome
from drills.kills import Drill


@pytest.fixture(scope="module")
def drill(tmp_path_factory: pytest.TempPathFactory) -> Drill:
    return Drill("pretrain", tmp_path_factory.mktemp("drill"))


@pytest.mark.parametrize(("fault", "every"), [("torn", 9), ("full", 15)])
def test_a_job_that_is_disturbed_ends_as_one_that_is_not_and_leaves_nothing(drill: Drill, fault: str, every: int) -> None:
    met, wrong = drill.at_each_write(fault, every=every)
    assert met >= 2
    assert wrong == []


def test_a_difference_would_be_seen(drill: Drill) -> None:
    log = drill.root / "calm" / "mini" / "log.jsonl"
    assert outcome(drill.root / "calm") == drill.calm
    log.write_text(log.read_text().replace('"step": 1', '"step": 7'))
    assert outcome(drill.root / "calm") != drill.calm
