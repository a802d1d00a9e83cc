"""What the switches for speed gain: compiled blocks, start noise drawn by counting, training images made ahead.

Compiled blocks: an attack step (features, gradient to the pixels) through a tower as it is against one whose blocks are compiled;
what compiling costs once is noted apart. Start noise: each image's uniform noise from torch's own generator ("lean") and from
Philox on integer tensors, as a GPU draws it ("plain"), against Philox as the CPU draws it; the two of Philox are equal in every
bit. Images ahead: an epoch for a device that is busy with each batch for a while; the next one is made when it is done ("plain")
or meanwhile ("ours"). Wall time, because it is waiting that is saved.

python -m benchmarks.switches
"""

import sys
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import partial

import numpy as np
import torch
from torch import Tensor

from benchmarks import harness
from benchmarks.channels_last import attack_step, backbone, compare
from ironclip.backbones import ClipBackbone, load
from ironclip.backbones.compiled import compiling
from ironclip.core import philox
from ironclip.core.tensors import key, keyed_uniform
from ironclip.data import batches, few_shot, open_dataset

Stack = list[np.ndarray]


def compiled_blocks(
    made: ClipBackbone, size: int, rounds: int, tolerance: float = 1e-4, backend: str = "inductor"
) -> harness.Row:
    side = made.spec.resolution
    images = torch.rand(size, 3, side, side, generator=torch.Generator().manual_seed(1))
    row = harness.Row("compiled blocks", f"{made.spec.name}, {side} px, B={size}")
    plain = attack_step(made, images)

    begin = time.process_time()
    with compiling(made, backend):
        found = attack_step(made, images)
        row.notes["seconds of compiling"] = time.process_time() - begin
        row.deviations = compare(found, plain, tolerance)
        compiled = harness.seconds({"ours": partial(attack_step, made, images)}, rounds)
    row.seconds = harness.seconds({"plain": partial(attack_step, made, images)}, rounds) | compiled
    return row


def start_noise(size: int, side: int, rounds: int) -> harness.Row:
    shape, indices = (3, side, side), range(size)
    row = harness.Row("start noise", f"{side} px, B={size}")

    def one_by_one() -> Tensor:
        rows = [torch.rand(shape, generator=torch.Generator().manual_seed(key(0, index, 0))) for index in indices]
        return torch.stack(rows).mul_(2).sub_(1)

    def on_tensors() -> Tensor:
        keys = [key(0, index, 0) for index in indices]
        return philox.uniform_on_tensors(keys, 3 * side * side, "cpu").view(size, *shape)

    ours = partial(keyed_uniform, shape, 0, indices)
    row.deviations = {"bits": harness.check("noise", ours(), on_tensors(), 0.0)}
    row.seconds = harness.seconds({"plain": on_tensors, "lean": one_by_one, "ours": ours}, rounds)
    return row


def in_turn(view: Callable[[int], np.ndarray], groups: Sequence[Sequence[int]]) -> Iterator[Stack]:
    """As `data.batches` makes images, without threads: when they are asked for."""
    for group in groups:
        yield [view(row) for row in group]


def images_ahead(data: str, resolution: int, size: int, busy: float, rounds: int) -> harness.Row:
    train = batches.TrainSet(few_shot(open_dataset(data), 16, 1), resolution=resolution)
    row = harness.Row("images ahead", f"{data}, {resolution} px, B={size}, device busy {1000 * busy:.0f} ms a batch")
    ahead = batches._prepared

    def epoch(prepared: Callable[..., Iterator[Stack]]) -> list[Tensor]:
        batches._prepared = prepared
        try:
            seen = []
            for batch in train.batches(1, 1, size):
                time.sleep(busy)
                seen.append(batch.images)
            return seen
        finally:
            batches._prepared = ahead

    paths = {"plain": partial(epoch, in_turn), "ours": partial(epoch, ahead)}
    found = {name: torch.cat(path()) for name, path in paths.items()}
    row.deviations = {"images": harness.check("images", found["ours"], found["plain"], 0.0)}
    row.seconds = harness.seconds(paths, rounds, time.perf_counter)
    return row


def rows(quick: bool, rounds: int) -> Iterable[harness.Row]:
    yield start_noise(32 if quick else 100, 224, rounds)
    yield images_ahead("shapes", 224, 32, 0.1, rounds)
    yield compiled_blocks(load("mini"), 8 if quick else 32, rounds)
    if not quick:
        yield compiled_blocks(backbone("ViT-B-32"), 8, rounds)


if __name__ == "__main__":
    sys.exit(harness.main(rows, __doc__ or ""))
