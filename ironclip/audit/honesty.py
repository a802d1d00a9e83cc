"""Diagnostics of the set-up: labels that leak (D9), unperturbed pictures (D14), the budget (D15), the gain of adapting (D17)."""

import time

import torch
from torch import Tensor

from ironclip.attacks.eot import EOT
from ironclip.audit.lab import Lab
from ironclip.audit.results import Verdict
from ironclip.core.types import Images

TOLERANCE = 1e-6


def label_leak(lab: Lab) -> Verdict:
    """D9: attacking the true label must not help the classifier: neither above its clean accuracy, nor above label-free attacks.

    All images are attacked, those already wrong included, and the last iterate is scored as it is: on a defence that reads
    the label off the perturbation, a wrong image becomes right.
    """
    images, labels, indices = (torch.cat(pair) for pair in zip((lab.images, lab.labels, lab.indices), lab.wrong, strict=True))
    these = (images, labels, indices)
    clean = len(lab) / len(labels)
    ways: dict[str, Images] = {"": lab.attacked} | ({", static": lab.sources[0]} if lab.sources else {})
    steps = min(lab.steps, 20)
    numbers = {"clean": clean}
    excess = -1.0
    for suffix, source in ways.items():
        guessed = lab.logits(images, source).argmax(1)
        true = lab.attack_these("pgd", these, on=source, steps=steps, keep="last").accuracy
        own = lab.attack_these("pgd", (images, guessed, indices), on=source, steps=steps, keep="last")
        free = lab.attack_these("pgd", these, on=source, steps=steps, keep="last", loss="kl").accuracy
        predicted = float(lab.right(own.adv, labels).double().mean())
        numbers |= {f"true label{suffix}": true, f"predicted label{suffix}": predicted, f"no label{suffix}": free}
        excess = max(excess, true - clean, true - predicted)
    bad = excess > max(0.01, 1 / len(labels)) + 1e-9
    text = (
        f"{excess:.1%} more are right when the attacker uses the true label: the defence reads the label off the attack"
        if bad
        else "the label helps the attack, not the defence"
    )
    return Verdict(
        id="D9", title="label leak", level="fail" if bad else "pass", value=excess, text=text, numbers=numbers,
        threshold="true-label PGD leaves > 1 point (and one image) more right than no attack, or than predicted-label PGD",
    )  # fmt: skip


def unperturbed(lab: Lab) -> Verdict:
    """D14: every image handed over is perturbed, those already wrong included; says whether the defence is in the attack."""
    images, labels, indices = (torch.cat(pair) for pair in zip((lab.images, lab.labels, lab.indices), lab.wrong, strict=True))
    if lab.eps == 0:
        return Verdict(id="D14", title="unperturbed pictures", level="not applicable", text="radius 0")
    made = lab.attack_these("pgd", (images, labels, indices), steps=min(lab.steps, 10), mode="full")
    share = float((made.adv == images).flatten(1).all(1).double().mean())
    inside = "in" if lab.knowledge in ("white-box", "adaptive") else "not in"
    text = f"{share:.1%} of the pictures reach the classifier as they were; the defence is {inside} the attack ({lab.knowledge})"
    level = "fail" if share > 0 else "pass" if inside == "in" else "warn"
    return Verdict.model_validate(
        {"id": "D14", "title": "unperturbed pictures", "level": level, "value": share, "text": text,
         "threshold": "any picture handed over unperturbed; warn: the defence is not in the attack"}
    )  # fmt: skip


def budget(lab: Lab) -> Verdict:
    """D15: every picture that any diagnostic scored lies in the ball and in [0, 1], and is finite."""
    worst = lab.worst
    bad = worst["excess"] > TOLERANCE or worst["outside"] > 0 or worst["finite"] < 1
    text = (
        "pictures left the ball or the box: the accuracies belong to another threat model"
        if bad
        else f"{worst['images']:.0f} pictures scored, all inside"
    )
    return Verdict(
        id="D15", title="budget", level="fail" if bad else "pass", value=worst["excess"], text=text,
        threshold="max |x' - x| > eps + 1e-6, outside [0, 1], or NaN", numbers=dict(worst),
    )  # fmt: skip


def gain_of_adapting(lab: Lab) -> Verdict:
    """D17: what a test-time defence costs, and what it gains over its base when both are attacked themselves."""
    if lab.base is None:
        return Verdict(id="D17", title="gain of adapting", level="not applicable", text="no test-time defence")
    images = lab.images[: lab.batch_size]
    cost = _seconds(lab.classifier, images) / max(_seconds(lab.base, images), 1e-9)
    theirs = lab.attack("pgd", on=lab.base, steps=lab.steps, mode="full")
    base_right = lab.logits(theirs.adv, lab.base).argmax(1) == lab.labels
    adaptive, base = float(lab.white_box().double().mean()), float(base_right.double().mean())
    numbers = {"cost factor": cost, "adaptive": adaptive, "base": base, "static": theirs.accuracy}
    if lab.draws > 1:
        views = EOT(lab.classifier, lab.draws, over="probabilities")
        numbers["mean of the draws, adaptive"] = float((lab.logits(lab.pgd().adv, views).argmax(1) == lab.labels).double().mean())
    gain = adaptive - base
    level = "pass" if gain > 0 else "warn"
    text = (
        f"gains {gain:+.1%} over its base under an attack on itself, at {cost:.1f} times the cost (static: {theirs.accuracy:.1%})"
    )
    return Verdict.model_validate(
        {"id": "D17", "title": "gain of adapting", "level": level, "value": gain, "text": text, "numbers": numbers,
         "threshold": "no gain under an attack on the defence itself"}
    )  # fmt: skip


def _seconds(function: Images, images: Tensor) -> float:
    start = time.perf_counter()
    with torch.no_grad():
        function(images).sum().item()
    return time.perf_counter() - start
