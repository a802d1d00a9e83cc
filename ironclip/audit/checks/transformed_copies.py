"""Shifted, darker or mirrored copies resist as often as the images; half a gray level of noise changes nothing.

A classifier that knows the test images by heart (a table, the nearest stored image) is robust on them alone. Each
image is attacked and each copy that is still right, by PGD with cross-entropy and margin. What counts is the drop of
robust accuracy over pairs in which both are right unattacked, for the kind of copy that loses least. Besides, no answer
may change with noise of half a gray level, which writing an image to a file brings.
"""

from collections.abc import Callable

import torch
from torch import Tensor

from ironclip.audit.diagnostic import Diagnostic
from ironclip.audit.lab import Lab
from ironclip.audit.results import Finding
from ironclip.core.tensors import keyed_uniform

HALF_A_LEVEL = 0.5 / 255
DROP = 0.2


def shifted(images: Tensor) -> Tensor:
    """Moved by a sixteenth of the side in both directions; the edge is repeated."""
    down, right = (max(1, side // 16) for side in images.shape[-2:])
    padded = torch.nn.functional.pad(images, (right, 0, down, 0), mode="replicate")
    return padded[..., : images.shape[-2], : images.shape[-1]]


def darker(images: Tensor) -> Tensor:
    """Contrast lowered to 85 % around a gray of 0.4."""
    return 0.85 * images + 0.06


def mirrored(images: Tensor) -> Tensor:
    return images.flip(-1)


COPIES: dict[str, Callable[[Tensor], Tensor]] = {"shifted": shifted, "darker": darker, "mirrored": mirrored}


def transformed_copies(lab: Lab) -> Finding:
    noise = keyed_uniform(lab.images.shape[1:], lab.seed, lab.indices.tolist(), 4000, device=lab.images.device).to(lab.images)
    noisy = (lab.images + HALF_A_LEVEL * noise).clamp(0, 1)
    flipped = float((~lab.right(noisy, lab.labels)).double().mean())
    numbers = {"wrong after noise of half a gray level": flipped}
    own = lab.white_box()
    drops = {}
    for name, transform in COPIES.items():
        copies = transform(lab.images)
        rows = lab.right(copies, lab.labels).nonzero().flatten()
        numbers[f"right, {name}"] = len(rows) / len(lab)
        if len(rows) < max(5, len(lab) // 10):
            continue
        these = (copies[rows], lab.labels[rows], lab.indices[rows])
        left = torch.ones(len(rows), dtype=torch.bool, device=own.device)
        for loss in ("ce", "margin"):
            left &= lab.attack_these("pgd", these, steps=lab.steps, loss=loss, mode="compact").right
        numbers[f"robust, {name}"], numbers[f"robust, originals of {name}"] = (
            float(part.double().mean()) for part in (left, own[rows])
        )
        lost, won = int((own[rows] & ~left).sum()), int((left & ~own[rows]).sum())
        certain = lost - won > 3 * (lost + won) ** 0.5  # three standard deviations of a fair coin
        drops[name] = (lost - won) / len(rows) if certain else 0.0
    value = min(drops.values(), default=0.0)
    bad, bytewise = value > DROP, flipped > max(0.05, 1 / len(lab))
    if bad:
        text = f"transformed copies lose {value:.0%} of robust accuracy: the test images are known by heart"
    elif bytewise:
        text = f"noise of half a gray level turns {flipped:.0%} of the answers wrong: they belong to the exact bytes"
    elif not drops:
        text = "the classifier gets no transformed copy right"
    else:
        text = f"{', '.join(drops)} copies resist about as often as the images themselves"
    level = "fail" if bad or bytewise else "pass" if drops else "warn"
    return Finding.model_validate(
        {"level": level, "value": value, "text": text, "numbers": numbers,
         "threshold": f"every kind of copy loses > {DROP:.0%} (three standard deviations); or half a gray level of noise "
         "turns > 5 % wrong; warn: no copy is right"}
    )  # fmt: skip


CHECK = Diagnostic(
    19,
    "transformed copies",
    transformed_copies,
    alarm="fail: every kind of copy loses > 20 points (and three standard deviations), or > 5 % turn wrong; warn: no copy"
    " is right",
)
