"""One batch under all attacks: the function that each attack gets, the check of its images, and their scores."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ironclip.core import permits
from ironclip.core.errors import AttackError, DataError, NonFinite, UsageError
from ironclip.core.losses import cross_entropy_each, margin_each
from ironclip.core.permits import full
from ironclip.core.precision import tf32
from ironclip.core.tensors import norm, per_image, project
from ironclip.core.threat import PLACES, Threat, format_eps
from ironclip.core.types import Attack, Batch, Classifier, Images
from ironclip.records.pictures import Example
from ironclip.records.record import Quantise, Sample

TOLERANCE = 1e-6
LEVEL = 1e-4  # of a grey level: what float32 may be off from a whole one


@dataclass(frozen=True)
class Target:
    """An attack, the function that it attacks, and the name of its outcomes in the record."""

    name: str
    attack: Attack
    function: Images


def targets(
    classifier: Classifier, surrogates: Sequence[Classifier], attacks: Mapping[str, Attack], threat: Threat
) -> list[Target]:
    """The attacks with the functions that they attack; see `evaluation.evaluate`.

    "pgd/soft" is made on the surrogate whose attribute `name` is "soft", "pgd/surrogate2" on the second, nameless one.

    Raises:
        UsageError: surrogates missing or too many for this knowledge, or an attack that the threat does not permit.
    """
    for name, attack in attacks.items():
        permits.check(attack, threat, name)
    borrowed = threat.knowledge in ("static", "transfer")
    if borrowed and not surrogates:
        raise UsageError(f"a {threat.knowledge} attack is made on another classifier; hand one in as surrogate")
    if surrogates and not borrowed and threat.knowledge != "adaptive":
        raise UsageError(f"surrogates belong to an adaptive, static or transfer threat; this one is {threat.knowledge}")
    functions: dict[str, Images] = {} if borrowed else {"": classifier}
    if threat.knowledge == "black-box":
        functions = {"": _Scores(classifier)}
    for number, surrogate in enumerate(surrogates, 1):
        name = f"/{getattr(surrogate, 'name', f'surrogate{number}')}"
        functions[name if name not in functions else f"{name}{number}"] = surrogate
    return [
        _target(name + suffix, attack, function, classifier if suffix else None, threat)
        for name, attack in attacks.items()
        for suffix, function in functions.items()
    ]


def _target(name: str, attack: Attack, function: Images, judge: Classifier | None, threat: Threat) -> Target:
    """An attack on a function. It may stop at its first success on an image if that success holds for the evaluated classifier:
    when it attacks that classifier itself, or when it asks the judge."""
    if judge is not None and threat.knowledge == "adaptive" and getattr(attack, "judges", False):
        function, judge = Surrogate(function, judge), None
    return Target(name, full(attack) if judge is not None or threat.quantised else attack, function)


class Surrogate:
    """The function that an adaptive attacker differentiates in place of the classifier; the classifier is its judge."""

    def __init__(self, function: Images, judge: Classifier) -> None:
        self.function, self.judge = function, judge
        self.cost = getattr(function, "cost", 1)
        if hasattr(function, "classes"):
            self.classes = tuple(function.classes)

    def __call__(self, images: Tensor) -> Tensor:
        return self.function(images)


class _Scores:
    """A classifier as seen by a black-box attacker: class names and scores."""

    def __init__(self, classifier: Classifier) -> None:
        self.classifier = classifier
        if hasattr(classifier, "classes"):
            self.classes = tuple(classifier.classes)

    def __call__(self, images: Tensor) -> Tensor:
        scores: Tensor = _ScoresOnly.apply(images, self.classifier)
        return scores


class _ScoresOnly(torch.autograd.Function):
    """The classifier's logits; asking for their gradient is an error."""

    @staticmethod
    def forward(ctx: Any, images: Tensor, classifier: Images) -> Tensor:
        return classifier(images.detach()).clone()

    @staticmethod
    def backward(ctx: Any, *slopes: Any) -> Any:
        raise UsageError("this attack needs gradients, but the threat is black-box; use white-box, or an attack on scores")


@contextmanager
def full_precision() -> Iterator[None]:
    """No autocast and no TF32 inside; the caller's settings come back."""
    with tf32(False), torch.autocast("cpu", enabled=False), torch.autocast("cuda", enabled=False):
        yield


def check_budget(name: str, adv: Tensor, images: Tensor, indices: Tensor, threat: Threat) -> Tensor:
    """[B] distances of the images from the clean ones, after a check against the threat model.

    Raises:
        AttackError: another shape, outside the ball (by more than 1e-6) or outside [0, 1].
        NonFinite: NaN or infinity.
    """
    if adv.shape != images.shape:
        raise AttackError(f"attack {name!r} returned images of shape {tuple(adv.shape)} for {tuple(images.shape)}")
    if not adv.isfinite().all():
        raise NonFinite(f"attack {name!r} returned NaN or infinity")
    if not len(adv):
        return adv.new_zeros(0)
    low, high = float(adv.min()), float(adv.max())
    if low < 0 or high > 1:
        raise AttackError(f"attack {name!r} left the range of pixels [0, 1]: its images reach from {low:.6g} to {high:.6g}")
    distances = norm(adv - images, threat.norm)
    worst = int(distances.argmax())
    # A Euclidean norm sums thousands of rounding errors.
    slack = TOLERANCE if threat.norm == "linf" else TOLERANCE + 1e-5 * threat.eps
    if float(distances[worst]) > threat.eps + slack:
        moved = f"image {int(indices[worst])} moved by {float(distances[worst]):.6f} in {threat.norm}"
        radius = f"{format_eps(threat.eps, threat.norm)} = {threat.eps:.6f}"
        raise AttackError(f"attack {name!r} left the ball: {moved}, but eps is {radius}")
    return distances


def quantised(adv: Tensor, images: Tensor, threat: Threat, how: Quantise) -> Tensor:
    """Images with 8 bits per channel, inside the ball.

    "round" goes to the nearest grey level, "floor" to the one below, as a conversion to bytes does. Where that leaves the
    ball (l-infinity: this pixel; l2: this image) the level next to it on the side of the clean image is taken; where the
    clean value lies in between, the clean value itself. An l2 image that leaves the ball is moved towards the clean one first,
    in steps of 1/64, and rounded again; an l1 image, too. Of a patch or a text only the pixels that were changed are rounded.
    """
    if how == "none":
        return adv
    if threat.norm in PLACES:
        levels = (adv * 255).round() if how == "round" else (adv * 255 + LEVEL).floor()
        return torch.where(adv == images, images, levels / 255)
    adv = project(adv, images, threat.eps, threat.norm)
    if threat.norm != "linf":
        adv = _nearer(adv, images, threat, how)
    levels = adv * 255
    below, above = (levels + LEVEL).floor() / 255, (levels - LEVEL).ceil() / 255
    plain = levels.round() / 255 if how == "round" else below
    inward = torch.where(adv >= images, below, above)
    past = torch.where(adv >= images, images - inward, inward - images) > LEVEL / 255
    inward = torch.where(past, images, inward)
    if threat.norm == "linf":
        outside = (plain - images).abs() > threat.eps + TOLERANCE
    else:
        outside = per_image(norm(plain - images, threat.norm) > threat.eps + TOLERANCE, adv)
    return torch.where(outside, inward, plain)


def _nearer(adv: Tensor, images: Tensor, threat: Threat, how: Quantise) -> Tensor:
    """On the line from each adv to the clean image the first point that is in the ball after rounding; adv where there is
    none."""
    found, left = adv.clone(), torch.ones(len(adv), dtype=torch.bool, device=adv.device)
    for part in range(64, -1, -1):
        here = images + (adv - images) * (part / 64)
        plain = (here * 255).round() / 255 if how == "round" else (here * 255 + LEVEL).floor() / 255
        fits = left & (norm(plain - images, threat.norm) <= threat.eps + TOLERANCE)
        found[fits] = here[fits]
        left &= ~fits
        if not left.any():
            break
    return found


@dataclass(frozen=True)
class Scorer:
    """Batch -> (samples, broken images), all attacks in turn; arguments as of `evaluation.evaluate`."""

    classifier: Classifier
    targets: Sequence[Target]
    threat: Threat
    quantise: Quantise = "none"
    stop_early: bool = True
    probe: bool = True
    callback: Callable[[dict[str, Any]], None] | None = None

    def __post_init__(self) -> None:
        if self.threat.quantised != (self.quantise != "none"):
            raise UsageError(f"the threat says quantised={self.threat.quantised}, but the images are rounded: {self.quantise}")

    def __call__(self, batch: Batch) -> tuple[list[Sample], list[Example]]:
        images, labels = self._check(batch)
        prediction, margin, sure = self._score(images, labels, batch)
        clean, clean_margin = prediction, margin
        dead = self._dead(images, labels) if self.probe and self.threat.knowledge in ("white-box", "adaptive") else None
        rights = (clean == labels).tolist()
        broken_by: list[str | None] = [None if right else "clean" for right in rights]
        adversarial: list[dict[str, int]] = [{} for _ in rights]
        distance, margin = torch.zeros_like(margin), margin.clone()
        examples: list[Example] = []
        for target in self.targets:
            rows = [row for row, name in enumerate(broken_by) if name is None or not self.stop_early]
            if not rows:
                continue
            chosen = torch.tensor(rows, device=images.device)
            adv, moved = self._attacked(target, images[chosen], labels[chosen], batch.indices[chosen])
            prediction, margins, moved_sure = self._score(adv, labels[chosen], batch)
            distance[chosen] = distance[chosen].maximum(moved)
            margin[chosen] = margin[chosen].maximum(margins)
            for place, (row, guess) in enumerate(zip(rows, prediction.tolist())):
                adversarial[row][target.name] = guess
                if broken_by[row] is None and guess != int(labels[row]):
                    broken_by[row] = target.name
                    example = Example(
                        index=int(batch.indices[row]),
                        label=int(labels[row]),
                        clean=images[row].cpu(),
                        adversarial=adv[place].cpu(),
                        clean_prediction=int(clean[row]),
                        prediction=guess,
                        attack=target.name,
                        clean_probability=float(sure[row]),
                        probability=float(moved_sure[place]),
                    )
                    examples.append(example)
            if self.callback is not None:
                broken = sum(name == target.name for name in broken_by)
                self.callback({"event": "attack", "attack": target.name, "attacked": len(rows), "broken": broken})
        samples = [
            Sample(
                index=index,
                label=label,
                clean=guess,
                adversarial=adversarial[row],
                clean_margin=round(float(clean_margin[row]), 6),
                margin=round(float(margin[row]), 6),
                distance=round(float(distance[row]), 8),
                broken_by=broken_by[row],
                dead_gradient=None if dead is None else bool(dead[row]),
            )
            for row, (index, label, guess) in enumerate(zip(batch.indices.tolist(), labels.tolist(), clean.tolist()))
        ]
        order = {index: place for place, index in enumerate(batch.indices.tolist())}
        return samples, sorted(examples, key=lambda example: order[example.index])

    def _check(self, batch: Batch) -> tuple[Tensor, Tensor]:
        """Images in float32 and labels, after checks of both."""
        images, labels = batch.images.float(), batch.labels
        own = getattr(self.classifier, "classes", batch.classes)
        if tuple(own) != tuple(batch.classes):
            raise DataError(
                f"the classifier's classes are not the data's: {list(own)[:3]}... against {list(batch.classes)[:3]}..."
            )
        if not 0 <= int(labels.min()) <= int(labels.max()) < len(batch.classes):
            raise DataError(f"labels must lie in 0 .. {len(batch.classes) - 1}; got {int(labels.min())} .. {int(labels.max())}")
        if not (images.isfinite().all() and float(images.min()) >= 0 and float(images.max()) <= 1):
            raise DataError("images must be finite and in [0, 1], before normalisation")
        if self.threat.resolution not in (0, images.shape[-1]):
            raise UsageError(f"the threat lives at {self.threat.resolution} px, but the images have {images.shape[-1]}")
        return images, labels

    def _attacked(self, target: Target, images: Tensor, labels: Tensor, indices: Tensor) -> tuple[Tensor, Tensor]:
        """The images that are scored, and the distance of each from the clean one."""
        adv = target.attack(target.function, images, labels, indices=indices).detach()
        moved = check_budget(target.name, adv, images, indices, self.threat)
        if self.quantise != "none":
            adv = quantised(adv, images, self.threat, self.quantise)
            moved = check_budget(f"{target.name}, rounded", adv, images, indices, self.threat)
        return adv, moved

    def _score(self, images: Tensor, labels: Tensor, batch: Batch) -> tuple[Tensor, Tensor, Tensor]:
        """[B] predictions, ties to the lowest index, [B] margins, and [B] probabilities of the predictions."""
        with torch.no_grad():
            logits = self.classifier(images).float()
        if logits.shape != (len(images), len(batch.classes)):
            raise DataError(
                f"{len(batch.classes)} classes need logits [{len(images)}, {len(batch.classes)}]; got {list(logits.shape)}"
            )
        if not logits.isfinite().all():
            raise NonFinite("the classifier returned NaN or infinity; check the model in float32")
        return logits.argmax(1), margin_each(logits, labels), logits.softmax(1).amax(1)

    def _dead(self, images: Tensor, labels: Tensor) -> Tensor:
        """[B] whether the loss has an all-zero or non-finite gradient at the clean image."""
        with torch.enable_grad():
            leaf = images.detach().clone().requires_grad_()
            loss = cross_entropy_each(self.classifier(leaf).float(), labels).sum()
            if not loss.requires_grad:
                return torch.ones_like(labels, dtype=torch.bool)
            (slope,) = torch.autograd.grad(loss, leaf, allow_unused=True)
        if slope is None:
            return torch.ones_like(labels, dtype=torch.bool)
        flat = slope.flatten(1)
        return (flat == 0).all(1) | ~flat.isfinite().all(1)
