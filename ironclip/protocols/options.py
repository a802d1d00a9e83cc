"""The options of a method or an attack: each with its default, its allowed values according to the code, and its meaning."""

import inspect
import re
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import MISSING, dataclass, fields
from typing import Any

from ironclip import attacks, defenses, testtime
from ironclip.core.errors import IronclipError, unknown
from ironclip.core.options import noting
from ironclip.core.permits import RESERVED
from ironclip.protocols import methods
from ironclip.protocols.config import SCHEDULE

SHARED = (*SCHEDULE, "augment", "templates", "attack.name", "attack.steps", "attack.restarts", "attack.relative_step")
"""Settings that every training has."""
CLASSES = ("cat", "dog", "school bus")
EPS = 4 / 255


@dataclass(frozen=True)
class Option:
    """One option; `allowed` is "" where no check limits it, `meaning` is "" where no docstring says it."""

    name: str
    default: Any
    allowed: str
    meaning: str


def described(name: str) -> tuple[str, tuple[Option, ...]]:
    """(where a method's or an attack's values come from, its options); those of a stack one part after the other.

    Raises:
        UsageError: no such method or attack.
    """
    if name in attacks.CATALOGUE:
        return _attack(name)
    known = [*defenses.NAMES, *testtime.NAMES, *attacks.CATALOGUE]
    for part in name.split("+"):
        if part not in known:
            raise unknown("method or attack", part, known)
    named, parts = methods.options(name), [*name.split("+")]
    kinds = {part: defenses.method(part) if part in defenses.NAMES else testtime.method(part) for part in parts}
    allowed = {part: _allowed(part) for part in parts}
    words = {part: _words(kind, [key.rpartition(".")[2] for key in named]) for part, kind in kinds.items()}
    found = []
    for key, default in named.items():
        part, _, option = key.rpartition(".")
        part = part or parts[-1]
        found.append(Option(key, default, allowed[part].get(option, ""), words[part].get(option, "")))
    return " ".join(map(_source, kinds.values())).strip(), tuple(found)


def _attack(name: str) -> tuple[str, tuple[Option, ...]]:
    with noting() as allowed:
        kind: Any = type(attacks.build(name, eps=EPS))
    settable = {} if name in attacks.FIXED else {field.name: field.default for field in fields(kind)}
    defaults = {key: None if value is MISSING else value for key, value in settable.items() if key not in (*RESERVED, "seed")}
    words = _words(kind, defaults)
    found = [Option(key, value, allowed.get(key, ""), words.get(key, "")) for key, value in defaults.items()]
    return _source(kind), tuple(found)


def _allowed(part: str) -> dict[str, str]:
    """What the checks of a method note when it is made with its defaults on the smallest backbone."""
    with (
        noting() as found,
        suppress(IronclipError),
    ):  # some do not stand on a backbone of two layers; they checked their options first
        if part in testtime.NAMES:
            testtime.build(part)
        else:
            from ironclip.backbones.tiny import tiny_backbone

            defenses.build(part, tiny_backbone(), CLASSES)
    return found


def _words(kind: type, names: Iterable[str]) -> dict[str, str]:
    """Option -> meaning, from the "Args:" of the docstrings of a class, its functions and the classes above it."""
    found: dict[str, str] = {}
    for each in kind.__mro__:
        for holder in (each, vars(each).get("__init__")):
            found = _arguments(inspect.cleandoc(getattr(holder, "__doc__", None) or ""), names) | found
    return found


def _arguments(text: str, names: Iterable[str]) -> dict[str, str]:
    """Of a docstring's section "Args:": each of these names with its sentence; several may stand in one line."""
    section = re.search(r"^Args:\n((?:[ ]+.*\n?|\n)+)", text, re.MULTILINE)
    if section is None:
        return {}
    known = "|".join(map(re.escape, names)) or "-"
    found: dict[str, str] = {}
    for line in re.sub(r"\n {8,}", " ", section.group(1)).splitlines():
        pieces = re.split(rf"(?:^|(?<=[.;] ))((?:{known})(?:, (?:{known}))*): ", line.strip())
        for some, meaning in zip(pieces[1::2], pieces[2::2], strict=True):
            found |= dict.fromkeys(some.split(", "), meaning.strip())
    return found


def _source(kind: type) -> str:
    """The paragraph of a module's docstring that says where the values come from, in one line."""
    paragraphs = [" ".join(part.split()) for part in (inspect.getdoc(inspect.getmodule(kind)) or "").split("\n\n")]
    return next((part for part in paragraphs if part.startswith("Source")), "")
