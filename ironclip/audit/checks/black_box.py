"""Square and transfer break no images that survive the gradient attacks.

Neither scores alone (Square; AutoAttack's threshold .002 [code]) nor transfer beat the gradient attacks.
"""

import torch

from ironclip.audit.diagnostic import Diagnostic
from ironclip.audit.lab import Lab
from ironclip.audit.results import Finding


def black_box(lab: Lab) -> Finding:
    white = lab.white_box() & lab.pgd(restarts=5).right
    lost = {"square": _lost(white, _square(lab, white))}
    for number, source in enumerate(lab.sources, 1):
        made = lab.attack("pgd", on=source, steps=lab.steps, mode="full", loss="margin")
        lost[f"transfer {number}"] = _lost(white, made.right)
    worst = max(lost.values())
    bad = worst > lab.slack(0.2)
    text = (
        f"{max(lost, key=lambda name: lost[name])} breaks {worst:.1%} that gradients do not: gradients are masked"
        if bad
        else f"{' and '.join(lost)} found nothing that gradients do not"
    )
    return Finding(
        level="fail" if bad else "pass", value=worst, text=text,
        threshold="lowers robust accuracy by > 0.2 points (and one image)", numbers=lost,
    )  # fmt: skip


def _square(lab: Lab, alive: torch.Tensor) -> torch.Tensor:
    """[B] right under Square, run on the images still alive."""
    rows = alive.nonzero().flatten()
    right = alive.clone()
    if len(rows):
        these = (lab.images[rows], lab.labels[rows], lab.indices[rows])
        right[rows] = lab.attack_these("square", these, queries=lab.queries, on=lab.classifier).right
    return right


def _lost(white: torch.Tensor, right: torch.Tensor) -> float:
    return float((white & ~right).double().mean())


CHECK = Diagnostic(8, "black box against white box", black_box, alarm="fail: > 0.2 points")
