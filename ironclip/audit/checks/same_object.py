"""The attacked object is the reported one: their clean accuracies agree."""

import torch

from ironclip.audit.diagnostic import Diagnostic
from ironclip.audit.lab import Lab
from ironclip.audit.results import Finding


def same_object(lab: Lab) -> Finding:
    if lab.reported is None:
        return Finding(level="not applicable", text="no reported predictions given")
    images = torch.cat([lab.images, lab.wrong[0]])
    labels = torch.cat([lab.labels, lab.wrong[1]])
    attacked = (lab.logits(images, lab.attacked).argmax(1) == labels).double().mean()
    reported = (lab.reported.to(labels) == labels).double().mean()
    off = abs(float(attacked - reported))
    random = lab.draws > 1
    bad = off > 0.001 + (1 / len(labels) if random else 0)
    text = (
        f"attacks see an object with clean accuracy {attacked:.1%}, the report speaks of one with {reported:.1%}"
        if bad
        else "attacks see the object that is reported"
    )
    level = ("warn" if random else "fail") if bad else "pass"
    return Finding.model_validate(
        {"level": level, "value": off,
         "threshold": "clean accuracies differ by > 0.1 points", "text": text}
    )  # fmt: skip


CHECK = Diagnostic(
    16,
    "attacked object is the reported one",
    same_object,
    alarm="fail: clean accuracies differ by > 0.1 points",
    scores=True,
)
