"""The sentences of a report: what was measured, what it does not show, and warnings."""

from collections.abc import Sequence
from dataclasses import dataclass

from ironclip.core.threat import Threat
from ironclip.records.bounds import BOUND, LEGEND
from ironclip.records.collapse import collapse_words
from ironclip.records.record import Proportion, Record
from ironclip.report.tables import attack_words, percent
from ironclip.report.views import RunView, is_undefended, radius, standing

BUDGETS = {
    "l2": "changed the image by at most {} in Euclidean length (pixels in [0, 1])",
    "l1": "changed the image by at most {} in the sum over all pixels and colors (pixels in [0, 1])",
    "patch": "replaced a rectangle of at most {} of the image's area",
    "text": "painted words on at most {} of the image's area",
}
ATTACKER = {
    "white-box": "an attacker who knows the model and its defence completely",
    "adaptive": "an attacker who knows the model and its defence completely and also attacks its parts one by one",
    "static": "an attacker who knows only the undefended model, not the defence",
    "transfer": "an attacker who works on another model and hopes that the images carry over",
    "black-box": "an attacker who sees the scores of the model but not its inside",
}
LEVELS = {"fail": "Do not trust", "warn": "Warning", "note": "Note"}
REMEDY = "Lower the learning rate, the training radius or the weight of the consistency term and train again."


@dataclass(frozen=True)
class Remark:
    """Something the reader must know about one evaluation."""

    level: str
    title: str
    text: str
    about: str


@dataclass(frozen=True)
class Headline:
    """The undefended and the best defended record on the same images under the same threat.

    Args:
        beside: other models without a defence, measured alike: what is reached by taking another model and training nothing.
    """

    before: Record
    after: Record
    beside: tuple[Record, ...] = ()


def headline(records: Sequence[Record]) -> Headline | None:
    """The first pair that may be compared; records with a reason not to be ranked are left out."""
    sound = [record for record in records if not standing(record)]
    for before in filter(is_undefended, sound):
        rivals = [record for record in sound if not is_undefended(record) and _alike(record, before)]
        if rivals:
            others = [record for record in sound if is_undefended(record) and _measured_alike(record, before)]
            beside = tuple(record for record in others if record.backbone.name != before.backbone.name)
            return Headline(before, max(rivals, key=lambda record: record.robust.value), beside)
    return None


def summary(records: Sequence[Record]) -> str:
    """One paragraph: what was measured, against which attacker, and what came out."""
    pair = headline(records)
    record = pair.after if pair else records[0]
    names = list(dict.fromkeys(record.data.name for record in records))
    where = f"{record.images} images of {names[0]}" if len(names) == 1 else f"the images of {len(names)} data sets"
    classes = f" ({len(record.data.classes)} classes)" if len(names) == 1 and record.data.classes else ""
    said = [
        f"We measured how often an image classifier is right on {where}{classes}, first as they are and then after "
        f"{attacker(record.threat)}. ",
        f"On {record.data.name}: " if len(names) > 1 else "",
    ]
    if pair is None:
        said.append(f"{record.method} is right on {share(record.clean)} of the clean images ")
        said.append(f"and on {robust(record)} under attack.")
        if reason := standing(record):
            said.append(f" The number under attack is {reason}.")
        return "".join(said)
    learned = f", trained on {record.shots} example images per class," if record.shots else ""
    said += [
        f"{'Without' if len(names) == 1 else 'without'} a defence, {pair.before.backbone.name} is right on "
        f"{share(pair.before.clean)} of the clean images and on {robust(pair.before)} under attack. ",
        f"With the defence {record.method}{learned} it is right on {share(record.clean)} of the clean images "
        f"and on {robust(record)} under attack. ",
        _verdict(pair.before.robust, record.robust),
    ]
    for other in pair.beside:
        said.append(f" {other.backbone.name}, without a defence and without training, is right on {share(other.clean)} of the ")
        said.append(f"clean images and on {robust(other)} under attack.")
    return "".join(said)


def limits(records: Sequence[Record]) -> list[tuple[str, str]]:
    """What the numbers do not show: a few words, and a sentence about them."""
    attacks = list(dict.fromkeys(attack_words(attack) for record in records for attack in record.attacks))
    pictures = max(record.images for record in records)
    largest = radius(max((record.threat for record in records), key=lambda threat: threat.eps))
    ran = f"Only {', '.join(attacks)} {'were' if len(attacks) > 1 else 'was'} run; a stronger one can only lower the accuracy."
    found = [
        ("Other attacks.", ran if attacks else "None was run, so robust accuracy is clean accuracy."),
        ("Other changes", f"than a radius of {largest}: stickers, rotation, blur, new lighting, images made from scratch."),
        ("Other images.", f"The intervals cover the draw of {pictures} test images, not a new camera, time or place."),
    ]
    if len({record.seed for record in records if not is_undefended(record)}) == 1:
        found.append(("Other trainings.", "Each defence was trained once; other examples or seeds give other numbers."))
    if any(record.one_loss for record in records):
        text = f"Numbers marked {BOUND} met attacks on one loss alone ({LEGEND}); other losses break more images."
        found.append(("Other losses.", text))
    if any(standing(record) in ("static-only", "transfer-only") for record in records):
        text = "Numbers labelled static-only or transfer-only met attacks made on another model; they overstate the defence."
        found.append(("An attacker who knows the defence.", text))
    if any(standing(record) == "black-box-only" for record in records):
        found.append(("An attacker who sees gradients.", "Numbers labelled black-box-only met attacks on scores alone."))
    return found


def attacker(threat: Threat) -> str:
    """The attacker's knowledge and limits, as the end of a sentence that begins with "after"."""
    if threat.norm == "linf":
        budget = f"changed every pixel by at most {radius(threat)} of full brightness"
    else:
        budget = BUDGETS[threat.norm].format(radius(threat))
    return f"{ATTACKER[threat.knowledge]} has {budget} in order to mislead it"


def remarks(views: Sequence[RunView], names: Sequence[str]) -> list[Remark]:
    """Flags of records and of trainings, and curves that rise; the gravest first."""
    found = []
    for view, name in zip(views, names, strict=True):
        for flag in view.record.flags:
            text = f"{flag.text[:1].upper()}{flag.text[1:]}"
            found.append(Remark(flag.level, LEVELS[flag.level], text if text.endswith((".", "?", "!")) else f"{text}.", name))
        if words := collapse_words(next((entry["flags"] for entry in reversed(view.log) if "flags" in entry), ())):
            found.append(Remark("warn", LEVELS["warn"], f"{words[0].upper()}{words[1:]}. {REMEDY}", name))
        for near, far in zip(view.curve, view.curve[1:]):
            if far.robust.low > near.robust.high:
                where = f"from radius {radius(view.record.threat, near.eps)} to {radius(view.record.threat, far.eps)}"
                text = f"Accuracy rises {where}, which no exact attack allows: the attack is too weak there."
                found.append(Remark("warn", LEVELS["warn"], text, name))
    return sorted(found, key=lambda remark: list(LEVELS).index(remark.level))


def share(proportion: Proportion) -> str:
    return f"{percent(proportion.value)} %"


def robust(record: Record) -> str:
    """Robust accuracy in words; "at most" where one loss alone was run."""
    return f"{'at most ' if record.one_loss else ''}{share(record.robust)}"


def _verdict(before: Proportion, after: Proportion) -> str:
    if after.low > before.high:
        return "The 95 % intervals under attack do not overlap: the gain is more than chance."
    if after.high < before.low:
        return "Under attack the defended model is worse, by more than chance."
    return "The 95 % intervals under attack overlap: the difference may be chance."


def _alike(a: Record, b: Record) -> bool:
    """Whether two records are about the same images, the same frozen model and the same threat."""
    return _measured_alike(a, b) and a.backbone.name == b.backbone.name


def _measured_alike(a: Record, b: Record) -> bool:
    """Whether two records are about the same images and the same threat."""
    return (a.data.name, a.data.split, a.data.subset, a.threat) == (b.data.name, b.data.split, b.data.subset, b.threat)
