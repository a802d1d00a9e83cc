"""The measurement of an audit: robust accuracy over several radii, worst case per image, saved in a run folder along the way.

An image broken at one radius is broken at every larger one, because the larger ball contains the attacked image. So its outcome
is carried over, and robust accuracy never rises with the radius. The remaining images of a batch stay together at a larger
radius, so shards, which take whole batches, give the results of an undivided audit.
"""

from collections.abc import Callable, Container, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, Protocol

import torch
from torch import Tensor

from ironclip.audit.results import Radius
from ironclip.core.types import Attack, Batch, Classifier
from ironclip.loops.evaluation import evaluate_into, settings
from ironclip.records.folder import EvaluationFolder, RunFolder
from ironclip.records.pictures import Example
from ironclip.records.record import AttackResult, Record, Sample, Setup
from ironclip.records.share import Shard


class Pictures(Protocol):
    """What `data.EvalSet` offers."""

    @property
    def indices(self) -> Tensor: ...

    def __len__(self) -> int: ...

    def batch(self, rows: Sequence[int]) -> Batch: ...


@dataclass(frozen=True)
class Curve:
    """Accuracy by radius, the records behind it, and broken images, those of the smallest radius first."""

    radii: tuple[Radius, ...]
    records: tuple[Record, ...]
    examples: tuple[tuple[float, Example], ...]
    samples: tuple[Sample, ...]


BATCH = 50


@dataclass(frozen=True)
class Point:
    """One radius of an audit: its set-up, its attacks by name, and the folder of its record."""

    eps: float
    setup: Setup
    attacks: Mapping[str, Attack]
    folder: EvaluationFolder


def points(
    run: RunFolder,
    setup: Setup,
    attacks: Callable[[float], Mapping[str, Attack]],
    images: int,
    radii: Sequence[float],
    surrogates: int = 0,
) -> list[Point]:
    """The radii of an audit of so many images from the smallest on; arguments as of `measure`."""
    ordered, found = sorted(radii), []
    for place, eps in enumerate(ordered):
        here, named = setup.model_copy(update={"threat": replace(setup.threat, eps=eps)}), attacks(eps)
        chosen = settings(here, named, surrogates, images=images) | {"carried_from": ordered[:place]}
        found.append(Point(eps, here, named, run.evaluation(chosen, name=f"audit-{here.threat.radius}")))
    return found


@dataclass(frozen=True)
class Scoring:
    """What scores some rows of the images at all radii; arguments as of `measure`."""

    classifier: Classifier
    pictures: Pictures
    surrogates: Sequence[Classifier] = ()
    keep_examples: int = 8
    device: torch.device | str | None = None
    exact: bool = False
    callback: Callable[[float, dict[str, Any]], None] = lambda eps, event: None

    def radii(
        self, points: Sequence[Point], folders: Sequence[EvaluationFolder], rows: Sequence[range]
    ) -> Iterator[tuple[Record, list[Example], dict[int, Sample], dict[int, Sample]]]:
        """At each radius: the record in its folder, the examples, the samples carried over and all samples, by index."""
        carried: dict[int, Sample] = {}
        for point, folder in zip(points, folders, strict=True):
            known = {sample.index for sample in folder.samples()}
            if folder.record() is None:
                folder.append(sample for index, sample in carried.items() if index not in known)
            record, kept = evaluate_into(
                folder,
                point.setup,
                self.classifier,
                point.attacks,
                _batches(self.pictures, rows, carried),
                surrogates=self.surrogates,
                keep_examples=self.keep_examples,
                total=sum(map(len, rows)),
                device=self.device,
                exact=self.exact,
                probe=point.setup.threat.knowledge != "black-box",
                callback=partial(self.callback, point.eps),
            )
            samples = {sample.index: sample for sample in folder.samples()}
            yield record, kept, carried, samples
            carried = {index: sample for index, sample in samples.items() if not sample.robust}


def measure(
    run: RunFolder,
    setup: Setup,
    classifier: Classifier,
    attacks: Callable[[float], Mapping[str, Attack]],
    pictures: Pictures,
    radii: Sequence[float],
    *,
    surrogates: Sequence[Classifier] = (),
    batch_size: int = BATCH,
    exact: bool = False,
    keep_examples: int = 8,
    device: torch.device | str | None = None,
    callback: Callable[[float, dict[str, Any]], None] = lambda eps, event: None,
) -> Curve:
    """The curve; goes on where it was interrupted, reads what is finished. The caller holds the run's lock.

    Args:
        attacks: radius -> attacks by name.
        setup: its threat is used but for the radius.
        keep_examples: broken images to keep at each radius.
        exact: as of `evaluation.evaluate`.
        callback: gets the radius and the events of `evaluation.evaluate`.
    """
    found = points(run, setup, attacks, len(pictures), radii, len(surrogates))
    scoring = Scoring(classifier, pictures, surrogates, keep_examples, device, exact, callback)
    curve, records, examples = [], [], []
    samples: list[Sample] = []
    rows = Shard(1, 1).rows(len(pictures), batch_size)
    scored = scoring.radii(found, [point.folder for point in found], rows)
    for point, (record, kept, carried, known) in zip(found, scored, strict=True):
        samples = list(known.values())
        curve.append(_point(record, samples, carried))
        records.append(record)
        examples += [(point.eps, example) for example in kept]
    return Curve(tuple(curve), tuple(records), tuple(examples), tuple(samples))


def _batches(pictures: Pictures, rows: Sequence[range], carried: Container[int]) -> Iterator[Batch]:
    """The images of these rows, each range a batch; those whose outcome is carried over apart, which are read and not scored.

    What is scored together depends on its own range alone, so that shards score as the whole does.
    """
    positions = pictures.indices.tolist()
    for part in rows:
        for group in ([r for r in part if positions[r] not in carried], [r for r in part if positions[r] in carried]):
            if group:
                yield pictures.batch(group)


def _point(record: Record, samples: Sequence[Sample], carried: Mapping[int, Sample]) -> Radius:
    """The radius with what each attack met and broke here, images carried over left out."""
    fresh = [sample for sample in samples if sample.index not in carried]
    alive = sum(sample.right for sample in fresh)
    found = []
    for attack in record.attacks:
        met = [sample for sample in fresh if attack.name in sample.adversarial]
        broken = sum(sample.right and sample.adversarial[attack.name] != sample.label for sample in met)
        alive -= sum(sample.broken_by == attack.name for sample in fresh)
        found.append(
            AttackResult(name=attack.name, constants=attack.constants, attacked=len(met), broken=broken, survivors=alive)
        )
    before = sum(sample.right for sample in carried.values())
    seconds = record.timing.evaluate_seconds
    return Radius(eps=record.threat.eps, robust=record.robust, attacks=tuple(found), carried=before, seconds=seconds)
