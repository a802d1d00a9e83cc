"""Diagnostics that compare attacks: radius (D6), strength (D7), scores (D8), noise (D10), convergence (D11), losses (D12)."""

from itertools import pairwise

import torch

from ironclip.audit.lab import Lab
from ironclip.audit.results import Level, Verdict
from ironclip.core.losses import cross_entropy_each
from ironclip.core.tensors import ascend
from ironclip.core.threat import format_eps

FACTORS = (0.25, 0.5, 1, 2, 4, 8)
LARGE = 32 / 255


def radius_sweep(lab: Lab) -> Verdict:
    """D6: robust accuracy does not rise with the radius, and is gone by 32/255 (below 1 % or a tenth of chance)."""
    if lab.eps == 0:
        return _idle("D6", "radius sweep", "radius 0")
    # For l2 the ball around all pictures that differ by 32/255 in every pixel.
    large, most = (LARGE, 1.0) if lab.norm == "linf" else (LARGE * lab.eps / lab.pixel, float("inf"))
    radii = sorted({min(factor * lab.eps, most) for factor in FACTORS} | {large})
    accuracy = {0.0: 1.0} | {eps: lab.pgd(eps=eps).accuracy for eps in radii}
    values = list(accuracy.values())
    rise = max(after - min(values[: place + 1]) for place, after in enumerate(values))
    last = accuracy[max(radii)]
    floor = max(0.01, 0.1 / lab.classes)
    bad = rise > lab.slack(1) or last > floor
    if rise > lab.slack(1):
        text = f"robust accuracy rises by {rise:.1%} with the radius: the attack is misled"
    elif last > floor:
        where = format_eps(max(radii), lab.norm)
        text = f"{last:.1%} withstand {where}, where hardly anything of the picture is left: masked gradients"
    else:
        text = f"falls with the radius, to {last:.1%} at {format_eps(max(radii), lab.norm)}"
    return Verdict(
        id="D6", title="radius sweep", level="fail" if bad else "pass", value=last, text=text,
        threshold=f"rises by > 1 point (and one image), or > {floor:.1%} left at 32/255 a pixel or 8 eps",
        numbers={f"robust at {format_eps(eps, lab.norm)}": value for eps, value in accuracy.items()},
    )  # fmt: skip


def strength_order(lab: Lab) -> Verdict:
    """D7: FGSM >= PGD-10 >= PGD >= PGD with 5 restarts >= AutoAttack in robust accuracy, within 0.5 points."""
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
    return Verdict(
        id="D7", title="order of strength", level="fail" if bad else "pass", value=worst, text=text,
        threshold="a stronger attack leaves > 0.5 points (and one image) more", numbers=ladder,
    )  # fmt: skip


def black_box(lab: Lab) -> Verdict:
    """D8: neither scores alone (Square; AutoAttack's threshold .002 [code]) nor transfer beat the gradient attacks."""
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
    return Verdict(
        id="D8", title="black box against white box", level="fail" if bad else "pass", value=worst, text=text,
        threshold="lowers robust accuracy by > 0.2 points (and one image)", numbers=lost,
    )  # fmt: skip


def noise(lab: Lab, draws: int = 1000) -> Verdict:
    """D10: `draws` uniform draws in the ball, spread over the images that PGD leaves, break at most 0.5 points of them."""
    left = lab.white_box().nonzero().flatten()
    if not len(left):
        return _idle("D10", "random noise", "PGD left no image")
    broken = torch.zeros(len(left), dtype=torch.bool, device=left.device)
    rounds = -(-draws // len(left))
    for number in range(rounds):
        broken |= ~lab.right(lab.random_start(restart=1000 + number)[left], lab.labels[left])
    share = float(broken.double().mean())
    bad = share > 0.005 and int(broken.sum()) > 1
    text = (
        f"plain noise breaks {share:.1%} of what PGD leaves: the attack is too weak"
        if bad
        else "noise breaks nothing that PGD leaves"
    )
    return Verdict(
        id="D10", title="random noise", level="fail" if bad else "pass", value=share, text=text,
        threshold="> 0.5 points (and one image) of the PGD-robust images break", numbers={"draws": float(rounds * len(left))},
    )  # fmt: skip


def convergence(lab: Lab) -> Verdict:
    """D11: the loss rises over the first half of PGD, ends near the best of 5 restarts, and more steps break no more.

    "Rises": the mean loss over the images, from step to step, smoothed over a tenth of the run, in at least 80 % of the
    steps of the first half [inferred: single sign steps of eps / 4 overshoot on robust models too].
    """
    if lab.eps == 0 or lab.steps < 10:
        return _idle("D11", "convergence", "radius 0" if lab.eps == 0 else "fewer than 10 steps")
    losses = torch.stack([_trace(lab, restart) for restart in range(5)])  # [5, steps + 1, B]
    window = max(1, lab.steps // 10)
    mean = losses[0].mean(1)
    smooth = mean.unfold(0, window, 1).mean(1)[: lab.steps // 2 + 1]
    rising = float((smooth.diff() > -1e-4 * mean.abs().max().clamp_min(1e-6)).double().mean())
    best = losses.amax((0, 1))
    gap = float(((best - losses[0].amax(0)) / best.abs().clamp_min(1e-6)).mean())
    more = lab.pgd(steps=5 * lab.steps).accuracy
    gained = lab.pgd().accuracy - more
    bad = rising < 0.8 or gap > 0.05 or gained > lab.slack(0.5)
    reasons = [
        *([f"the loss rises in only {rising:.0%} of the early steps"] if rising < 0.8 else []),
        *([f"one run ends {gap:.0%} below the best of 5"] if gap > 0.05 else []),
        *([f"5 times the steps break {gained:.1%} more"] if gained > lab.slack(0.5) else []),
    ]
    text = "not converged: " + "; ".join(reasons) if bad else "the attack has converged"
    return Verdict(
        id="D11", title="convergence", level="warn" if bad else "pass", value=gained, text=text,
        threshold="loss rises in < 80 % of early steps, ends > 5 % below the best of 5, or 5x steps break > 0.5 points more",
        numbers={"rising": rising, "gap to the best of 5": gap, f"robust at {5 * lab.steps} steps": more},
    )  # fmt: skip


def loss_spread(lab: Lab) -> Verdict:
    """D12: PGD with the margin or the DLR loss breaks no more than with cross-entropy, within 2 points.

    That cross-entropy is the strongest is common on plain robust models, and no alarm: what it hides when it saturates, the
    others would find.
    """
    names = ["ce", "margin"] + (["dlr"] if lab.classes > 2 else [])
    robust = {name: lab.pgd(loss=name).accuracy for name in names}
    strongest = min(robust, key=robust.__getitem__)
    gap = robust["ce"] - robust[strongest]
    bad = gap > lab.slack(2)
    text = (
        f"{strongest} breaks {gap:.1%} more than cross-entropy, which saturates; the minimum is reported"
        if bad
        else "cross-entropy does not saturate"
    )
    return Verdict(
        id="D12", title="losses against each other", level="warn" if bad else "pass", value=gap, text=text,
        threshold="margin or DLR breaks > 2 points (and one image) more than cross-entropy", numbers=robust,
    )  # fmt: skip


def _trace(lab: Lab, restart: int) -> torch.Tensor:
    """[steps + 1, B] losses along PGD from one start."""
    columns = []
    start = lab.random_start(restart)
    for at in range(0, len(lab), lab.batch_size):
        rows = slice(at, at + lab.batch_size)
        values: list[torch.Tensor] = []
        labels = lab.labels[rows]

        def loss(outputs: torch.Tensor, labels: torch.Tensor = labels) -> torch.Tensor:
            return cross_entropy_each(outputs, labels)

        def keep(seen: torch.Tensor, outputs: torch.Tensor, found: torch.Tensor, values: list[torch.Tensor] = values) -> None:
            values.append(found)

        last = ascend(
            lab.attacked, loss, start[rows], lab.images[rows], eps=lab.eps, step_size=lab.eps / 4, steps=lab.steps, kind=lab.norm,
            observe=keep,
        )  # fmt: skip
        columns.append(torch.stack([*values, cross_entropy_each(lab.logits(last, lab.attacked), labels)]))
    return torch.cat(columns, 1)


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


def _idle(name: str, title: str, why: str) -> Verdict:
    level: Level = "not applicable"
    return Verdict(id=name, title=title, level=level, text=why)
