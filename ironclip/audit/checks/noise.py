"""1000 uniform draws in the ball, spread over the images that PGD leaves, break none of them."""

import torch

from ironclip.audit.diagnostic import Diagnostic, idle
from ironclip.audit.lab import Lab
from ironclip.audit.results import Finding


def noise(lab: Lab, draws: int = 1000) -> Finding:
    left = lab.white_box().nonzero().flatten()
    if not len(left):
        return idle("PGD left no image")
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
    return Finding(
        level="fail" if bad else "pass", value=share, text=text,
        threshold="> 0.5 points (and one image) of the PGD-robust images break", numbers={"draws": float(rounds * len(left))},
    )  # fmt: skip


CHECK = Diagnostic(10, "random noise", noise, alarm="fail: > 0.5 points")
