"""The measurement of an audit: robust accuracy over several radii, worst case per image, kept in a run folder as it grows.

An image broken at one radius is broken at every larger one, for its picture lies in the larger ball too. So it is carried
over and not attacked again, and robust accuracy never rises with the radius.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from itertools import chain
from typing import Any, Protocol

import torch
from torch import Tensor

from ironclip.audit.results import Radius
from ironclip.core.types import Attack, Batch, Classifier
from ironclip.loops.evaluation import evaluate_into, settings
from ironclip.records.folder import RunFolder
from ironclip.records.pictures import Example
from ironclip.records.record import AttackResult, Record, Sample, Setup


class Pictures(Protocol):
    """What `data.EvalSet` offers."""

    @property
    def indices(self) -> Tensor: ...

    def __len__(self) -> int: ...

    def batch(self, rows: Sequence[int]) -> Batch: ...


@dataclass(frozen=True)
class Curve:
    """Accuracy by radius, the records behind it, and broken pictures, those of the smallest radius first."""

    radii: tuple[Radius, ...]
    records: tuple[Record, ...]
    examples: tuple[tuple[float, Example], ...]
    samples: tuple[Sample, ...]


def measure(
    run: RunFolder,
    setup: Setup,
    classifier: Classifier,
    attacks: Callable[[float], Mapping[str, Attack]],
    pictures: Pictures,
    radii: Sequence[float],
    *,
    surrogates: Sequence[Classifier] = (),
    batch_size: int = 50,
    keep_examples: int = 8,
    device: torch.device | str | None = None,
    callback: Callable[[float, dict[str, Any]], None] = lambda eps, event: None,
) -> Curve:
    """The curve; goes on where it was interrupted, reads what is finished. The caller holds the run's lock.

    Args:
        attacks: radius -> attacks by name.
        setup: its threat is used but for the radius.
        keep_examples: broken pictures to keep at each radius.
        callback: gets the radius and the events of `evaluation.evaluate`.
    """
    ordered = sorted(radii)
    points, records, examples = [], [], []
    carried: dict[int, Sample] = {}
    samples: list[Sample] = []
    for place, eps in enumerate(ordered):
        here = setup.model_copy(update={"threat": replace(setup.threat, eps=eps)})
        named = attacks(eps)
        chosen = settings(here, named, len(surrogates), images=len(pictures)) | {"carried_from": ordered[:place]}
        folder = run.evaluation(chosen, name=f"audit-{here.threat.radius}")
        known = {sample.index for sample in folder.samples()}
        if folder.record() is None:
            folder.append(sample for index, sample in carried.items() if index not in known)
        record, kept = evaluate_into(
            folder,
            here,
            classifier,
            named,
            _batches(pictures, set(carried), batch_size),
            surrogates=surrogates,
            keep_examples=keep_examples,
            total=len(pictures),
            device=device,
            probe=setup.threat.knowledge != "black-box",
            callback=partial(callback, eps),
        )
        samples = list({sample.index: sample for sample in folder.samples()}.values())
        points.append(_point(record, samples, carried))
        records.append(record)
        examples += [(eps, example) for example in kept]
        carried = {sample.index: sample for sample in samples if not sample.robust}
    return Curve(tuple(points), tuple(records), tuple(examples), tuple(samples))


def _batches(pictures: Pictures, carried: set[int], batch_size: int) -> Iterator[Batch]:
    """All pictures; those whose outcome is carried over in batches of their own, which are read and not scored."""
    rows = list(range(len(pictures)))
    positions = pictures.indices.tolist()
    done, left = [r for r in rows if positions[r] in carried], [r for r in rows if positions[r] not in carried]
    for group in chain(_parts(left, batch_size), _parts(done, batch_size)):
        yield pictures.batch(group)


def _parts(rows: list[int], size: int) -> Iterator[list[int]]:
    for at in range(0, len(rows), size):
        yield rows[at : at + size]


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
