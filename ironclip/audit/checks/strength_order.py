"""FGSM, PGD-10, PGD, 5 restarts, AutoAttack in this order.

FGSM >= PGD-10 >= PGD >= PGD with 5 restarts >= AutoAttack in robust accuracy, within 0.5 points.
"""

from itertools import pairwise

from ironclip.audit.diagnostic import Diagnostic
from ironclip.audit.lab import Lab
from ironclip.audit.results import Finding


def strength_order(lab: Lab) -> Finding:
    ladder = {
        "fgsm": lab.attack("fgsm").accuracy,
        "pgd-10": lab.pgd(steps=min(10, lab.steps)).accuracy,
        f"pgd-{lab.steps}": lab.pgd().accuracy,
        f"pgd-{lab.steps}x5": lab.pgd(restarts=5).accuracy,
    }
    ladder["autoattack" if lab.steps >= 100 else "autoattack, shortened"] = lab.attack(
        "autoattack", steps=lab.steps, queries=lab.queries
    ).accuracy
    values = list(ladder.values())
    jumps = [after - before for before, after in pairwise(values)]
    worst = max(jumps)
    bad = worst > lab.slack(0.5)
    weak, strong = list(ladder)[jumps.index(worst)], list(ladder)[jumps.index(worst) + 1]
    text = f"{weak} breaks more than the stronger {strong}" if bad else "stronger attacks break at least as much"
    return Finding(
        level="fail" if bad else "pass", value=worst, text=text,
        threshold="a stronger attack leaves > 0.5 points (and one image) more", numbers=ladder,
    )  # fmt: skip


CHECK = Diagnostic(7, "order of strength", strength_order, alarm="fail: a stronger attack leaves > 0.5 points more")
