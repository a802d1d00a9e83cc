"""Over a step of PGD (eps / 4), along random directions, the gradient predicts the change.

Cosine between predicted and measured changes of the margin, over all directions and images. A function that is smooth
but steep at a finer scale than the attack's step has an exact gradient that tells the attack nothing.
"""

import torch

from ironclip.audit.diagnostic import Diagnostic
from ironclip.audit.differences import AUDIBLE, changes, directions, no_fixed_gradient, point_and_slope, rounding
from ironclip.audit.lab import Lab
from ironclip.audit.results import Finding, Level

PART = 0.25
"""Length of PGD's step in radii."""


def one_step(lab: Lab) -> Finding:
    unable = no_fixed_gradient(lab)
    if unable is not None:
        return unable
    point, slope = point_and_slope(lab, PART)
    noise, precision = rounding(lab, point, slope)
    real, predicted = changes(lab, point, slope, directions(lab), PART * lab.pixel)
    loud = real.norm(dim=0) > AUDIBLE * noise * len(real) ** 0.5
    if loud.double().mean() < 0.5:
        text = f"the model computes in {precision}: no change over a step exceeds its rounding noise"
        return Finding(level="not applicable", text=text)
    real, predicted = (part / real.norm(dim=0).clamp_min(1e-30) for part in (real, predicted))
    cosines = torch.nn.functional.cosine_similarity(real[:, loud], predicted[:, loud], dim=0)
    value = float(cosines.median())
    level: Level = "fail" if value < 0.5 else "warn" if value < 0.8 else "pass"  # smooth models lie above 0.95
    text = (
        "the gradient tells little about a step of the attack: the function is rougher than the step (quantised or steep)"
        if level != "pass"
        else "the gradient foretells the change over a step of the attack"
    )
    return Finding(
        level=level, value=value, text=text,
        threshold="median cosine of predicted and measured changes over eps / 4 along random directions < 0.5; warn: < 0.8",
        numbers={"cosine, lowest tenth": float(cosines.quantile(0.1))},
    )  # fmt: skip


CHECK = Diagnostic(18, "gradient over a step of PGD", one_step, alarm="fail: median cosine < 0.5; warn: < 0.8")
