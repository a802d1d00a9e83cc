"""Trained defences, one file per method. A file `<name>.py` that sets METHOD is the method `<name>`; nothing else to register."""

import importlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from ironclip.core.budget import Budget
from ironclip.core.errors import UsageError, on_behalf_of, unknown
from ironclip.core.options import check_sizes, declared, made_of
from ironclip.core.types import Backbone, Defense
from ironclip.defenses._stack import Stack

NAMES = tuple(sorted(path.stem for path in Path(__file__).parent.glob("[!_]*.py")))

__all__ = ["NAMES", "Stack", "build", "method", "options"]


def method(name: str) -> type[Defense]:
    """The class behind a method's name.

    Raises:
        UsageError: no such method; names the nearest one.
    """
    if name not in NAMES:
        raise unknown("method", name, NAMES)
    return importlib.import_module(f"ironclip.defenses.{name}").METHOD


def options(name: str) -> dict[str, Any]:
    """Every option of a method (of each part of a stack, as "part.option") with its default."""
    parts = name.split("+")
    found = {}
    for part in parts:
        for key, default in declared(method(part)).items():
            if key != "generator":
                found[f"{part}.{key}" if len(parts) > 1 else key] = default
    return found


def build(
    name: str,
    backbone: Backbone,
    classes: Sequence[str],
    *,
    generator: torch.Generator | None = None,
    given: Mapping[str, Any] | None = None,
) -> Defense:
    """The defence `name`, or the stack "a+b", with these options; keys of a stack read "part.option".

    Raises:
        UsageError: unknown method or option, the same method twice, values the method refuses, or sizes above every limit.
        UnsupportedEdit: the method does not work on this tower; names both.
    """
    given = dict(given or {})
    known = options(name)
    for key in given:
        if key not in known:
            raise unknown(f"option of {name}", key, known)
    check_sizes(given, known)
    names = name.split("+")
    if len(set(names)) < len(names):
        raise UsageError(f"a stack names each method once; got {name!r}")
    parts = {}
    for part in names:
        own = {key.removeprefix(f"{part}."): value for key, value in given.items() if key.startswith(f"{part}.")}
        own = own if len(names) > 1 else given
        with on_behalf_of(part), made_of(part, own), Budget():
            parts[part] = method(part)(backbone, classes, generator=generator, **own)
    if len(names) == 1:
        return parts[name]
    stack = Stack(parts)
    stack.adaptation(backbone, classes)  # a clash shows here, not in the first step
    return stack
