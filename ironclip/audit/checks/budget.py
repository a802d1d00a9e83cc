"""Every image scored by a diagnostic is in the ball, in [0, 1] and finite."""

from ironclip.audit.diagnostic import Diagnostic
from ironclip.audit.lab import Lab
from ironclip.audit.results import Finding

TOLERANCE = 1e-6


def budget(lab: Lab) -> Finding:
    worst = lab.worst
    bad = worst["excess"] > TOLERANCE or worst["outside"] > 0 or worst["finite"] < 1
    text = (
        "images left the ball or the box: the accuracies belong to another threat model"
        if bad
        else f"{worst['images']:.0f} images scored, all inside"
    )
    return Finding(
        level="fail" if bad else "pass", value=worst["excess"], text=text,
        threshold="max |x' - x| > eps + 1e-6, outside [0, 1], or NaN", numbers=dict(worst),
    )  # fmt: skip


CHECK = Diagnostic(15, "budget", budget, alarm="fail", last=True)
