"""Radius sweep from 1/4 to 8 radii and 32/255.

Robust accuracy does not rise with the radius, and is gone by 32/255 (below 1 % or a tenth of chance).
"""

from ironclip.audit.diagnostic import Diagnostic, idle
from ironclip.audit.lab import Lab
from ironclip.audit.results import Finding
from ironclip.core.threat import format_eps

FACTORS = (0.25, 0.5, 1, 2, 4, 8)
LARGE = 32 / 255


def radius_sweep(lab: Lab) -> Finding:
    if lab.eps == 0:
        return idle("radius 0")
    # For l2 the ball around all images that differ by 32/255 in every pixel.
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
        text = f"{last:.1%} withstand {where}, where hardly anything of the image is left: masked gradients"
    else:
        text = f"falls with the radius, to {last:.1%} at {format_eps(max(radii), lab.norm)}"
    return Finding(
        level="fail" if bad else "pass", value=last, text=text,
        threshold=f"rises by > 1 point (and one image), or > {floor:.1%} left at 32/255 per pixel or 8 eps",
        numbers={f"robust at {format_eps(eps, lab.norm)}": value for eps, value in accuracy.items()},
    )  # fmt: skip


CHECK = Diagnostic(
    6,
    "radius sweep",
    radius_sweep,
    alarm="fail: rises by > 1 point, or > 1 % (a tenth of chance) left at the end",
)
