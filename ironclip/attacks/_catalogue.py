"""All attacks by name, read from their files; attacks built, described and rebuilt from options."""

import ast
import re
from dataclasses import fields
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from ironclip.core.errors import UsageError, unknown

if TYPE_CHECKING:
    from ironclip.core.types import Attack


class Entry(NamedTuple):
    """An attack as its file describes it: the class's name, one line for listings, and the defaults of its options."""

    kind: str
    line: str
    defaults: dict[str, Any]


def found(folder: Path) -> dict[str, Entry]:
    """Name -> entry, of every public file of the folder that sets ATTACK; read, not imported, so that listing loads no torch.

    The name is the file's, with - for _; the line is the first paragraph of its docstring.
    """
    entries = {}
    for path in sorted(folder.glob("[!_]*.py")):
        text = path.read_text(encoding="utf-8")
        if (kind := re.search(r"^ATTACK = (\w+)$", text, re.MULTILINE)) is None:
            continue
        tree = ast.parse(text)
        line = " ".join((ast.get_docstring(tree) or "").split("\n\n")[0].split())
        (body,) = (node.body for node in tree.body if isinstance(node, ast.ClassDef) and node.name == kind[1])
        options = {
            node.target.id: ast.literal_eval(node.value)
            for node in body
            if isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name) and node.value is not None
            if "ClassVar" not in ast.unparse(node.annotation)
        }
        entries[path.stem.replace("_", "-")] = Entry(kind[1], line, options)
    return entries


CATALOGUE = found(Path(__file__).parent)
"""name of the attack -> its entry."""

DEFAULT = "standard-fast"
"""The default attack."""

ADAPTIVE = "adaptive"
"""The default attack on a test-time method by an attacker who knows it."""


def default(knowledge: str, *, test_time: bool, norm: str = "linf") -> str:
    """The default attack.

    Args:
        test_time: whether the classifier has a test-time method. norm: of the threat; a patch and a text have one attack each,
            and the attack for test-time methods has no l1 form.
    """
    if norm not in ("linf", "l2"):
        return {"patch": "patch", "text": "typographic"}.get(norm, DEFAULT)
    return ADAPTIVE if knowledge == "adaptive" and test_time else DEFAULT


FREE = ("eps", "norm", "seed", "mode", "eval_mode")
"""Options that set the target, the radius and the images of an attack; all others are its constants."""

FIXED = tuple(name for name, entry in CATALOGUE.items() if not entry.defaults.keys() - {*FREE})
"""Attacks without settable constants: their name stands for one fixed set."""

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

STANDARD_FAST_L1: dict[str, tuple[str, dict[str, Any]]] = {
    "apgd-ce": ("apgd", {"loss": "ce", "steps": 50}),
    "apgd-t3": ("apgd", {"steps": 50, "loss": "dlr", "targets": 3}),
}
"""The same in l1, where a step along the steepest direction changes one value of the image: sparse steps take its place."""


def kind(name: str) -> Any:
    """The class of this name.

    Raises:
        UsageError: no such attack; names the nearest one.
    """
    if name not in CATALOGUE:
        raise unknown("attack", name, CATALOGUE)
    return getattr(import_module(f"ironclip.attacks.{name.replace('-', '_')}"), CATALOGUE[name].kind)


def without_gradients() -> tuple[str, ...]:
    """Attacks that need no gradient of the attacked function, for targets that give scores only."""
    return tuple(name for name in CATALOGUE if not kind(name).gradients)


def usual(name: str) -> dict[str, Any]:
    """The default constants of an attack, or of a member of AutoAttack or standard-fast; {} for other names."""
    attack, changed = {**MEMBERS, **STANDARD_FAST}.get(name, (name, {}))
    defaults = CATALOGUE[attack].defaults if attack in CATALOGUE else {}
    return {key: value for key, value in {**defaults, **changed}.items() if key not in FREE}


def build(name: str, /, **options: Any) -> "Attack":
    """The attack of this name with these options.

    Raises:
        UsageError: no such attack or option, a missing option, or a value that cannot be right.
    """
    made_of = kind(name)
    known = [field.name for field in fields(made_of)]
    if "norm" in options and "norm" not in known:
        raise UsageError(f"{name} is an attack in linf only; got norm={options['norm']!r}")
    for option in options:
        if option not in known:
            raise unknown(f"option of {name}", option, known)
    if "eps" in known and "eps" not in options:
        raise UsageError(f"{name} needs eps, the radius in the unit of the images, for example eps=4/255")
    attack: Attack = made_of(**options)
    return attack


def describe(attack: "Attack") -> dict[str, Any]:
    """Name and all constants of an attack, for JSON: its options, and under "derived" what follows from them."""
    name = next((name for name, entry in CATALOGUE.items() if entry.kind == type(attack).__name__), None)
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
