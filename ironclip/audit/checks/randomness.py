"""Five calls agree (AutoAttack), with and without a gradient.

Five calls on the same images. AutoAttack [code]: number correct varies, or unit-length logits by more than 1e-4.

A classifier whose calls agree must also give the same logits where a gradient is asked for: attacks see those.
"""

import torch
from torch import nn

from ironclip.audit.diagnostic import Diagnostic
from ironclip.audit.forward import CALLS, RANDOM, spread
from ironclip.audit.lab import Lab
from ironclip.audit.results import Finding


def randomness(lab: Lab) -> Finding:
    images = lab.images[: lab.batch_size]
    difference, predictions = spread(lab.classifier, images)
    counts = (predictions == lab.labels[: lab.batch_size]).sum(1)
    bad = difference > RANDOM or bool((counts != counts[0]).any())
    if not bad and lab.gradients:
        with torch.enable_grad():
            asked = lab.classifier(images.detach().clone().requires_grad_()).detach().float()
        unit = [nn.functional.normalize(outputs, dim=-1) for outputs in (asked, lab.logits(images))]
        two_faced = float((unit[0] - unit[1]).abs().max())
        if two_faced > RANDOM:
            return Finding(
                level="fail", value=two_faced,
                threshold=f"unit logits with and without gradients differ by > {RANDOM:g}",
                text="the classifier answers otherwise where a gradient is asked for: attacks see another function",
            )  # fmt: skip
    text = (
        f"outputs change from call to call; every attack was made on the mean of {lab.draws} draws (EOT)"
        if bad
        else "the same images give the same logits"
    )
    return Finding(
        level="warn" if bad else "pass", value=difference,
        threshold=f"unit logits differ by > {RANDOM:g} over {CALLS} calls", text=text,
        numbers={"correct, fewest": float(counts.min()), "correct, most": float(counts.max())},
    )  # fmt: skip


CHECK = Diagnostic(
    3,
    "randomness",
    randomness,
    alarm="warn: unit-length logits differ by > 1e-4; the audit switches to EOT; fail: they differ only where a gradient "
    "is asked for",
    scores=True,
)
