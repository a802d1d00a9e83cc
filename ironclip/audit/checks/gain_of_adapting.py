"""What a test-time defence gains over its base when both are attacked themselves, and what it costs."""

import time

import torch
from torch import Tensor

from ironclip.attacks.eot import EOT
from ironclip.audit.diagnostic import Diagnostic
from ironclip.audit.lab import Lab
from ironclip.audit.results import Finding
from ironclip.core.types import Images


def gain_of_adapting(lab: Lab) -> Finding:
    if lab.base is None:
        return Finding(level="not applicable", text="no test-time defence")
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
    return Finding.model_validate(
        {"level": level, "value": gain, "text": text, "numbers": numbers,
         "threshold": "no gain under an attack on the defence itself"}
    )  # fmt: skip


def _seconds(function: Images, images: Tensor) -> float:
    start = time.perf_counter()
    with torch.no_grad():
        function(images).sum().item()
    return time.perf_counter() - start


CHECK = Diagnostic(17, "gain of adapting", gain_of_adapting, alarm="warn: nothing")
