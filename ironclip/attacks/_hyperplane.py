"""The shortest step onto a hyperplane inside the box, for many images at once."""

import torch
from torch import Tensor

from ironclip.core.options import check_choice


def onto_hyperplane(points: Tensor, normal: Tensor, excess: Tensor, kind: str) -> Tensor:
    """[R, n] shortest d with <normal, points + d> = <normal, points> - excess and points + d in [0, 1].

    Each coordinate moves towards the side of the box that lowers |excess| by min(lambda * v, room), v = 1 for l-infinity and
    |normal| for l2; lambda solves a concave piecewise-linear equation, found by Newton's method from the left: the reference
    sorts all coordinates instead [code: fra31/auto-attack, fab_projections.py]. Coordinates with a gradient of zero stay. If the
    box is too small, every coordinate goes to its side.

    Args:
        points: [R, n] in [0, 1].
        normal: [R, n].
        excess: [R] signed; by how much <normal, points> lies above the hyperplane.
        kind: "linf" or "l2"; UsageError for another.
    """
    check_choice("norm", kind, ("linf", "l2"))
    down = -(normal * excess.sign()[:, None]).sign()
    weight = normal.abs()
    speed = torch.ones_like(weight) if kind == "linf" else weight
    room = torch.where(down > 0, 1 - points, points) * down.abs()
    wall = room / speed.clamp_min(1e-30)
    gain, slope, missing = weight * room, weight * speed, excess.abs()
    reach = torch.zeros_like(missing)
    while True:
        free = wall > reach[:, None]
        left = (slope * free).sum(1)
        aim = (missing - (gain * ~free).sum(1)) / left.clamp_min(1e-30)
        aim = torch.where(left > 0, aim, reach)
        ahead = aim > reach
        if not ahead.any():
            break
        reach = torch.where(ahead, aim, reach)
    exhausted = (gain.sum(1) <= missing)[:, None]
    return down * torch.where(exhausted, room, torch.minimum(reach[:, None] * speed, room))
