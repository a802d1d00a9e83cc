"""What a threat model permits an attack: its norm, its radius, no target, a real search. Wrapped attacks are checked, too.

An attack may be a dataclass, a `functools.partial`, a function with a closure, or an object that holds other attacks (an average
over draws, the members of AutoAttack, a user's wrapper). Imports no torch.
"""

import copy
import dataclasses
import functools
import inspect
import math
from collections.abc import Iterator, Mapping
from typing import Any

from ironclip.core.errors import UsageError
from ironclip.core.threat import Threat, format_eps, parse_eps

RESERVED = {
    "eps": "--eps (in Python eps=)",
    "norm": "--norm (in Python norm=)",
    "targeted": "--targeted RULE (in Python targeted=), which measures another success",
}
"""Options of attacks that belong to the threat model -> the option of the command line that sets them."""
SAME = {
    "linf": "linf",
    "inf": "linf",
    "l2": "l2",
    "2": "l2",
    "2.0": "l2",
    "l1": "l1",
    "1": "l1",
    "1.0": "l1",
    "patch": "patch",
    "text": "text",
}
STILL = 2.0**-24  # a way that float32 cannot add to a pixel
CLOSE = 1e-9


def refuse_reserved(name: str, *, eps: bool = True) -> None:
    """UsageError where an option (dotted or not) would bypass the threat model."""
    last = name.strip().rpartition(".")[2].replace("-", "_")
    if last in RESERVED and (eps or last != "eps"):
        raise UsageError(f"{name} is part of the threat model and no option of an attack; use {RESERVED[last]}")


def check(attack: object, threat: Threat, name: str = "") -> None:
    """Check that the attack and all attacks inside it keep to the threat model.

    Raises:
        UsageError: another norm or radius, a target, an attack that cannot move a pixel, or one that needs gradients under
            a black-box threat.
    """
    if threat.eps == 0:
        raise UsageError(f"{_named(name, attack)} cannot move a pixel at radius 0; clean accuracy is part of every record")
    if threat.quantised and threat.eps * 255 < 1 - 1e-6:
        raise UsageError(f"8-bit images cannot hold a radius below 1/255; got {format_eps(threat.eps, threat.norm)}")
    for part in inside(attack):
        _check(part, threat, _named(name, part))


def inside(attack: object) -> Iterator[object]:
    """The attack and every attack inside it, each once."""
    seen: set[int] = set()
    waiting = [attack]
    while waiting:
        here = waiting.pop(0)
        if id(here) not in seen and (here is attack or _is_attack(here)):
            seen.add(id(here))
            yield here
            waiting += _held(here)


def full(attack: Any) -> Any:
    """The attack, and every attack inside it, in mode "full": no image is dropped before the last step.

    An image for another classifier, for a rounded one or for one that is random must not stop at the first success.

    Raises:
        UsageError: an attack in a closure, where its mode cannot be changed.
    """
    made = _rebuilt(attack)
    for part in inside(made):
        if _own(part).get("mode") == "compact":
            raise UsageError(f'{_named("", part)} stops early inside {_named("", attack)}; give it mode="full"')
    return made


def _rebuilt(attack: Any) -> Any:
    if isinstance(attack, list | tuple):
        changed_items = [_rebuilt(value) for value in attack]
        same = all(new is old for new, old in zip(changed_items, attack, strict=True))
        return attack if same else type(attack)(changed_items)
    if isinstance(attack, dict):
        changed_values = {key: _rebuilt(value) for key, value in attack.items()}
        return attack if all(new is attack[key] for key, new in changed_values.items()) else changed_values
    if isinstance(attack, functools.partial):
        changed = _rebuilt(attack.keywords) | _full_mode(attack.keywords)
        return functools.partial(_rebuilt(attack.func), *map(_rebuilt, attack.args), **changed)
    if not _is_attack(attack) or inspect.isroutine(attack):
        return attack
    own = _own(attack)
    changes = {key: new for key, value in own.items() if (new := _rebuilt(value)) is not value} | _full_mode(own)
    if not changes:
        return attack
    if dataclasses.is_dataclass(attack):
        return dataclasses.replace(attack, **changes)  # type: ignore[type-var]
    changed_attack = copy.copy(attack)
    for key, value in changes.items():
        setattr(changed_attack, key, value)
    return changed_attack


def _full_mode(own: Mapping[str, Any]) -> dict[str, str]:
    return {"mode": "full"} if own.get("mode") == "compact" else {}


def _check(part: object, threat: Threat, name: str) -> None:
    own = _constants(part)
    norm = own.get("norm")
    if norm is not None and SAME.get(str(norm).lower()) not in (None, threat.norm):
        only = "" if "norm" in _own(part) else ", the only one it has"
        raise UsageError(f"{name} is an attack in {SAME[str(norm).lower()]}{only}; the threat model says {threat.norm}")
    if isinstance(own.get("eps"), int | float | str):
        eps = parse_eps(own["eps"], "l2")
        if not math.isclose(eps, threat.eps, rel_tol=CLOSE, abs_tol=CLOSE):
            theirs, ours = format_eps(eps, threat.norm), format_eps(threat.eps, threat.norm)
            raise UsageError(f"{name} has the radius {theirs}; the threat model says {ours}")
    if own.get("targeted") not in (None, False):
        raise UsageError(f"{name} is targeted: its success is another measure ({RESERVED['targeted'].partition(',')[0]})")
    steps, step = own.get("steps"), own.get("step_size")
    if isinstance(steps, int) and steps < 1:
        raise UsageError(f"{name} with steps={steps} cannot move a pixel; give at least 1 step")
    if isinstance(steps, int) and isinstance(step, int | float) and steps * step < STILL:
        raise UsageError(f"{name} with {steps} steps of {step:g} cannot move a pixel; give a larger step_size")
    if threat.knowledge == "black-box" and own.get("gradients"):
        raise UsageError(f"{name} needs gradients, but the threat is black-box; use an attack on scores, such as --attack square")


def _is_attack(value: object) -> bool:
    """Whether a value may be an attack: callable, and no class, no module and no plain builtin."""
    return callable(value) and not isinstance(value, type) and not inspect.isbuiltin(value) and not hasattr(value, "parameters")


def _held(attack: Any) -> list[object]:
    """The values that an attack holds, those in lists and mappings included."""
    values: list[Any] = [*_own(attack).values(), getattr(attack, "members", None), getattr(attack, "__self__", None)]
    if isinstance(attack, functools.partial):
        values += [attack.func, *attack.args]
    for cell in getattr(attack, "__closure__", None) or ():
        values += [cell.cell_contents] if _filled(cell) else []
    opened: list[object] = []
    for value in values:
        opened += value.values() if isinstance(value, Mapping) else value if isinstance(value, list | tuple) else [value]
    return opened


def _filled(cell: Any) -> bool:
    try:
        return cell.cell_contents is not None
    except ValueError:  # not assigned yet
        return False


def _own(attack: Any) -> dict[str, Any]:
    """The values that an attack was given: fields, keywords, attributes."""
    if isinstance(attack, functools.partial):
        return dict(attack.keywords)
    if dataclasses.is_dataclass(attack):
        return {field.name: getattr(attack, field.name) for field in dataclasses.fields(attack)}
    return dict(getattr(attack, "__dict__", {}))


def _constants(attack: Any) -> dict[str, Any]:
    """The values that an attack was given, and its defaults for the others: those of a function, attributes of a class."""
    found = {key: value for key in ("norm", "gradients") if (value := getattr(type(attack), key, None)) is not None}
    if isinstance(attack, functools.partial) and inspect.isroutine(attack.func):
        parameters = inspect.signature(attack.func).parameters.values()
        found |= {each.name: each.default for each in parameters if each.default is not each.empty}
    return found | _own(attack)


def _named(name: str, attack: object) -> str:
    kind = getattr(attack, "__name__", type(attack).__name__)
    return f"attack {name!r}" if name else f"attack {kind!r}"
