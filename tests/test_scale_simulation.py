"""The queue behind the costs of docs/scale.md: nothing is lost but batches, and the page holds what the script prints."""

from dataclasses import replace
from pathlib import Path

import pytest

from benchmarks import scale_simulation as simulation
from benchmarks import shard_overhead
from benchmarks.scale_simulation import WITHSTANDS, Assumptions, shards, simulate

CALM = Assumptions(between=0.0, robust=1.0, load=0.0)
PAGE = Path(__file__).resolve().parents[1] / "docs" / "scale.md"


def test_evaluations_are_divided_into_equal_shards():
    assert shards([50_000, 1_692, 2_001], 2_000) == [2_000] * 25 + [1_692, 1_001, 1_000]


def test_without_failures_the_time_is_that_of_the_fullest_worker():
    hour = 1_000 * WITHSTANDS / CALM.rate / 3600
    one = simulate([1_000] * 8, 1, CALM)
    assert one.hours == pytest.approx(8 * hour)
    assert (one.lost, one.failures, one.work) == (0, 0, pytest.approx(8 * hour))
    assert simulate([1_000] * 8, 3, CALM).hours == pytest.approx(3 * hour)
    assert simulate([1_000] * 8, 64, CALM).hours == pytest.approx(hour)
    loaded = simulate([1_000] * 8, 1, replace(CALM, load=60))
    assert loaded.hours == pytest.approx(8 * hour + 8 / 60)


@pytest.mark.parametrize("workers", [1, 8])
def test_a_failure_loses_a_batch_at_most_and_everything_is_done(workers):
    given = Assumptions(between=2.0, load=30, away=100)
    queue = shards([20_000], given.above)
    calm, wild = (simulate(queue, workers, each) for each in (replace(given, between=0.0), given))
    assert wild.failures > 5
    assert wild.work == pytest.approx(calm.work), "the same batches, each once"
    batch = given.batch * WITHSTANDS / given.rate / 3600
    assert wild.lost <= (len(queue) + wild.failures) * given.load / 3600 + wild.failures * batch
    assert wild.lost > calm.lost
    assert workers > 1 or wild.hours > calm.hours
    assert simulate(queue, workers, given) == wild, "seeded"


def test_the_page_holds_what_the_script_prints():
    page = PAGE.read_text(encoding="utf-8")
    for line in simulation.table(Assumptions()):
        assert line in page, line


def test_the_benchmark_of_shards_compares_equal_records(tmp_path):
    ((whole, parts),) = shard_overhead.measure(tmp_path, images=8, batch=1, steps=1, rounds=1)
    assert whole.all > whole.scoring > 0
    assert parts.all > parts.scoring > 0
