"""One attack on one image for the page: with limits, progress, and its effect on both models."""

import logging
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, fields
from typing import Any, Literal, NamedTuple, get_args

import torch
from torch import Tensor

from ironclip import attacks
from ironclip.core import permits
from ironclip.core.errors import IronclipError, UsageError, unknown
from ironclip.core.options import check_choice
from ironclip.core.tensors import norm
from ironclip.core.threat import Norm, Threat, format_eps, parse_eps
from ironclip.core.types import Attack
from ironclip.loops.scoring import quantised
from ironclip.report.pictures import data_uri, difference
from ironclip.serve.limits import Limits
from ironclip.serve.model import Served, attention

Name = Literal["pgd", "apgd", "fgsm", "cw", "mim", "square", "autoattack"]
NAMES = get_args(Name)
FIXED = ("fgsm", "autoattack")
"""Attacks whose length is not the caller's choice."""
Target = Literal["defended", "undefended"]
Event = dict[str, Any]
Tell = Callable[[Event], None]


class Stopped(Exception):
    """The client has left, or the time limit is reached."""


class Ended(NamedTuple):
    """How an attack ended (done, stopped, refused, failed), and its last event: {"event": "result"} or {"event": "error"}."""

    how: str
    last: Event


@dataclass(frozen=True)
class Order:
    """A checked attack: which, how far, how long, on which of the models, away from which class (None: its own answer)."""

    attack: Attack
    name: str
    threat: Threat
    steps: int | None
    target: str
    label: int | None


def order(
    model: Served, *, attack: Name, eps: str, kind: Norm, steps: int, target: Target, label: str | None, seed: int
) -> Order:
    """The attack asked for; `steps` counts queries where an attack has only those, and says nothing to those in `FIXED`.

    Raises:
        UsageError: a name or a number that cannot be right, or a model without gradients.
    """
    if not model.differentiable:
        raise UsageError("an exported model gives no gradients to an attack; serve the run's folder")
    check_choice("target", target, tuple(model.functions))
    if label is not None and label not in model.classes:
        raise unknown("class", label[:100], model.classes)
    known = {field.name for field in fields(attacks.kind(attack))}
    options: dict[str, Any] = {"norm": kind} | ({"seed": seed} if "seed" in known else {})
    if attack not in FIXED:
        options["steps" if "steps" in known else "queries"] = steps
    radius = parse_eps(eps, kind)
    rounded = radius * 255 >= 1 - 1e-6  # 8-bit images cannot hold a smaller radius
    threat = Threat(norm=kind, eps=radius, quantised=rounded)
    made = attacks.build(attack, eps=radius, **options)
    permits.check(made, threat, attack)
    length = None if attack in FIXED else steps
    return Order(made, attack, threat, length, target, None if label is None else model.classes.index(label))


def run(twin: Callable[[], Served], image: Tensor, wanted: Order, limits: Limits, stop: threading.Event, tell: Tell) -> Ended:
    """Attack the twin of the served model, telling progress; what to tell last is returned. Never raises."""
    try:
        return Ended("done", {"event": "result", **_result(twin(), image, wanted, limits, stop, tell)})
    except Stopped as stopped:
        return failure("stopped", str(stopped))
    except IronclipError as problem:
        return failure("refused", " ".join(str(problem).split()))
    except Exception:
        logging.getLogger("ironclip.serve").exception("an attack failed")
        return failure("failed", "the attack failed inside the service; its log says why")


def failure(how: str, why: str) -> Ended:
    """An end without a result."""
    return Ended(how, {"event": "error", "error": why})


def _result(model: Served, image: Tensor, wanted: Order, limits: Limits, stop: threading.Event, tell: Tell) -> Event:
    start, last, calls = time.monotonic(), 0.0, 0
    image = image.to(model.device)
    function = model.functions[wanted.target]
    total = None if wanted.steps is None else wanted.steps + 2

    def watched(images: Tensor) -> Tensor:
        nonlocal calls, last
        now = time.monotonic()
        if stop.is_set():
            raise Stopped("nobody waits for this attack any more")
        if now - start > limits.attack_seconds:
            raise Stopped(f"stopped after {limits.attack_seconds:g} s and {calls} passes; take fewer steps or a shorter attack")
        if now - last > 0.1:
            last = now
            done = calls if total is None else min(calls, total)
            tell({"event": "progress", "done": done, "total": total, "seconds": round(now - start, 2)})
        calls += 1
        return function(images)

    before = {name: _probabilities(model, name, image) for name in model.functions}
    label = wanted.label
    if label is None:
        label = _top(before[wanted.target])
    adv = wanted.attack(watched, image[None], torch.tensor([label]))[0].detach()
    threat = wanted.threat
    if threat.quantised:
        adv = quantised(adv[None], image[None], threat, "round")[0]
    after = {name: _probabilities(model, name, adv) for name in model.functions}
    clean, changed = image.cpu(), adv.cpu()
    amplified, gain = difference(clean, changed)
    maps = {name: [attention(model.functions[name], image), attention(model.functions[name], adv)] for name in model.functions}
    return {
        "attack": wanted.name,
        "eps": format_eps(threat.eps),
        "norm": threat.norm,
        "target": wanted.target,
        "label": model.classes[label],
        "rounded": threat.quantised,
        "distance": format_eps(round(float(norm((changed - clean)[None], threat.norm)) * 255, 3) / 255),
        "passes": calls,
        "seconds": round(time.monotonic() - start, 3),
        "fooled": {name: _top(after[name]) != label for name in after},
        "before": before,
        "after": after,
        "clean": data_uri(clean),
        "adversarial": data_uri(changed),
        "difference": data_uri(amplified),
        "gain": gain,
        "attention": {name: pair for name, pair in maps.items() if pair[0] is not None},
    }


def _probabilities(model: Served, name: str, image: Tensor) -> list[float]:
    with torch.no_grad():
        values: list[float] = model.functions[name](image[None]).float().softmax(1)[0].tolist()
    return values


def _top(probabilities: list[float]) -> int:
    return max(range(len(probabilities)), key=probabilities.__getitem__)
