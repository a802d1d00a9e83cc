"""What large evaluations cost on 1, 8 and 64 GPUs, and what failures add: a queue of shards, taken by workers that die at random.

    python -m benchmarks.scale_simulation

Measured: the passes that AutoAttack makes for an image that withstands it (docs/attacks.md: 146,086 passes for 15 of 40 images
that did, 107,182 for 11, 87,956 for 9, which is 9,740 to 9,773 for each). Assumed, and to be replaced by your own: passes a
second of one GPU, the share of images that withstand, how often a machine fails. The workers do as ours do: each takes the next
shard that nobody has. One that dies loses the batch it was at and is back after a while; its shard goes on in whoever comes next.
"""

import heapq
import random
from collections import deque
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from ironclip.data.catalogue import entry
from ironclip.protocols.suites import SUITES

WITHSTANDS = 9_750.0
"""Passes of AutoAttack for an image that withstands all of it; measured."""
BREAKS = 50.0
"""For one that does not, rounded up: the three sums above leave no more than their noise for them."""
METHODS = 20
GPUS = (1, 8, 64)


@dataclass(frozen=True)
class Assumptions:
    """What was not measured.

    Args:
        rate: passes per second of one GPU; 1,000 is a ViT-B/32 at 224 pixels in float32 on a GPU that keeps up 9 TFLOP/s.
        robust: share of the images that withstand.
        above: images of a shard at most (`shard_above`). batch: images at once, of which a failure loses the unfinished ones.
        between: hours between two failures of one worker, on average; a preempted queue has fewer.
        away: seconds until a worker that failed is back. load: seconds to load a model and its data for a shard.
    """

    rate: float = 1_000.0
    robust: float = 0.35
    above: int = 2_000
    batch: int = 100
    between: float = 24.0
    away: float = 600.0
    load: float = 60.0


@dataclass(frozen=True)
class Outcome:
    """Hours from the first to the last shard; hours of work, without what was done twice; those done twice or spent loading.

    Args:
        failures: how often a worker died. images: that were finished.
    """

    hours: float
    work: float
    lost: float
    failures: int
    images: int


def shards(sizes: Iterable[int], above: int) -> list[int]:
    """Images of each shard, where evaluations of these sizes are divided into equal ones of at most `above`."""
    found = []
    for images in sizes:
        parts = -(-images // above)
        found += [images // parts + (number < images % parts) for number in range(parts)]
    return found


def simulate(queue: Sequence[int], workers: int, given: Assumptions, seed: int = 0) -> Outcome:
    """The queue of shards (images of each) done by so many workers."""
    draw = random.Random(seed)
    waiting = deque([_batches(images, given, draw) for images in queue])
    sizes = sum(queue)
    free = [(0.0, number) for number in range(workers)]
    dies = [_life(given, draw) for _ in range(workers)]
    end = work = lost = 0.0
    failures = 0
    while waiting:
        now, worker = heapq.heappop(free)
        left = waiting.popleft()
        clock = now + given.load
        while left and clock + left[0] <= dies[worker]:
            clock += left[0]
            work += left.popleft()
        lost += given.load
        if left:  # it died: the shard goes on in whoever comes next
            lost += max(0.0, dies[worker] - clock)
            failures += 1
            waiting.append(left)
            clock = max(now, dies[worker]) + given.away
            dies[worker] = clock + _life(given, draw)
        else:
            end = max(end, clock)
        heapq.heappush(free, (clock, worker))
    return Outcome(end / 3600, work / 3600, lost / 3600, failures, sizes)


def _batches(images: int, given: Assumptions, draw: random.Random) -> deque[float]:
    """Seconds of each batch of a shard."""
    sizes = [given.batch] * (images // given.batch) + [images % given.batch] * (images % given.batch > 0)
    robust = [sum(draw.random() < given.robust for _ in range(size)) for size in sizes]
    return deque((many * WITHSTANDS + (size - many) * BREAKS) / given.rate for size, many in zip(sizes, robust, strict=True))


def _life(given: Assumptions, draw: random.Random) -> float:
    return draw.expovariate(1 / (given.between * 3600)) if given.between else float("inf")


def cases(given: Assumptions) -> dict[str, list[int]]:
    """What is asked -> images of each of its shards, by the published sizes of the test sets."""
    tests = [_tested(name) for name in SUITES["coop"]]
    return {
        f"{len(tests)} data sets x {METHODS} methods x AutoAttack": shards(tests * METHODS, given.above),
        "ImageNet x AutoAttack": shards([_tested("imagenet")], given.above),
        f"the same, in shards of {given.batch * 4}": shards([_tested("imagenet")], given.batch * 4),
    }


def _tested(name: str) -> int:
    """Images of a test set, as published."""
    counts = entry(name).counts
    assert counts is not None
    return counts[2]


def table(given: Assumptions) -> list[str]:
    """Lines of the table in docs/scale.md."""
    lines = ["| what | images | shards | GPUs | hours | GPU hours of work | lost to failures and loading | failures |"]
    lines.append("|:--|--:|--:|--:|--:|--:|--:|--:|")
    for name, queue in cases(given).items():
        for gpus in GPUS:
            found = simulate(queue, gpus, given)
            share = found.lost / (found.work + found.lost)
            cells = [name, f"{found.images:,}", f"{len(queue):,}", str(gpus), f"{found.hours:,.1f}", f"{found.work:,.0f}"]
            lines.append(f"| {' | '.join(cells)} | {share:.1%} | {found.failures} |")
    return lines


if __name__ == "__main__":
    print(Assumptions(), *table(Assumptions()), sep="\n")
