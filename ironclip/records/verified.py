"""A trustworthy record: its checksum is verified, and it is counted again from its samples. Pure, without torch.

Files on a disk may be edited, cut or mixed up. So `EvaluationFolder.record` returns only what follows from the samples beside it,
and there is no other way to read a record.
"""

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from ironclip.records.record import Part, Record, Sample, Setup, canonical_hash
from ironclip.records.summary import summarise

SEAL = "sha256"
COUNTED = ("images", "clean", "robust", "attacks", "per_class")
UNSEALED = "it holds no sha256, which only an older version left out; if it is yours: `ironclip verify --seal RUN`"
SLACK = 1e-5  # of a distance, per unit of radius and of one image: rounding of sums over many pixels


def sealed(part: Part | Mapping[str, Any]) -> dict[str, Any]:
    """The JSON values of a record or another piece, and under "sha256" their checksum in place of any that is there."""
    value = part.model_dump(mode="json") if isinstance(part, Part) else {k: v for k, v in part.items() if k != SEAL}
    return value | {SEAL: canonical_hash(value)}


def opened(value: Any) -> tuple[Any, str | None]:
    """(the values without their checksum, what is wrong or None); that there is no checksum is wrong, too."""
    if not isinstance(value, dict):
        return value, "it holds no keys and values"
    inner = {key: each for key, each in value.items() if key != SEAL}
    try:
        seal = canonical_hash(inner)
    except (ValueError, RecursionError):
        return inner, "it holds a number that is not finite"
    if SEAL not in value:
        return inner, UNSEALED
    return inner, "its content does not fit its own sha256" if value[SEAL] != seal else None


def counted(record: Record, samples: Sequence[Sample], settings: Mapping[str, Any] | None = None) -> tuple[Record, str | None]:
    """(the record with the flags that follow from its samples, one that was struck out included; the first thing that it says and
    its samples or the settings of the evaluation do not, or None)."""
    if not samples:
        return record, "there are no samples"
    setup = Setup.model_construct(**{name: getattr(record, name) for name in Setup.model_fields})
    again = summarise(setup, samples, {attack.name: attack.constants for attack in record.attacks})
    known = {flag.id for flag in again.flags}
    flags = (*again.flags, *(flag for flag in record.flags if flag.id not in known))
    return record.model_copy(update={"flags": flags}), next(_differences(record, again, samples, settings or {}), None)


def _differences(record: Record, again: Record, samples: Sequence[Sample], settings: Mapping[str, Any]) -> Iterator[str]:
    if len({sample.index for sample in samples}) < len(samples):
        yield "an image comes twice among the samples"
    for field in COUNTED:
        says, counts = getattr(record, field), getattr(again, field)
        if says != counts:
            yield f"{_named(field)} is {_shown(says, counts)} in the record, and {_shown(counts, says)} by its samples"
    if again.samples_sha256 != record.samples_sha256:
        yield "the samples are not those of the record: their sha256 differs"
    names = {attack.name for attack in record.attacks}
    for sample in samples:
        if (reason := _impossible(sample, names, len(record.data.classes), record.threat.eps)) is not None:
            yield f"image {sample.index}: {reason}"
    found = record.model_dump(mode="json", include={"threat", "data", "quantise", "precision", "stop_early"})
    for field in found:
        if field in settings and not _within(settings[field], found[field]):
            yield f"{field} is not that of settings.json"


def _impossible(sample: Sample, attacks: set[str], classes: int, eps: float) -> str | None:
    """Why these outcomes cannot have been measured, or None."""
    labels = (sample.label, sample.clean, *sample.adversarial.values())
    if sample.index < 0 or min(labels) < 0 or (classes and max(labels) >= classes):
        return "an index or a label is out of range"
    if not all(map(math.isfinite, (sample.clean_margin, sample.margin, sample.distance))):
        return "a margin or a distance is not finite"
    if not 0 <= sample.distance <= eps + SLACK * (1 + eps):
        return f"it was moved by {sample.distance:g}, and eps is {eps:g}"
    if not sample.adversarial.keys() <= attacks:
        return f"it met {', '.join(sorted(sample.adversarial.keys() - attacks))}, which is no attack of the record"
    broke = [name for name, guess in sample.adversarial.items() if guess != sample.label]
    expected = "clean" if not sample.right else None
    if (sample.broken_by == "clean") != (expected == "clean"):
        return "broken_by and the prediction without an attack disagree"
    if sample.right and (sample.broken_by not in broke if sample.broken_by is not None else bool(broke)):
        return "broken_by and the predictions under the attacks disagree"
    return None


def _within(part: Any, whole: Any) -> bool:
    """Whether all of `part` stands in `whole`; a resolution of 0 was not stated, and keys that came later are left out."""
    if isinstance(part, dict) and isinstance(whole, dict):
        return all(
            (key == "resolution" and part[key] == 0) or (key not in whole or _within(part[key], whole[key])) for key in part
        )
    return bool(part == whole)


def _named(field: str) -> str:
    return {"clean": "clean accuracy", "robust": "robust accuracy", "per_class": "the count per class"}.get(field, field)


def _shown(value: Any, other: Any) -> str:
    """A value in a few characters; of a list, the first entry that differs from the other's."""
    if isinstance(value, tuple) and isinstance(other, tuple):
        place = next((place for place, pair in enumerate(zip(value, other)) if pair[0] != pair[1]), None)
        return f"a list of {len(value)}" if place is None else _shown(value[place], other[place])
    if isinstance(value, Part):
        theirs = other.model_dump() if isinstance(other, Part) else {}
        return ", ".join(f"{key} {each!r}" for key, each in value.model_dump().items() if each != theirs.get(key))
    return repr(value)
