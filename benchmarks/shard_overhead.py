"""What dividing costs: processor time of an evaluation in eight shards over that in one piece; and what two workers save.

    python -m benchmarks.shard_overhead [--speedup] [--images N] [--rounds R]

Both paths run in this process, on one loaded model, in turns. Equality of the records is asserted. Scoring the images (attacks
and answers) is the same work in both and takes nearly all the time, so that its noise hides the rest. It is counted apart; the
cost of dividing is the difference of all the rest, over the whole. `--speedup` measures wall time of one process against two
(`--workers 2`), which says something on an idle machine alone.
"""

import argparse
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from unittest import mock

from ironclip.loops import evaluation
from ironclip.protocols.experiment import open_experiment
from ironclip.protocols.few_shot import open_run, train
from ironclip.protocols.measure import evaluate_run
from ironclip.protocols.resolve import named_attacks, resolve
from ironclip.protocols.shards import evaluate_shards
from ironclip.records.share import Share

OF, ROUNDS, IMAGES, BATCH = 8, 3, 64, 8
EPS = 1 / 255


@dataclass(frozen=True)
class Spent:
    """Processor seconds of an evaluation, and those among them in which images were scored."""

    all: float
    scoring: float

    @property
    def rest(self) -> float:
        return self.all - self.scoring


def seconds(work: Callable[[], Any]) -> tuple[Spent, Any]:
    scoring, scored = 0.0, evaluation._scored

    def clocked(*given: Any) -> Any:
        nonlocal scoring
        began = time.process_time()
        found = scored(*given)
        scoring += time.process_time() - began
        return found

    began = time.process_time()
    with mock.patch.object(evaluation, "_scored", clocked):
        found = work()
    return Spent(time.process_time() - began, scoring), found


def measure(
    folder: Path, images: int = IMAGES, batch: int = BATCH, steps: int = 8, rounds: int = ROUNDS
) -> list[tuple[Spent, Spent]]:
    """(whole, in shards) of each round; AssertionError where a record is another one."""
    config = resolve("zero_shot", "shapes", given={"backbone": "mini"})
    experiment = open_experiment(config, device="cpu")
    attacks = named_attacks(["pgd"], EPS, 0, [f"steps={steps}"])
    options: dict[str, Any] = {"eps": EPS, "limit": images, "batch_size": batch, "keep_examples": 0}

    def run(name: str, shards: bool) -> tuple[Spent, Any]:
        made = train(config, out=folder / name, experiment=experiment)
        run, opened = open_run(made.path, experiment=experiment)
        if shards:
            spent, (record, left) = seconds(lambda: evaluate_shards(run, opened, attacks, Share(None, OF), **options))
            assert not left
            return spent, record
        spent, (record, _) = seconds(lambda: evaluate_run(run, opened, attacks, **options))
        return spent, record

    found = []
    run("warm", False)
    for number in range(rounds):
        whole, first = run(f"whole{number}", False)
        parts, second = run(f"parts{number}", True)
        assert first.outcome() == second.outcome(), "the merged record is not that of the whole"
        found.append((whole, parts))
    return found


def speedup(folder: Path, images: int = 200) -> tuple[float, float]:
    """(wall seconds of one process, of two workers), with loading."""
    import os
    import subprocess

    line = [
        "evaluate",
        "mini",
        "--data",
        "shapes",
        "--eps",
        "1/255",
        "--attack",
        "pgd",
        "--set",
        "steps=40",
        "--limit",
        str(images),
    ]
    line += ["--batch-size", "10", "--device", "cpu"]
    spent = []
    for name, workers in (("one", "1"), ("two", "2")):
        place = folder / name
        place.mkdir()
        began = time.perf_counter()
        command = [sys.executable, "-m", "ironclip", *line, "--workers", workers]
        environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(Path(__file__).resolve().parents[1])}
        subprocess.run(command, cwd=place, env=environment, check=True, stdout=subprocess.DEVNULL)
        spent.append(time.perf_counter() - began)
    return spent[0], spent[1]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--speedup", action="store_true")
    parser.add_argument("--images", type=int)
    parser.add_argument("--rounds", type=int, default=ROUNDS)
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        if asked.speedup:
            images = asked.images or 200
            one, two = speedup(Path(name), images)
            print(f"{images} images: one process {one:.1f} s, two workers {two:.1f} s: {one / two:.2f} times as fast")
            return
        images = asked.images or IMAGES
        found = measure(Path(name), images, rounds=asked.rounds)
    whole, parts = zip(*found, strict=True)
    lost = [second.rest - first.rest for first, second in found]
    share = statistics.median(lost) / statistics.median(spent.all for spent in whole)
    print(f"{images} images, {OF} shards, {asked.rounds} rounds; processor seconds, medians:")
    for name, spent in (("whole", whole), ("in shards", parts)):
        all_of_it, rest = statistics.median(each.all for each in spent), statistics.median(each.rest for each in spent)
        print(f"  {name}: {all_of_it:.2f}, of it not scoring {rest:.3f}")
    print(f"dividing costs {statistics.median(lost):.3f} s ({min(lost):.3f} to {max(lost):.3f}): {share:+.1%} of the whole")


if __name__ == "__main__":
    main()
