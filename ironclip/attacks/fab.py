"""Fast Adaptive Boundary attack: the nearest misclassified point, by projections onto the linearised decision boundary.

Source: Croce & Hein 2020 (arXiv 1907.02044); constants [code: fra31/auto-attack]. Deviations: all targets run at once and an
image leaves when any of them breaks it; starts are drawn per image; images that no run breaks are tried once more on the way
to the nearest point found, at the radius and at a quarter and a sixteenth of it, so that `mode="full"` perturbs every image
[inferred].
"""

from dataclasses import dataclass
from functools import partial
from typing import Any, get_args

import torch
from torch import Tensor

from ironclip.attacks import inputs
from ironclip.attacks._goal import TARGETED, Best, Mode, Part, clean_logits, ranked_targets, scores
from ironclip.attacks._hyperplane import onto_hyperplane
from ironclip.attacks._options import AttackOptions
from ironclip.attacks.apgd import start
from ironclip.core import tensors
from ironclip.core.losses import margin_each
from ironclip.core.options import check_choice, check_number
from ironclip.core.tensors import dual, per_image, project, require_finite, value_and_slope
from ironclip.core.threat import Norm
from ironclip.core.types import Images


@dataclass(frozen=True)
class FAB(AttackOptions):
    """Images in the ball and in [0, 1]: where there is one, a misclassified point, close to the image.

    Args:
        eps: radius in the unit of the images; a point further away does not count.
        steps: iterations of each run: a forward and a backward pass, and another forward pass.
        restarts: runs; the first starts at the image, the others at random within eps / 2.
        targets: n: one run towards each of the min(n, K - 1) classes that follow in the clean logits. 0: untargeted, each step
            to the class whose linearised boundary is nearest; K backward passes per step.
        mode: "full": every image, every step; the misclassified point of the highest margin in the ball, the others moved as
            far towards the boundary as the ball allows. "compact": an image leaves once a misclassified point in the ball is
            found, which leaves the robust accuracy as it is if the function is deterministic and treats each image alone.
        alpha_max: largest weight of the projection from the clean image.
        eta: overshoot of the projections.
        beta: share of the distance that is kept when a misclassified point is moved back towards the image.
        eval_mode: run a module in eval mode; False keeps the caller's mode.
        seed: with the index, the restart and the target, the key of each image's start.
    """

    eps: float
    steps: int = 100
    restarts: int = 1
    targets: int = 9
    norm: Norm = "linf"
    mode: Mode = "full"
    alpha_max: float = 0.1
    eta: float = 1.05
    beta: float = 0.9
    eval_mode: bool = True
    seed: int = 0

    def __post_init__(self) -> None:
        super().__post_init__()
        check_choice("mode", self.mode, get_args(Mode))
        check_number("alpha_max", self.alpha_max, 0, 1)
        check_number("eta", self.eta, 1)
        check_number("beta", self.beta, 0, 1)

    @property
    def derived(self) -> dict[str, Any]:
        """Constants that follow from the options."""
        return {"targets": f"min({self.targets}, classes - 1)"} if self.targets else {}

    def perturb(self, function: Images, images: Tensor, labels: Tensor, positions: Tensor) -> Tensor:
        everyone = torch.arange(len(images), device=images.device)
        with inputs.borrowed(function, self.eval_mode):
            clean = clean_logits(function, images, labels, positions)
            right = clean.argmax(1) == labels
            wanted = ranked_targets(clean, labels, self.targets) if self.targets else None
            count = 1 if wanted is None else len(wanted)
            best = Best(images, labels, False)
            if self.mode == "compact":
                best.fooled = ~right
            towards, distance = torch.zeros_like(images), torch.full_like(best.values, torch.inf)
            for restart in range(self.restarts):
                rows = everyone[right] if self.mode == "full" else everyone[~best.fooled]
                for some in rows.split(max(1, len(images) // count)) if len(rows) else ():
                    aims = None if wanted is None else wanted[:, some]
                    part = Part(images[some], labels[some], positions[some], clean[some], aims, "margin")
                    keys = range(1, count + 1) if self.targets else [0]
                    begin = partial(start, images[some], self.eps / 2, self.norm, None, self.seed, positions[some])
                    starts = [begin(key * 2**20 + restart) if restart else images[some] for key in keys]
                    near = approach(
                        function, part, torch.cat(starts), eps=self.eps, steps=self.steps, kind=self.norm,
                        alpha_max=self.alpha_max, eta=self.eta, beta=self.beta, early=self.mode == "compact",
                    )  # fmt: skip
                    for target in range(count):
                        found = part.found(target)
                        best.take(some[found[2]], *[values[found[2]] for values in found])
                        here = slice(target * len(some), (target + 1) * len(some))
                        nearer = near.distance[here] <= distance[some]
                        distance[some] = torch.where(nearer, near.distance[here], distance[some])
                        way = near.points[here] - images[some]
                        towards[some] = torch.where(per_image(nearer, way), way, towards[some])
            if self.mode == "full" and not right.all():
                wrong = everyone[~right]
                towards[wrong] = _uphill(function, images[wrong], labels[wrong], positions[wrong])
            rows = everyone if self.mode == "full" else everyone[~best.fooled]
            for share in (1, 1 / 4, 1 / 16) if len(rows) else ():
                step = share * self.eps / tensors.norm(towards[rows], self.norm).clamp_min(1e-30)
                points = project(images[rows] + per_image(step, images) * towards[rows], images[rows], self.eps, self.norm)
                outputs = scores(function, points)
                best.offer(rows, positions[rows], points, outputs, margin_each(outputs, labels[rows]))
        return best.adv


@dataclass
class Near:
    """The nearest misclassified point of each row and its distance; the last point and infinity where none was found."""

    points: Tensor
    distance: Tensor


def approach(
    function: Images,
    part: Part,
    start: Tensor,
    *,
    eps: float,
    steps: int,
    kind: str,
    alpha_max: float = 0.1,
    eta: float = 1.05,
    beta: float = 0.9,
    early: bool = False,
) -> Near:
    """One run of FAB for every row of `part`; misclassified points in the ball go to `part.observe`.

    Args:
        early: drop the rows of an image once such a point is found for any of its targets.
    """
    near = Near(start.clone(), torch.full((len(start),), torch.inf, device=start.device, dtype=start.dtype))
    rows, points = torch.arange(len(start), device=start.device), start
    for _ in range(steps):
        if early and not (still := part.going(rows)).all():
            rows, points = rows[still], points[still]
        if not len(rows):
            break
        images, labels = part.images[rows], part.labels[rows]
        excess, normal = _boundary(function, points, labels, part.goal.targets, rows, part.names[rows], kind)
        centre_excess = excess + (normal * (images - points)).flatten(1).sum(1)
        ways = onto_hyperplane(
            torch.cat([points, images]).flatten(1),
            torch.cat([normal, normal]).flatten(1),
            torch.cat([excess, centre_excess]),
            kind,
        )
        lengths = tensors.norm(ways, kind).clamp_min(1e-8)
        (here, back), (length, back_length) = ways.view(2, *points.shape), lengths.view(2, -1)
        alpha = per_image((length / (length + back_length)).clamp(0, alpha_max), points)
        points = ((1 - alpha) * (points + eta * here) + alpha * (images + eta * back)).clamp(0, 1)
        outputs = scores(function, points)
        wrong, distance = outputs.argmax(1) != labels, tensors.norm(points - images, kind)
        inside = wrong & (distance <= eps)
        part.observe(rows[inside], points[inside], outputs[inside], margin_each(outputs, labels)[inside])
        nearer = torch.where(wrong, distance < near.distance[rows], near.distance[rows].isinf())
        near.points[rows[nearer]] = points[nearer]
        near.distance[rows] = torch.where(wrong, distance.minimum(near.distance[rows]), near.distance[rows])
        points = torch.where(per_image(wrong, points), images + beta * (points - images), points)
    return near


def _boundary(
    function: Images, points: Tensor, labels: Tensor, targets: Tensor | None, rows: Tensor, names: Tensor, kind: str
) -> tuple[Tensor, Tensor]:
    """([R] target's logit minus the true one, its gradient [R, ...]); without targets, of the class whose boundary is nearest."""
    if targets is not None:
        return value_and_slope(function, lambda logits: TARGETED["margin"](logits, labels, targets[rows]), points, names)[1:]
    with torch.enable_grad():
        leaf = points.detach().requires_grad_()
        logits = function(leaf)
        margins = logits - logits.gather(1, labels[:, None])
        nearest = torch.full_like(logits[:, 0], torch.inf)
        excess, normal = torch.zeros_like(nearest), torch.zeros_like(points)
        for k in range(logits.shape[1]):
            (slope,) = torch.autograd.grad(margins[:, k].sum(), leaf, retain_graph=k + 1 < logits.shape[1])
            require_finite("the output or its gradient", slope.flatten(1).isfinite().all(1) & logits[:, k].isfinite(), names)
            steepness = dual(slope, kind)
            distance = torch.where(labels == k, torch.inf, margins[:, k].detach().abs() / (steepness + 1e-12))
            closer = distance < nearest
            nearest = torch.where(closer, distance, nearest)
            excess = torch.where(closer, margins[:, k].detach(), excess)
            normal = torch.where(per_image(closer, slope), slope, normal)
    return excess.detach(), normal


def _uphill(function: Images, images: Tensor, labels: Tensor, names: Tensor) -> Tensor:
    """The direction in which the margin of already misclassified images rises."""
    return value_and_slope(function, lambda logits: margin_each(logits, labels), images, names)[2].sign()


ATTACK = FAB
