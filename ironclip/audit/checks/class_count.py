"""The number of targets for AutoAttack, which uses 9; with fewer than 10 classes there are K - 1."""

from ironclip.audit.diagnostic import Diagnostic
from ironclip.audit.lab import Lab
from ironclip.audit.results import Finding

TARGETS = 9


def class_count(lab: Lab) -> Finding:
    targets = min(TARGETS, lab.classes - 1)
    losses = "cross-entropy and margin" if lab.classes < 3 else "cross-entropy, margin and DLR"
    text = f"{lab.classes} classes: {targets} targets" + (f" instead of {TARGETS}" if targets < TARGETS else "")
    return Finding(
        level="pass", value=float(lab.classes),
        threshold="none: targets are reduced and said so", text=f"{text}; losses: {losses}",
    )  # fmt: skip


CHECK = Diagnostic(5, "classes and targets", class_count, alarm="none; says how many targets there are", scores=True)
