"""The true label does not help the defence.

Attacking the true label must not help the classifier: neither above its clean accuracy, nor above label-free attacks.

All images are attacked, those already wrong included, and the last iterate is scored as it is: on a defence that reads
the label off the perturbation, a wrong image becomes right.
"""

import torch

from ironclip.audit.diagnostic import Diagnostic
from ironclip.audit.lab import Lab
from ironclip.audit.results import Finding
from ironclip.core.types import Images


def label_leak(lab: Lab) -> Finding:
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
    return Finding(
        level="fail" if bad else "pass", value=excess, text=text, numbers=numbers,
        threshold="true-label PGD leaves > 1 point (and one image) more right than no attack, or than predicted-label PGD",
    )  # fmt: skip


CHECK = Diagnostic(
    9,
    "label leak",
    label_leak,
    alarm="fail: > 1 point more right than without an attack, or than under predicted-label PGD",
)
