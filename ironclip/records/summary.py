"""From outcomes per image to a record and its flags. Pure, and without torch."""

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from ironclip.core.errors import DataError
from ironclip.core.shown import number_of
from ironclip.records.bounds import LEGEND
from ironclip.records.collapse import collapse_words
from ironclip.records.looks import confidence
from ironclip.records.record import AttackResult, ClassResult, Flag, Looks, Proportion, Record, Sample, Setup, Timing, digest

BORROWED = ("static", "transfer")
SCORES_ALONE = ("square", "transfer")
"""Attacks that never differentiate the classifier they are handed."""
COARSE = 50
"""Below so many images the record says how much one of them weighs."""


def summarise(
    setup: Setup, samples: Sequence[Sample], attacks: Mapping[str, Mapping[str, Any]], *, timing: Timing | None = None
) -> Record:
    """The record of these samples.

    Args:
        attacks: name as in `Sample.adversarial` -> constants (`records.describe`), in the order in which they ran.

    Raises:
        DataError: no sample.
    """
    if not samples:
        raise DataError("there is no image to evaluate on; the split is empty")
    n, looks = len(samples), len(setup.looks.sizes) if setup.looks else 1
    record = Record(
        **dict(setup),
        images=n,
        clean=Proportion.measured(sum(sample.right for sample in samples), n, looks),
        robust=Proportion.measured(sum(sample.robust for sample in samples), n, looks),
        attacks=_attack_results(samples, attacks),
        per_class=_class_results(samples, setup.data.classes),
        samples_sha256=digest(samples),
        timing=timing or Timing(),
    )
    return record.model_copy(update={"flags": flags(record, samples)})


def _attack_results(samples: Sequence[Sample], attacks: Mapping[str, Mapping[str, Any]]) -> tuple[AttackResult, ...]:
    results = []
    alive = [sample for sample in samples if sample.right]
    for name, constants in attacks.items():
        met = [sample for sample in samples if name in sample.adversarial]
        broken = sum(sample.right and sample.adversarial[name] != sample.label for sample in met)
        alive = [sample for sample in alive if sample.broken_by != name]
        results.append(AttackResult(name=name, constants=dict(constants), attacked=len(met), broken=broken, survivors=len(alive)))
    return tuple(results)


def _class_results(samples: Sequence[Sample], classes: Sequence[str]) -> tuple[ClassResult, ...]:
    images = Counter(sample.label for sample in samples)
    clean = Counter(sample.label for sample in samples if sample.right)
    robust = Counter(sample.label for sample in samples if sample.robust)
    return tuple(
        ClassResult(name=name, images=images[label], clean=clean[label], robust=robust[label])
        for label, name in enumerate(classes)
        if images[label]
    )


def _blind(attack: AttackResult) -> bool:
    """Whether it looks at scores at most."""
    return attack.constants.get("attack") in SCORES_ALONE


def resolution(images: int) -> str:
    """How much one image of so many weighs, in points of accuracy."""
    weight = f"{100 / images:.3g}"
    return f"{number_of(images, 'image')}: one image is {weight} point{'s' if weight != '1' else ''}"


def stopped(looks: Looks, images: int) -> str:
    """By which rule an evaluation of so many images was stopped, and what that does to its intervals."""
    rule = (
        f"the interval of robust accuracy is narrower than ±{looks.points:g} points"
        if looks.points
        else "all images are measured"
    )
    taken, planned = sum(size < images for size in looks.sizes) + 1, len(looks.sizes)
    return (
        f"look {taken} of at most {planned}, stopped as soon as {rule}; each interval is at {100 * confidence(planned):.4g} %, "
        "so that all looks together hold at 95 %"
    )


def flags(record: Record, samples: Sequence[Sample]) -> tuple[Flag, ...]:
    """What the reader of the number must know: signs of masked gradients, of a broken set-up, of a weak claim."""
    found: list[Flag] = []

    def flag(level: str, name: str, text: str) -> None:
        found.append(Flag.model_validate({"id": name, "level": level, "text": text}))

    knowledge, radius = record.threat.knowledge, record.threat.eps > 0
    attacked = [sample for sample in samples if sample.adversarial]
    still = sum(sample.distance == 0 for sample in attacked)
    dead = sum(bool(sample.dead_gradient) for sample in samples)
    labels = record.data.label_space or len(record.data.classes)
    if labels and record.clean.high < 1 / labels:
        flag("fail", "clean_below_chance", f"clean accuracy is below chance, 1/{labels}; are the class names in order?")
    if not record.attacks:
        flag("warn", "no_attack", "no attack was run; robust accuracy is clean accuracy")
    elif radius and attacked and still == len(attacked):
        flag("fail", "nothing_perturbed", "no attack changed a single image")
    elif radius and record.clean.count and record.robust.count == record.clean.count:
        flag("warn", "nothing_broken", "no attack broke a single image: robust accuracy equals clean accuracy")
    if radius and knowledge in BORROWED and 0 < still < len(attacked):
        flag("fail", "unperturbed", f"{still} of {len(attacked)} images reached the classifier as they were")
    if words := collapse_words(record.training_flags):
        flag("warn", "collapse", f"{words}. Lower lr or eps, or clip gradients")
    if dead:
        flag("warn", "dead_gradient", f"{dead} of {len(samples)} images have an all-zero or non-finite gradient")
    if record.one_loss:
        flag("warn", "one_loss", f"{LEGEND}; a worst case over several losses, such as standard-fast, can only be lower")
    for note in record.notes:
        flag("note", "differs", note)
    if record.images < COARSE:
        flag("note", "resolution", resolution(record.images))
    if radius and knowledge in ("white-box", "adaptive") and record.attacks and all(map(_blind, record.attacks)):
        flag("warn", "no_gradients", f"no attack of this record follows gradients: {knowledge} by name alone")
    if record.data.split != "test":
        flag(
            "warn" if record.data.split == "train" else "note",
            "split",
            f"scored on the {record.data.split} split, not on the test images",
        )
    if knowledge in BORROWED:
        on = record.threat.source or "another classifier"
        flag("note", knowledge, f"made on {on} ({knowledge}): says little about an attacker who knows this classifier")
    if knowledge == "black-box":
        flag("note", knowledge, "made with scores alone (black-box): says little about an attacker who knows this classifier")
    if record.plainly_adaptive:
        flag("note", "adaptive_is_white_box", "this defence names no surrogate, so adaptive equals white-box here")
    if record.looks is not None:
        flag("note", "looks", stopped(record.looks, record.images))
    if record.data.available > record.images:
        flag("note", "subset", f"{record.images} of {record.data.available} images")
    return tuple(found)
