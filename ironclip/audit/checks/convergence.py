"""PGD has converged: rises early, one run ends near the best of five, 5 times the steps break no more.

The loss rises over the first half of PGD, ends near the best of 5 restarts, and more steps break no more.

"Rises": the mean loss over the images, from step to step, smoothed over a tenth of the run, in at least 80 % of the
steps of the first half [inferred: single sign steps of eps / 4 overshoot on robust models too].
"""

import torch

from ironclip.audit.diagnostic import Diagnostic, idle
from ironclip.audit.lab import Lab
from ironclip.audit.results import Finding
from ironclip.core.losses import cross_entropy_each
from ironclip.core.tensors import ascend


def convergence(lab: Lab) -> Finding:
    if lab.eps == 0 or lab.steps < 10:
        return idle("radius 0" if lab.eps == 0 else "fewer than 10 steps")
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
    return Finding(
        level="warn" if bad else "pass", value=gained, text=text,
        threshold="loss rises in < 80 % of early steps, ends > 5 % below the best of 5, or 5x steps break > 0.5 points more",
        numbers={"rising": rising, "gap to the best of 5": gap, f"robust at {5 * lab.steps} steps": more},
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


CHECK = Diagnostic(11, "convergence", convergence, alarm="warn")
