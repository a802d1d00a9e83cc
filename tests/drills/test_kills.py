"""A bounded part of the drills (`python -m drills`): pre-training killed at some of its writes, and all the other bad days."""

from pathlib import Path

import pytest

from drills import sharded
from drills.jobs import outcome
from drills.kills import Drill


@pytest.fixture(scope="module")
def drill(tmp_path_factory: pytest.TempPathFactory) -> Drill:
    return Drill("pretrain", tmp_path_factory.mktemp("drill"))


@pytest.mark.parametrize(("fault", "every"), [("torn", 9), ("full", 15), ("read-only", 15), ("clock back", 15), ("hangup", 15)])
def test_a_job_that_is_disturbed_ends_as_one_that_is_not_and_leaves_nothing(drill: Drill, fault: str, every: int) -> None:
    met, wrong = drill.at_each_write(fault, every=every)
    assert met >= 2
    assert wrong == []


def test_a_difference_would_be_seen(drill: Drill) -> None:
    log = drill.root / "calm" / "mini" / "log.jsonl"
    assert outcome(drill.root / "calm") == drill.calm
    log.write_text(log.read_text().replace('"step": 1', '"step": 7'))
    assert outcome(drill.root / "calm") != drill.calm


@pytest.mark.slow
@pytest.mark.parametrize("locks", ["", "soft"])
def test_shards_of_two_commands_that_are_killed_at_random_make_the_record_of_the_whole(tmp_path: Path, locks: str) -> None:
    met, wrong = sharded.drill(tmp_path, kills=3, locks=locks)
    assert met >= 1
    assert wrong == []
