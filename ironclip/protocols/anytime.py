"""An evaluation that stops as soon as its interval is narrow enough; see `records.looks` for the price of repeated looks."""

from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Any

from ironclip.core.types import Attack, Batch
from ironclip.data import EvalSet
from ironclip.protocols.experiment import Experiment
from ironclip.protocols.measure import Callback, prepare
from ironclip.records.folder import RunFolder
from ironclip.records.looks import FIRST, GROWTH, narrow, sizes
from ironclip.records.pictures import Example
from ironclip.records.record import Looks, Record


def evaluate_until(
    run: RunFolder,
    experiment: Experiment,
    named: Mapping[str, Attack],
    points: float,
    *,
    eps: float,
    split: str = "test",
    limit: int | None = None,
    callback: Callback | None = None,
    **options: Any,
) -> tuple[Record, list[Example]]:
    """The record of as few images as make the interval of robust accuracy narrower than +- `points`; goes on where it stopped.

    Each look contains the images of the look before; only new images are scored. One folder serves all values of `points`: a
    smaller value continues from a larger one, and 0 continues to all images.

    Args:
        limit: the most images. eps, options: as of `measure.prepare`.

    Raises:
        UsageError: an invalid number of points.
    """
    most = min(len(experiment.dataset.items(split)), limit or len(experiment.dataset.items(split)))
    looks = Looks(points=points, sizes=tuple(sizes(most, points)))
    made = prepare(run, experiment, named, eps=eps, split=split, limit=looks.sizes[0], **options)
    chosen, name, apart = made.place
    chosen = {**chosen, "images": most, "looks": {"first": FIRST, "growth": GROWTH}}
    setup = made.setup.model_copy(update={"looks": looks})
    made = replace(made, setup=setup, place=(chosen, f"until-{name}", apart))
    resolution = experiment.backbone.spec.resolution
    with run.lock():
        folder = made.folder()
        record, begun = folder.record(), len(folder.samples())
        if record is not None:
            if record.looks == looks or (record.robust.high - record.robust.low) / 2 < points / 100:
                return made.score(folder, (), None)
            (folder.path / "record.json").unlink()  # its samples are kept, and more will come
        at = 0

        def batches() -> Iterator[Batch]:
            nonlocal at
            seen: set[int] = set()
            for size in looks.sizes:
                pictures = EvalSet(experiment.dataset, split, resolution=resolution, limit=size)
                indices, at = pictures.indices.tolist(), len(pictures)
                new = [row for row, index in enumerate(indices) if index not in seen]
                seen |= set(indices)
                for start in range(0, len(new), made.batch_size):
                    yield pictures.batch(new[start : start + made.batch_size])
                samples = folder.samples()
                robust = sum(sample.robust for sample in samples)
                if len(pictures) >= begun and narrow(robust, len(samples), len(looks.sizes), points):
                    return

        def tell(event: dict[str, Any]) -> None:
            if callback is not None:
                callback({**event, "total": at} if event["event"] == "batch" else event)

        return made.weighed().score(folder, batches(), None, tell)
