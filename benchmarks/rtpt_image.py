"""One image under R-TPT, 64 given views, against the released order of work.

Ours runs a batch of images and is timed per image; equality of the gradient and of the answer comes first.
"""

import sys
from collections.abc import Iterable, Sequence

import torch
from torch import Tensor

from benchmarks import harness, plain
from benchmarks.plain_views import PlainTuner
from ironclip.backbones import assemble
from ironclip.testtime import build
from ironclip.testtime._base import features_of
from ironclip.testtime._prompts import Prompted, picked
from ironclip.testtime._random_views import random_views
from ironclip.testtime._tuning import TestTimePromptTuning

TARGETS = {("vitb32", 10): 4.5, ("vitb32", 100): 6.0}


def rows(quick: bool, rounds: int) -> Iterable[harness.Row]:
    for name, count in [("small", 10)] if quick else [("small", 10), ("small", 100), ("vitb32", 10), ("vitb32", 100)]:
        yield measure(name, count, 2 if name == "vitb32" else 4, rounds)


def measure(
    name: str,
    count: int,
    size: int,
    rounds: int,
    *,
    views: int = 64,
    dtype: torch.dtype = torch.float32,
    tolerance: float = 1e-3,
) -> harness.Row:
    """Equality of gradients, and of answers with our tuned words, within `tolerance`; then the times for one image (none for
    0 rounds)."""
    models = plain.pair(name, dtype)
    classes = plain.class_names(count)
    batch, _ = plain.random_batch(models, classes, size)
    method = build("rtpt", {"views": views})
    assert isinstance(method, TestTimePromptTuning)
    with torch.no_grad():
        base = method.prepared(assemble(models.backbone, classes))
    assert isinstance(base, Prompted)
    pictures = _views(batch.images, views)
    tuner = PlainTuner(models.plain.requires_grad_(False), base.start, classes)
    row = harness.Row("R-TPT image", f"{name}, C={count}, V={views}", target=TARGETS.get((name, count)))

    with torch.no_grad():
        found = method.tune(base, features_of(base, pictures))
        answers = method.parts().vote.answer(found)
    slopes = method.first_gradient(base, picked(found.features, found.selected), False)
    for image in range(min(2, size)):
        expected = tuner.tuned(pictures[image], context=found.context[image])
        row.deviations |= {
            f"gradient {image}": harness.check("gradient", slopes[image], tuner.gradient, tolerance),
            f"answer {image}": harness.check("answer", answers[image], expected, tolerance),
        }

    def ours() -> Tensor:
        with torch.no_grad():
            return method.parts().vote.answer(method.tune(base, features_of(base, pictures)))

    if rounds:
        row.seconds = harness.seconds({"plain": lambda: tuner.tuned(pictures[0]), "ours": ours}, rounds)
        row.seconds["ours"] = [second / size for second in row.seconds["ours"]]
    return row


def _views(images: Tensor, views: int) -> Tensor:
    return torch.cat([images[:, None], random_views(images, range(len(images)), views - 1).blended], dim=1)


def main(argv: Sequence[str] | None = None) -> int:
    return harness.main(rows, __doc__ or "", argv)


if __name__ == "__main__":
    sys.exit(main())
