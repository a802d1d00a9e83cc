"""FGSM, PGD-10, PGD, 5 restarts, AutoAttack in this order.

FGSM >= PGD-10 >= PGD >= PGD with 5 restarts >= AutoAttack in robust accuracy, within 0.5 points. A reversal is a fail where
chance does not explain it (McNemar's test on the images that one of the two attacks breaks alone), else a warning: a stronger
attack may miss single images on any classifier.
"""

from itertools import pairwise

from ironclip.audit.diagnostic import Diagnostic
from ironclip.audit.lab import Lab
from ironclip.audit.results import Finding
from ironclip.records.statistics import mcnemar

CHANCE = 0.05


def strength_order(lab: Lab) -> Finding:
    right = {
        "fgsm": lab.attack("fgsm").right,
        "pgd-10": lab.pgd(steps=min(10, lab.steps)).right,
        f"pgd-{lab.steps}": lab.pgd().right,
        f"pgd-{lab.steps}x5": lab.pgd(restarts=5).right,
        "autoattack" if lab.steps >= 100 else "autoattack, shortened": lab.attack(
            "autoattack", steps=lab.steps, queries=lab.queries
        ).right,
    }
    ladder = {name: float(each.double().mean()) for name, each in right.items()}
    jumps = {(weak, strong): ladder[strong] - ladder[weak] for weak, strong in pairwise(ladder)}
    (weak, strong), worst = max(jumps.items(), key=lambda jump: jump[1])
    alone, others = (right[strong] & ~right[weak]).sum(), (right[weak] & ~right[strong]).sum()
    chance = mcnemar(int(alone), int(others))
    more = worst > lab.slack(0.5)
    bad = more and chance < CHANCE
    doubt = "" if bad else f", on {alone} images against {others}: single images, or too few to tell"
    text = f"{weak} breaks more than the stronger {strong}{doubt}" if more else "stronger attacks break at least as much"
    return Finding(
        level="fail" if bad else "warn" if more else "pass", value=worst, text=text,
        threshold="a stronger attack leaves > 0.5 points (and one image) more; McNemar's p < 0.05, else a warning",
        numbers={**ladder, "p of the largest reversal": chance},
    )  # fmt: skip


CHECK = Diagnostic(
    7,
    "order of strength",
    strength_order,
    alarm="fail: a stronger attack leaves > 0.5 points more, beyond chance; warn: perhaps by chance",
)
