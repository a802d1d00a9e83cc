"""Evaluations that were interrupted, killed or cut into parts end with the same record."""

import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import pytest
import torch
from halfspaces import EPS, WHITE, HalfSpace, batches, setup
from torch import Tensor, nn

from ironclip.attacks import FGSM, PGD
from ironclip.core.errors import DataError, RunError
from ironclip.core.types import Batch
from ironclip.loops.evaluation import Example, evaluate, evaluate_into, settings
from ironclip.records.folder import RunFolder
from ironclip.records.record import Record, Sample


def test_what_is_done_is_not_scored_again():
    attacks = {"pgd": PGD(EPS, steps=2, step_size=EPS / 3, keep="last")}
    whole = evaluate(HalfSpace(), attacks, batches(), WHITE)
    for count in (0, 1, 5, 8):
        fresh: list[Sample] = []
        again = evaluate(HalfSpace(), attacks, batches(), WHITE, done=whole.samples[:count], on_batch=partial(keep, fresh))
        assert again.samples == whole.samples
        assert [sample.index for sample in fresh] == list(range(count, 8))


def keep(place: list[Sample], samples: Sequence[Sample], examples: Sequence[Example]) -> None:
    place += samples


def test_samples_of_another_split_are_refused():
    done = evaluate(HalfSpace(), {}, batches(), WHITE).samples
    with pytest.raises(DataError, match="image 3 had label 0 before and has 1 now"):
        evaluate(HalfSpace(), {}, batches(wrong=(0, 3)), WHITE, done=done)


CONFIG = {"method": "zero_shot", "dataset": "toy", "backbone": "toy", "shots": 0, "seed": 1}
ATTACKS = {"pgd": PGD(EPS, steps=3, step_size=EPS / 3, keep="last"), "fgsm": FGSM(EPS)}


def record_into(root: Path, pause: float = 0.0) -> Record:
    """One evaluation in a run folder, one image a batch; the classifier takes its time."""

    class Slow(HalfSpace):
        def forward(self, images: Tensor) -> Tensor:
            time.sleep(pause)
            return super().forward(images)

    run = RunFolder.create(CONFIG, root=root)
    with run.lock():
        place = run.evaluation(settings(setup(), ATTACKS))
        record, _ = evaluate_into(place, setup(), Slow(), ATTACKS, batches(2), keep_examples=2)
    return record


def test_a_finished_evaluation_is_read(tmp_path):
    record = record_into(tmp_path)
    run = RunFolder.create(CONFIG, root=tmp_path)
    stamp = (run.path / "record.json").stat().st_mtime_ns
    assert record_into(tmp_path) == record == run.record()
    assert (run.path / "record.json").stat().st_mtime_ns == stamp
    assert record.threat.resolution == 4
    assert record.timing.evaluate_seconds > 0


def test_an_interrupted_evaluation_attacks_only_what_is_missing(tmp_path):
    attacked: list[int] = []

    @dataclass(frozen=True)
    class Counting:
        until: int

        def __call__(self, function, images, labels, *, indices=None, loss=None):
            if len(attacked) >= self.until:
                raise KeyboardInterrupt
            attacked.extend(indices.tolist())
            return images

    run = RunFolder.create(CONFIG, root=tmp_path)
    place = run.evaluation(settings(setup(), ATTACKS))
    with run.lock():
        with pytest.raises(KeyboardInterrupt):
            evaluate_into(place, setup(), HalfSpace(), {"counting": Counting(3)}, batches(2))
        record, _ = evaluate_into(place, setup(), HalfSpace(), {"counting": Counting(100)}, batches(2))
    assert sorted(attacked) == list(range(1, 8))  # image 0 is wrong without an attack
    assert record.images == 8
    assert [sample.index for sample in place.samples()] == list(range(8))


def test_an_interruption_beside_the_samples_loses_no_time(tmp_path, monkeypatch):
    run = RunFolder.create(CONFIG, root=tmp_path)
    place = run.evaluation(settings(setup(), ATTACKS))
    for name in ("log", "append"):
        write = getattr(type(place), name)

        def written_then_told(self, *given, write=write):
            write(self, *given)
            raise KeyboardInterrupt

        with run.lock(), monkeypatch.context() as patched:
            patched.setattr(type(place), name, written_then_told)
            with pytest.raises(KeyboardInterrupt):
                evaluate_into(place, setup(), HalfSpace(), ATTACKS, batches(4))
        spent = [entry["images"] for entry in place.entries() if entry.get("event") == "evaluated"]
        assert sum(spent) >= len(place.samples()), name
    with run.lock():
        record, _ = evaluate_into(place, setup(), HalfSpace(), ATTACKS, batches(4))
    assert record.timing.evaluate_seconds > 0


def test_a_part_of_the_split_is_another_evaluation(tmp_path):
    record_into(tmp_path)
    run = RunFolder.create(CONFIG, root=tmp_path)
    with pytest.raises(RunError, match="holds a record of 8 images, not of 3"):
        evaluate_into(run, setup(), HalfSpace(), ATTACKS, batches(3)[:1], total=3)
    part = run.evaluation(settings(setup(), ATTACKS, images=3), "part")
    record, _ = evaluate_into(part, setup(), HalfSpace(), ATTACKS, batches(3)[:1], total=3)
    assert record.images == 3
    assert len(run.evaluations()) == 2


def kill_again_and_again(root: Path, kills: int) -> None:
    """The evaluation in children that are killed at random moments, until one comes through."""
    for attempt in range(kills + 1):
        child = os.fork()
        if child == 0:
            torch.set_num_threads(1)
            record_into(root, pause=0.01)
            os._exit(0)
        if attempt < kills:
            time.sleep(random.uniform(0, 0.1))
            os.kill(child, signal.SIGKILL)
        print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))


def test_a_run_killed_again_and_again_ends_with_the_identical_record(tmp_path):
    expected = record_into(tmp_path / "calm")
    # A process of its own: it forks before torch has started any thread.
    script = f"""
import sys
from pathlib import Path
sys.path.insert(0, {str(Path(__file__).parents[1])!r})
from loops import test_evaluation_resumed
test_evaluation_resumed.kill_again_and_again(Path({str(tmp_path / "killed")!r}), kills=8)
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    statuses = [int(line) for line in done.stdout.split()]
    assert statuses.count(-signal.SIGKILL) >= 3, done
    assert statuses[-1] == 0, done
    run = RunFolder.create(CONFIG, root=tmp_path / "killed")
    record = run.record()
    assert record is not None
    assert record.outcome() == expected.outcome()
    assert sorted(sample.index for sample in run.samples()) == list(range(8))
    assert not list(run.path.rglob("*.tmp"))


@pytest.mark.parametrize("exact", [False, True])
def test_an_evaluation_that_runs_out_of_memory_goes_on_in_parts_with_the_same_outcomes(exact):
    images, labels = torch.rand(12, 3, 4, 4, generator=torch.Generator().manual_seed(0)), torch.arange(12) % 2
    batch = Batch(images, labels, torch.arange(12), ("a", "b"))
    plain = nn.Sequential(nn.Flatten(), nn.Linear(48, 2)).requires_grad_(False)

    def small(images: Tensor) -> Tensor:
        if len(images) > 5:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return plain(images)

    def scored(classifier, **options):
        named = {"pgd": PGD(eps=EPS, steps=2)}
        return evaluate(classifier, named, [batch], WHITE, **options).samples

    if exact:
        with pytest.raises(RunError, match="12 images at once do not fit"):
            scored(small, exact=True)
        return
    found, expected = scored(small), scored(plain)
    assert [(s.index, s.clean, s.adversarial, s.broken_by) for s in found] == [
        (s.index, s.clean, s.adversarial, s.broken_by) for s in expected
    ]
