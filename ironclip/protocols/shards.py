"""One evaluation by many processes: the shards of each do their batches, and whoever finishes last writes the record."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

from ironclip.core.types import Attack
from ironclip.protocols.experiment import Experiment
from ironclip.protocols.measure import Callback, prepare
from ironclip.protocols.workers import Workers
from ironclip.records.folder import EvaluationFolder, RunFolder
from ironclip.records.merge import merge
from ironclip.records.record import Record
from ironclip.records.shards import WAIT, Part, missing, take
from ironclip.records.share import Shard, Share


def evaluate_shards(
    run: RunFolder,
    experiment: Experiment,
    named: Mapping[str, Attack],
    share: Share,
    *,
    eps: float,
    callback: Callback | None = None,
    **options: Any,
) -> tuple[Record | None, tuple[Shard, ...]]:
    """(the record where all shards of the evaluation are finished, else None; the shards that are not), after those of this
    share were done. The record equals that of `measure.evaluate` in everything but times.

    Args:
        named, eps, options: as of `measure.prepare`.

    Raises:
        UsageError: more shards than batches of pictures.
        RunError: shards that are there are of another evaluation, checkpoint or version.
        RunBusy: another process does the shard asked for, or has been writing in the run for long.
    """
    made = prepare(run, experiment, named, eps=eps, **options)
    with run.lock(wait=WAIT):
        place = made.folder()
    if (record := place.record()) is not None:
        return record, ()
    made = made.weighed()
    part = Part.of(place, made.setup, batch_size=made.batch_size, keep_examples=made.keep_examples)

    def score(shard: Shard, folders: Sequence[EvaluationFolder]) -> None:
        made.score(folders[0], shard.rows(len(made.pictures), made.batch_size), callback)

    take(run, [part], share, math.ceil(len(made.pictures) / made.batch_size), score)
    left = missing(place)
    return (None if left else merge(run, place)), left


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
    workers.watch(place, len(made.pictures), callback)
