"""Outputs are logits, not probabilities.

Source: AutoAttack [code]: all in [0, 1] and rows sum to 1 within 1e-5.
"""

from ironclip.audit.diagnostic import Diagnostic
from ironclip.audit.lab import Lab
from ironclip.audit.results import Finding


def output_type(lab: Lab) -> Finding:
    logits = lab.logits(lab.images)
    off = float((logits.sum(1) - 1).abs().max())
    inside = bool(((logits >= 0) & (logits <= 1)).all())
    bad = inside and off < 1e-5
    text = (
        "the outputs are probabilities: cross-entropy on them loses its gradient; hand out logits"
        if bad
        else "the outputs are logits"
    )
    return Finding(
        level="fail" if bad else "pass", value=off,
        threshold="rows in [0, 1] that sum to 1 within 1e-5", text=text,
    )  # fmt: skip


CHECK = Diagnostic(2, "output type", output_type, alarm="fail: rows in [0, 1] that sum to 1", scores=True)
