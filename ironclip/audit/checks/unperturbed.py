"""Every image is perturbed, also those misclassified before; the attack sees the defence."""

import torch

from ironclip.audit.diagnostic import Diagnostic
from ironclip.audit.lab import Lab
from ironclip.audit.results import Finding


def unperturbed(lab: Lab) -> Finding:
    images, labels, indices = (torch.cat(pair) for pair in zip((lab.images, lab.labels, lab.indices), lab.wrong, strict=True))
    if lab.eps == 0:
        return Finding(level="not applicable", text="radius 0")
    made = lab.attack_these("pgd", (images, labels, indices), steps=min(lab.steps, 10), mode="full")
    share = float((made.adv == images).flatten(1).all(1).double().mean())
    inside = "in" if lab.knowledge in ("white-box", "adaptive") else "not in"
    text = f"{share:.1%} of the images reach the classifier as they were; the defence is {inside} the attack ({lab.knowledge})"
    level = "fail" if share > 0 else "pass" if inside == "in" else "warn"
    return Finding.model_validate(
        {"level": level, "value": share, "text": text,
         "threshold": "any image handed over unperturbed; warn: the defence is not in the attack"}
    )  # fmt: skip


CHECK = Diagnostic(14, "unperturbed images", unperturbed, alarm="fail: any is not; warn: static")
