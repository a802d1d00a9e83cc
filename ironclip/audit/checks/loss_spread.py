"""Attacks on the margin and on DLR break no more images than cross-entropy, which fails on large logits.

On plain robust models cross-entropy is often the strongest attack; that is no alarm. Where it saturates, the other losses break
more images.
"""

from ironclip.audit.diagnostic import Diagnostic
from ironclip.audit.lab import Lab
from ironclip.audit.results import Finding


def loss_spread(lab: Lab) -> Finding:
    names = ["ce", "margin"] + (["dlr"] if lab.classes > 2 else [])
    robust = {name: lab.pgd(loss=name).accuracy for name in names}
    strongest = min(robust, key=robust.__getitem__)
    gap = robust["ce"] - robust[strongest]
    bad = gap > lab.slack(2)
    text = (
        f"{strongest} breaks {gap:.1%} more than cross-entropy, saturated or simply weaker here; the minimum is reported"
        if bad
        else "cross-entropy does not saturate"
    )
    return Finding(
        level="warn" if bad else "pass", value=gap, text=text,
        threshold="margin or DLR breaks > 2 points (and one image) more than cross-entropy", numbers=robust,
    )  # fmt: skip


CHECK = Diagnostic(12, "losses against each other", loss_spread, alarm="warn: > 2 points; the minimum counts")
