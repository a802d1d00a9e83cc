"""One image under A-TPT as released (variant "code"), 63 given crops and mixtures, against the released order of work.

Equality is asserted in float64, because in float32 the released maps are decided by rounding (see docs/methods/atpt.md); the
times are of float32. Ours runs a batch of images and is timed per image.
"""

import sys
from collections.abc import Iterable, Sequence

import torch
from torch import Tensor

from benchmarks import harness, plain
from benchmarks.plain_views import PlainTuner
from ironclip.backbones import assemble
from ironclip.testtime._base import features_of
from ironclip.testtime._prompts import Prompted
from ironclip.testtime._random_views import random_views
from ironclip.testtime.atpt import ATPT

TARGETS = {("small", 10): 6.0, ("small", 100): 40.0}


def rows(quick: bool, rounds: int) -> Iterable[harness.Row]:
    for count in (10,) if quick else (10, 100):
        yield measure("small", count, 2, rounds)


def measure(name: str, count: int, size: int, rounds: int, *, views: int = 64, tolerance: float = 1e-5) -> harness.Row:
    """Equality of maps and answers of one image with few views in float64, then the times for one image in float32."""
    row = harness.Row("A-TPT image", f"{name}, C={count}, V={views}", target=TARGETS.get((name, count)))
    method, base, tuner, images = _made(name, count, 1, 8, torch.float64)
    found = random_views(images, [0], 7)
    maps = method.maps(base, found.base)[0]
    expected = torch.stack([tuner.relevance(crop[None]) for crop in found.base[0]])
    row.deviations["maps"] = harness.check("maps", maps, expected, tolerance)
    mixed = method.mixed(expected[None], found)
    guided = tuner.guided(found.base[0], found.mix[0], found.keep[0])
    row.deviations["views"] = harness.check_pixels(mixed[0], guided, 2e-3)  # ties at a quantile
    pictures = torch.cat([images[:, None], mixed], dim=1)
    answer = method.parts().vote.answer(method.tune(base, features_of(base, pictures)))[0]
    row.deviations["answer"] = harness.check("answer", answer, tuner.tuned(pictures[0], again=False), tolerance)
    if rounds:
        row.seconds = _times(name, count, size, rounds, views)
    return row


def _times(name: str, count: int, size: int, rounds: int, views: int) -> dict[str, list[float]]:
    method, base, tuner, images = _made(name, count, size, views, torch.float32)
    found = random_views(images, range(size), views - 1)

    def ours() -> Tensor:
        with torch.no_grad():
            mixed = method.mixed(method.maps(base, found.base), found)
            pictures = torch.cat([images[:, None], mixed], dim=1)
            return method.parts().vote.answer(method.tune(base, features_of(base, pictures)))

    def theirs() -> Tensor:
        guided = tuner.guided(found.base[0], found.mix[0], found.keep[0])
        return tuner.tuned(torch.cat([images[:1], guided]), again=False)

    ours()
    seconds = harness.seconds({"plain": theirs, "ours": ours}, rounds)
    return {**seconds, "ours": [second / size for second in seconds["ours"]]}


def _made(name: str, count: int, size: int, views: int, dtype: torch.dtype) -> tuple[ATPT, Prompted, PlainTuner, Tensor]:
    models, classes = plain.pair(name, dtype), plain.class_names(count)
    method = ATPT(variant="code", views=views)
    with torch.no_grad():
        base = method.prepared(assemble(models.backbone, classes))
    assert isinstance(base, Prompted)
    images = plain.random_batch(models, classes, size)[0].images
    return method, base, PlainTuner(models.plain.requires_grad_(False), base.start, classes), images


def main(argv: Sequence[str] | None = None) -> int:
    return harness.main(rows, __doc__ or "", argv)


if __name__ == "__main__":
    sys.exit(main())
