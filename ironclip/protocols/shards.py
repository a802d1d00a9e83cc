"""One evaluation by many processes: each does the batches of its shards, and the last one to finish writes the record."""

import math
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

from ironclip.audit.measure import BATCH, Point, Scoring, points
from ironclip.core.threat import format_eps
from ironclip.core.types import Attack
from ironclip.protocols.audit import KEPT, Progress
from ironclip.protocols.audit_bench import Bench, bench
from ironclip.protocols.audit_target import AuditTarget
from ironclip.protocols.experiment import Experiment
from ironclip.protocols.measure import Callback, prepare
from ironclip.protocols.workers import Tally, Workers
from ironclip.records.folder import WAIT, EvaluationFolder, RunFolder
from ironclip.records.merge import merge
from ironclip.records.record import Record
from ironclip.records.shards import RESULT, Part, missing, take
from ironclip.records.share import Shard, Share


def evaluate_shards(
    run: RunFolder,
    experiment: Experiment,
    named: Mapping[str, Attack],
    share: Share,
    *,
    eps: float,
    joining: bool = False,
    callback: Callback | None = None,
    **options: Any,
) -> tuple[Record | None, tuple[Shard, ...]]:
    """(the record where all shards of the evaluation are finished, else None; the shards that are not), after those of this
    share were done. The record equals that of `measure.evaluate_run` in everything but times.

    Args:
        named, eps, options: as of `measure.prepare`.
        joining: do nothing where nobody has begun the evaluation in shards.

    Raises:
        UsageError: more shards than batches of images.
        RunError: shards that are there are of another evaluation, checkpoint or version.
        RunBusy: another process does the shard asked for, or has been writing in the run for long.
    """
    made = prepare(run, experiment, named, eps=eps, **options)
    if joining and ((begun := run.begun(made.place[0])) is None or not missing(begun)):
        return None, ()
    with run.lock(wait=WAIT):
        place = made.folder()
    if (record := place.record()) is not None:
        return record, ()
    made = made.weighed()
    part = Part.of(place, made.setup, batch_size=made.batch_size, keep_examples=made.keep_examples)

    def score(shard: Shard, folders: Sequence[EvaluationFolder]) -> None:
        rows = shard.rows(len(made.pictures), made.batch_size)
        made.score(folders[0], made.batches(rows), sum(map(len, rows)), callback)

    take(partial(run.lock, wait=WAIT), [part], share, math.ceil(len(made.pictures) / made.batch_size), score)
    left = missing(place)
    return (None if left else merge(run, place)), left


def audit_shards(
    target: AuditTarget,
    radii: Sequence[float],
    share: Share,
    *,
    batch_size: int | None = None,
    device: str = "cpu",
    progress: Progress = lambda what, event: None,
    **options: Any,
) -> tuple[RunFolder, tuple[Shard, ...]]:
    """(the audit's folder, the shards that are not finished), after those of this share were done at all radii. Where none is
    left the records are written; `audit.audit` then reads them, makes the diagnostics and the report.

    Args:
        options: as of `audit.bench`. Errors as of `evaluate_shards`.
    """
    with bench(target, radii, device=device, **options) as made:
        size = batch_size or BATCH
        found, parts = _begun(made, target, radii, size, device)
        norm = made.setup.threat.norm
        scoring = Scoring(
            target.classifier, made.pictures, target.surrogates, KEPT, device, batch_size is not None,
            lambda eps, event: progress(format_eps(eps, norm), event),
        )  # fmt: skip

        def score(shard: Shard, folders: Sequence[EvaluationFolder]) -> None:
            for _ in scoring.radii(found, folders, shard.rows(len(made.pictures), size)):
                pass

        take(partial(made.run.lock, wait=WAIT), parts, share, math.ceil(len(made.pictures) / size), score)
        left = tuple(dict.fromkeys(shard for point in found for shard in missing(point.folder)))
        if not left:
            for point in found:
                merge(made.run, point.folder)
        return made.run, left


def watch_audit(
    workers: Workers,
    target: AuditTarget,
    radii: Sequence[float],
    *,
    batch_size: int | None,
    device: str,
    progress: Progress,
    **options: Any,
) -> None:
    """Wait until workers have the records of an audit; arguments as of `audit_shards`, errors as of `Workers.watch`."""
    with bench(target, radii, device=device, **options) as made:
        found, _ = _begun(made, target, radii, batch_size or BATCH, device)
        for point in found:
            name = format_eps(point.eps, made.setup.threat.norm)
            watched(workers, point.folder, len(made.pictures), partial(progress, name))


def _begun(
    made: Bench, target: AuditTarget, radii: Sequence[float], batch_size: int, device: str
) -> tuple[list[Point], list[Part]]:
    """The radii of an audit with their folders, and the same as what its shards must agree on."""
    with made.run.lock(wait=WAIT):
        facts = made.run.environment or made.run.save_environment(device)
        setup = made.setup.model_copy(update={"environment": facts})
        found = points(made.run, setup, made.attacks, len(made.pictures), radii, len(target.surrogates))
    return found, [Part.of(point.folder, point.setup, batch_size=batch_size, keep_examples=KEPT) for point in found]


def watch(
    workers: Workers,
    run: RunFolder,
    experiment: Experiment,
    named: Mapping[str, Attack],
    *,
    eps: float,
    callback: Callback,
    **options: Any,
) -> None:
    """Wait until workers have the record of an evaluation; arguments as of `evaluate_shards`, errors as of `Workers.watch`."""
    made = prepare(run, experiment, named, eps=eps, **options)
    with run.lock(wait=WAIT):
        place = made.folder()
    watched(workers, place, len(made.pictures), callback)


def watched(workers: Workers, place: EvaluationFolder, images: int, callback: Callback) -> None:
    """Wait until workers have the record of so many images in this folder."""
    workers.watch(place.path / RESULT, Tally(place, images, callback).look)
