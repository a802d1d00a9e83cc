"""Targeted success: how often an attack makes a classifier answer a class chosen beforehand. Never a robust accuracy.

An attack that may aim at one class alone breaks fewer images than an untargeted one, so the two numbers are not comparable.
"""

from collections.abc import Iterable
from dataclasses import fields, is_dataclass, replace
from typing import Any

import torch
from torch import Tensor

from ironclip.core.errors import DataError, UsageError
from ironclip.core.memory import over
from ironclip.core.options import check_choice
from ironclip.core.permits import full
from ironclip.core.tensors import evaluating, frozen, generator
from ironclip.core.threat import Threat
from ironclip.core.types import Attack, Batch, Classifier
from ironclip.loops.scoring import check_budget, full_precision
from ironclip.records.record import Proportion

RULES = ("next", "random", "least-likely")
DRAW = 77  # keeps the draw of targets apart from other uses of the seed


def check_rule(rule: object) -> None:
    """UsageError unless it is a rule of choosing targets."""
    check_choice("--targeted (in Python targeted=), the rule that chooses the targets,", rule, RULES)


def check_targeted(rule: str | None, knowledge: str, attacks: Iterable[Attack]) -> None:
    """UsageError where a rule is named that is none, or whose success these attacks cannot have under this knowledge."""
    if rule is None:
        return
    check_rule(rule)
    if knowledge not in ("white-box", "adaptive"):
        raise UsageError(f"targeted success is that of attacks on the classifier itself: white-box or adaptive; got {knowledge}")
    for attack in attacks:
        aimed(attack)


def aimed(attack: Attack) -> Attack:
    """The attack towards the labels that it is handed, on every image.

    Raises:
        UsageError: an attack that cannot aim at a class.
    """
    if not is_dataclass(attack) or "targeted" not in {field.name for field in fields(attack)}:
        raise UsageError(f"{type(attack).__name__.lower()} cannot aim at a class; targeted success takes pgd, fgsm, mim or di")
    made: Attack = replace(full(attack), targeted=True)
    return made


def targets(rule: str, logits: Tensor, labels: Tensor, indices: Tensor, seed: int = 0) -> Tensor:
    """[B] a wrong class for each image.

    Args:
        rule: "next": the class after the true one; "random": any other, drawn by image; "least-likely": the lowest logit.
        logits: [B, K] of the clean images.
    """
    check_rule(rule)
    classes = logits.shape[1]
    if rule == "least-likely":
        return logits.scatter(1, labels[:, None], torch.inf).argmin(1)
    step = torch.ones_like(labels)
    if rule == "random":
        drawn = [torch.randint(1, classes, (), generator=generator(seed, int(index), DRAW)) for index in indices]
        step = torch.stack(drawn).to(labels)
    return (labels + step) % classes


def success(
    classifier: Classifier, attack: Attack, batches: Iterable[Batch], rule: str, threat: Threat, *, device: str = "cpu"
) -> dict[str, Any]:
    """{"success": share of images answered as their target, with its interval, "attacked": of how many}.

    Images that the classifier answers as their target without an attack are left out.

    Raises:
        DataError: no image is left. AttackError: an image outside the ball.
    """
    made, seed = aimed(attack), int(getattr(attack, "seed", 0))

    def counted(batch: Batch) -> tuple[int, int]:
        """How many of these images are answered as their target, and how many were attacked."""
        batch = batch.to(device)
        with torch.no_grad():
            logits = classifier(batch.images).float()
        wanted = targets(rule, logits, batch.labels, batch.indices, seed)
        rows = (logits.argmax(1) != wanted).nonzero().flatten()
        if not len(rows):
            return 0, 0
        images, indices = batch.images[rows], batch.indices[rows]
        adv = made(classifier, images, wanted[rows], indices=indices).detach()
        check_budget(f"targeted {type(attack).__name__.lower()}", adv, images, indices, threat)
        with torch.no_grad():
            return int((classifier(adv).argmax(1) == wanted[rows]).sum()), len(rows)

    with evaluating(classifier), frozen(classifier), full_precision():
        counts = list(over(batches, counted, device))
    hit, attacked = sum(hit for hit, _ in counts), sum(count for _, count in counts)
    if not attacked:
        raise DataError(f"every image is answered as its target without an attack; take another rule than {rule}")
    return {"success": Proportion.measured(hit, attacked).model_dump(), "attacked": attacked}
