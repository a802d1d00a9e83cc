"""What there is to attack with, by name: the catalogue, and attacks built, described and rebuilt from options."""

from dataclasses import fields
from importlib import import_module
from typing import TYPE_CHECKING, Any

from ironclip.core.errors import UsageError, unknown

if TYPE_CHECKING:
    from ironclip.core.types import Attack


CATALOGUE = {
    "adaptive": (
        "Adaptive",
        "for defences that adapt at test time: momentum towards common wrong classes, judged by the defence",
    ),
    "apgd": ("APGD", "Auto-PGD: momentum and steps that halve by themselves; untargeted or towards several classes"),
    "autoattack": ("AutoAttack", "apgd-ce, apgd-t, fab-t and square in turn; nothing to tune"),
    "cw": ("CW", "projected ascent on the margin between the true and the largest wrong logit"),
    "di": ("DI", "ascent on randomly resized and padded copies, so that pictures fool other models too"),
    "feature": ("Feature", "label-free: moves the image embedding as far as the radius allows (FARE, AdvPT)"),
    "fab": ("FAB", "nearest misclassified point by projections onto the linearised decision boundary"),
    "fgsm": ("FGSM", "one step along the sign of the gradient; a sanity check"),
    "mim": ("MIM", "sign steps along an accumulated gradient, for pictures that are handed to other models"),
    "pgd": ("PGD", "projected gradient ascent with restarts; keeps the best or the last point"),
    "square": ("Square", "random squares of +-eps that are kept where they lower the margin; needs scores only"),
    "standard-fast": ("StandardFast", "the default: pgd on two losses, then apgd towards other classes; fixed, nothing to set"),
    "transfer": ("Transfer", "pictures made on another backbone with the same class names"),
}
"""name of the attack and of its file (with _ for -) -> (class, one line for listings)."""

DEFAULT = "standard-fast"
"""What is run where nobody names an attack."""

ADAPTIVE = "adaptive"
"""What is run where nobody names an attack and a test-time method is to meet an attacker who knows it."""


def default(knowledge: str, *, test_time: bool) -> str:
    """The attack where nobody names one.

    Args:
        test_time: whether a test-time method answers.
    """
    return ADAPTIVE if knowledge == "adaptive" and test_time else DEFAULT


FIXED = ("standard-fast",)
"""Attacks of which no option can be set: their name stands for one set of constants."""

WITHOUT_GRADIENTS = ("square", "transfer")
"""Attacks that never differentiate the function they are handed; the classes of a score-only target can be attacked by these."""

MEMBERS: dict[str, tuple[str, dict[str, Any]]] = {
    "apgd-ce": ("apgd", {"loss": "ce", "mode": "compact"}),
    "apgd-dlr": ("apgd", {"loss": "dlr", "mode": "compact"}),
    "apgd-t": ("apgd", {"loss": "dlr", "targets": 9, "mode": "compact"}),
    "fab": ("fab", {"mode": "compact"}),
    "fab-t": ("fab", {"targets": 9, "mode": "compact"}),
    "square": ("square", {"mode": "compact"}),
}
"""name of a member of AutoAttack -> (attack, the options that make it this member)."""

STANDARD_FAST: dict[str, tuple[str, dict[str, Any]]] = {
    "pgd-ce": ("pgd", {"loss": "ce", "steps": 20}),
    "pgd-margin": ("pgd", {"loss": "margin", "steps": 20}),
    "apgd-t3": ("apgd", {"loss": "dlr", "targets": 3, "steps": 20}),
}
"""The members of `standard-fast` in the order in which they run -> (attack, its constants). Nothing here can be set."""


def build(name: str, /, **options: Any) -> "Attack":
    """The attack of this name with these options.

    Raises:
        UsageError: no such attack or option, a missing option, or a value that cannot be right.
    """
    kind = _load(name)
    known = [field.name for field in fields(kind)]
    if "norm" in options and "norm" not in known:
        raise UsageError(f"{name} is an attack in linf only; got norm={options['norm']!r}")
    for option in options:
        if option not in known:
            raise unknown(f"option of {name}", option, known)
    if "eps" in known and "eps" not in options:
        raise UsageError(f"{name} needs eps, the radius in the unit of the images, for example eps=4/255")
    attack: Attack = kind(**options)
    return attack


def describe(attack: "Attack") -> dict[str, Any]:
    """Name and all constants of an attack, for JSON: its options, and under "derived" what follows from them."""
    name = next((name for name, (kind, _) in CATALOGUE.items() if kind == type(attack).__name__), None)
    if name is None:
        raise UsageError(f"{type(attack).__name__} is not an attack of the catalogue; known: {', '.join(CATALOGUE)}")
    options = {field.name: _plain(getattr(attack, field.name)) for field in fields(attack)}  # type: ignore[arg-type]
    return {"attack": name, **options, "derived": getattr(attack, "derived", {})}


def rebuild(description: dict[str, Any]) -> "Attack":
    """The attack that `describe` described."""
    options = {key: value for key, value in description.items() if key not in ("attack", "derived")}
    return build(str(description.get("attack", "")), **options)


def _plain(value: Any) -> Any:
    return f"{value.__module__}:{value.__qualname__}" if callable(value) else value


def _load(name: str) -> Any:
    if name not in CATALOGUE:
        raise unknown("attack", name, CATALOGUE)
    return getattr(import_module(f"ironclip.attacks.{name.replace('-', '_')}"), CATALOGUE[name][0])
