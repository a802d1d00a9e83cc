"""Norms, projection, keyed random numbers and gradient ascent on any objective: the building blocks of attacks."""

import hashlib
import math
import struct
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from ironclip.core import philox
from ironclip.core.errors import NonFinite, UsageError
from ironclip.core.options import check_choice
from ironclip.core.threat import NORMS, PLACES

DOUBLE = ("cpu", "cuda")
"""Kinds of devices with 64-bit floats."""


def key(*parts: int) -> int:
    """A 63-bit seed from 64-bit integers; neighbouring parts give unrelated seeds. UsageError: one is larger."""
    try:
        packed = struct.pack(f"<{len(parts)}q", *parts)
    except struct.error:
        raise UsageError(f"a seed is a whole number of at most 64 bits; got {max(parts, key=abs)}") from None
    return int.from_bytes(hashlib.blake2b(packed, digest_size=8).digest(), "little") >> 1


def generator(*parts: int) -> torch.Generator:
    """A CPU generator keyed by integers, e.g. (seed, dataset index, restart)."""
    return torch.Generator().manual_seed(key(*parts))


def keyed_uniform(
    shape: Sequence[int], seed: int, indices: Sequence[int], restart: int = 0, device: torch.device | str = "cpu"
) -> Tensor:
    """[len(indices), *shape] uniform in [-1, 1), each row from its own key (seed, index, restart); the same on every device."""
    if not len(indices):
        return torch.empty(0, *shape, device=device)
    rows = philox.uniform([key(seed, int(index), restart) for index in indices], math.prod(shape), device)
    return rows.view(-1, *shape)


def per_image(values: Tensor, like: Tensor) -> Tensor:
    """values [B] viewed so that they broadcast over like [B, ...]."""
    return values.reshape(-1, *[1] * (like.ndim - 1))


def doubled(values: Tensor) -> Tensor:
    """The values in float64, on the CPU where their device has none (Apple's)."""
    return values.double() if values.device.type in DOUBLE else values.cpu().double()


def norm(delta: Tensor, kind: str) -> Tensor:
    """[B] length of each row of delta [B, ...]; UsageError for an unknown norm.

    "patch", "text": the share of the area of the smallest rectangle around all pixels that are not 0, for delta [B, C, H, W].
    """
    check_choice("norm", kind, NORMS)
    if kind in PLACES:
        return _covered(delta)
    flat = delta.flatten(1)
    return flat.abs().amax(1) if kind == "linf" else flat.norm(dim=1, p=1 if kind == "l1" else 2)


def _covered(delta: Tensor) -> Tensor:
    """[B] share of the area of the rectangle around what is not 0."""
    moved = (delta != 0).any(1)
    sides = []
    for line in (moved.any(2), moved.any(1)):
        places = torch.arange(line.shape[1], device=line.device)
        last = torch.where(line, places, -1).amax(1)
        first = torch.where(line, places, line.shape[1]).amin(1)
        sides.append((last - first + 1).clamp_min(0) / line.shape[1])
    return (sides[0] * sides[1]).to(delta)


def dual(slope: Tensor, kind: str) -> Tensor:
    """[B] how fast a linear function with this gradient rises along its steepest direction of unit length in this norm."""
    check_choice("norm", kind, NORMS)
    _refuse_place(kind)
    return norm(slope, {"linf": "l1", "l1": "linf"}.get(kind, kind))


def project(adv: Tensor, images: Tensor, eps: float, kind: str = "linf", *, box: bool = True) -> Tensor:
    """The point of ball(images, eps) and [0, 1] for each adv.

    Exact for l-infinity, and for l1 (Croce & Hein 2021, arXiv 2103.01208, proposition 2.1: the nearest point of ball and box
    together). For l2 the box is applied to the scaled point, which stays in the ball because the box is
    convex and contains the centre. Without `box` only the ball is enforced. UsageError for an unknown norm.
    """
    check_choice("norm", kind, NORMS)
    _refuse_place(kind)
    if kind == "l1":
        inside = images + _onto_l1(adv - images, images if box else None, eps)
    elif kind == "linf":
        inside = torch.minimum(torch.maximum(adv, images - eps), images + eps)
    else:
        delta = adv - images
        scale = (eps / norm(delta, "l2").clamp_min(1e-12)).clamp_max(1.0)
        inside = images + delta * per_image(scale, delta)
    return inside.clamp(0, 1) if box else inside


def _refuse_place(kind: str) -> None:
    if kind in PLACES:
        raise UsageError(f"a {kind} is no ball around an image; use the attack that is made for it")


def _onto_l1(delta: Tensor, images: Tensor | None, eps: float) -> Tensor:
    """The nearest change of l1 length at most eps; with images [B, ...] in [0, 1], that keeps them there.

    It is sign(u) min(max(|u| - t, 0), room) with the smallest t >= 0 that fits. Its length falls piecewise linearly as t grows;
    t lies in the piece between two of the sorted bends |u| and |u| - room.
    """
    flat = doubled(delta.flatten(1))
    size = flat.abs()
    room = size
    if images is not None:
        centre = doubled(images.flatten(1)).clamp(0, 1)
        room = torch.where(flat > 0, 1 - centre, centre)
    bends, order = torch.cat([size, (size - room).clamp_min(0)], 1).sort(1, descending=True)
    pieces = torch.cat([torch.ones_like(size), -torch.ones_like(size)], 1).gather(1, order).cumsum(1)
    lengths = torch.zeros_like(bends)
    lengths[:, 1:] = (pieces[:, :-1] * (bends[:, :-1] - bends[:, 1:])).cumsum(1)
    place = ((lengths <= eps).sum(1, keepdim=True) - 1).clamp_min(0)
    bend, length, piece = (part.gather(1, place) for part in (bends, lengths, pieces))
    over = torch.minimum(size, room).sum(1, keepdim=True) > eps
    less = torch.where(over, bend - (eps - length) / piece.clamp_min(1), 0)
    return (flat.sign() * torch.minimum((size - less).clamp_min(0), room)).to(delta).view_as(delta)


def steepest(slope: Tensor, kind: str = "linf") -> Tensor:
    """The direction of unit length in which a linear function with this gradient rises most; for l1 that is one coordinate.
    UsageError for an unknown norm."""
    check_choice("norm", kind, NORMS)
    _refuse_place(kind)
    if kind == "l1":
        flat = slope.flatten(1)
        most = flat.abs().argmax(1, keepdim=True)
        return torch.zeros_like(flat).scatter(1, most, flat.gather(1, most).sign()).view_as(slope)
    if kind == "linf":
        return slope.sign()
    return slope / per_image(norm(slope, "l2").clamp_min(1e-12), slope)


def require_finite(what: str, rows: Tensor, names: Tensor | None = None) -> None:
    """NonFinite naming the images of rows [B] that are not all true; `names` [B] are their dataset positions."""
    if not rows.all():
        bad = (~rows).nonzero().flatten() if names is None else names.to(rows.device)[~rows]
        some = ", ".join(str(index) for index in bad[:8].tolist()) + (", ..." if len(bad) > 8 else "")
        raise NonFinite(f"{what} is not finite for images {some}; check the model's output and run it in float32")


def value_and_slope(
    function: Callable[[Tensor], Tensor],
    loss: Callable[[Tensor], Tensor],
    images: Tensor,
    names: Tensor | None = None,
) -> tuple[Tensor, Tensor, Tensor]:
    """(outputs [B, ...], loss values [B], gradient of their sum with respect to the images); touches no other gradient.

    Raises:
        UsageError: the outputs do not depend on the images on the autograd path.
        NonFinite: a value or a gradient is NaN or infinite; sign(NaN) is 0 and would silently stop an attack.
    """
    with torch.enable_grad():
        leaf = images.detach().requires_grad_()
        outputs = function(leaf)
        values = loss(outputs)
        if not values.requires_grad:
            raise UsageError("the attacked function has no gradient with respect to the images; use a black-box attack or BPDA")
        (slope,) = torch.autograd.grad(values.sum(), leaf)
    values = values.detach()
    require_finite("the loss or its gradient", values.isfinite() & slope.flatten(1).isfinite().all(1), names)
    return outputs.detach(), values, slope


def ascend(
    function: Callable[[Tensor], Tensor],
    loss: Callable[[Tensor], Tensor],
    start: Tensor,
    images: Tensor,
    *,
    eps: float,
    step_size: float,
    steps: int,
    kind: str = "linf",
    box: bool = True,
    observe: Callable[[Tensor, Tensor, Tensor], None] | None = None,
    direction: Callable[[Tensor], Tensor] | None = None,
    names: Tensor | None = None,
) -> Tensor:
    """The last iterate of projected steepest ascent on loss(function(.)).

    Args:
        function: images [B, ...] -> outputs [B, ...]; must treat each image alone.
        loss: outputs -> [B] values to raise.
        start: [B, ...] first iterate, already inside the ball (and the box).
        images: [B, ...] centre of the ball.
        box: iterates stay in [0, 1]. Without it they stay in the ball only; value and gradient are those of the clipped iterate.
        observe: called with every evaluated (clipped) iterate, its outputs and values; not with the returned iterate.
        direction: gradient -> step of unit length; default: the steepest one.
        names: [B] dataset positions, for error messages.
    """
    adv = start.detach()
    for _ in range(steps):
        seen = adv if box else adv.clamp(0, 1)
        outputs, values, slope = value_and_slope(function, loss, seen, names)
        if observe is not None:
            observe(seen, outputs, values)
        step = steepest(slope, kind) if direction is None else direction(slope)
        adv = project(adv + step_size * step, images, eps, kind, box=box)
    return adv


def _modules(functions: Iterable[object]) -> list[nn.Module]:
    """The modules among the functions, and those whose methods they are."""
    owners = [f if isinstance(f, nn.Module) else getattr(f, "__self__", None) for f in functions]
    return [owner for owner in owners if isinstance(owner, nn.Module)]


@contextmanager
def frozen(*functions: object) -> Iterator[None]:
    """Parameters of the modules among `functions` ask for no gradient inside; flags come back as they were."""
    parameters = [p for module in _modules(functions) for p in module.parameters() if p.requires_grad]
    for parameter in parameters:
        parameter.requires_grad_(False)
    try:
        yield
    finally:
        for parameter in parameters:
            parameter.requires_grad_(True)


@contextmanager
def evaluating(*functions: object) -> Iterator[None]:
    """Modules among `functions` are in eval mode inside; every submodule's own mode comes back."""
    modules = [m for module in _modules(functions) for m in module.modules() if m.training]
    for module in modules:
        module.training = False
    try:
        yield
    finally:
        for module in modules:
            module.training = True
