"""Checks of option values; a wrong value raises one clear line. Imports no torch."""

import inspect
import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

from ironclip.core.errors import IronclipError, UsageError
from ironclip.core.shown import plain

LARGEST = 10_000
"""The largest whole number an option may have, unless a hundredth of it is its default; a seed may be any."""

_asked: ContextVar[dict[str, str] | None] = ContextVar("asked", default=None)


@contextmanager
def noting() -> Iterator[dict[str, str]]:
    """Inside, every check notes in the mapping what it allows: option -> words."""
    found: dict[str, str] = {}
    token = _asked.set(found)
    try:
        yield found
    finally:
        _asked.reset(token)


def _note(option: str, words: str) -> None:
    if (found := _asked.get()) is not None:
        found.setdefault(option, words)


def declared(kind: type) -> dict[str, Any]:
    """Keyword options of a class with their defaults; a class that passes **options on also has those of its parent."""
    found: dict[str, Any] = {}
    for each in kind.__mro__:
        parameters = inspect.signature(vars(each)["__init__"]).parameters.values() if "__init__" in vars(each) else ()
        found = {p.name: p.default for p in parameters if p.kind is inspect.Parameter.KEYWORD_ONLY} | found
        if parameters and not any(p.kind is inspect.Parameter.VAR_KEYWORD for p in parameters):
            break
    return found


def check_whole(option: str, value: object, least: int) -> None:
    """UsageError unless the option's value is a whole number of at least `least`."""
    _note(option, words := f"a whole number of at least {least}")
    if isinstance(value, bool) or not isinstance(value, int) or value < least:
        raise UsageError(f"{option} must be {words}; got {value!r}")


def check_number(option: str, value: object, low: float, high: float = math.inf, *, above: bool = False) -> None:
    """UsageError unless the option's value is a finite number in [low, high], or in (low, high] if `above`."""
    bounds = [f"above {low:g}" if above else f"at least {low:g}"] + ([f"at most {high:g}"] if high < math.inf else [])
    _note(option, words := f"a number of {' and '.join(bounds)}")
    number = isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
    if not number or not low <= value <= high or (above and value == low):  # type: ignore[operator]
        raise UsageError(f"{option} must be {words}; got {value!r}")


def check_sizes(given: Mapping[str, object], defaults: Mapping[str, object]) -> None:
    """UsageError where an option is too large, or holds too many values, to be built."""
    for key, value in given.items():
        usual = defaults.get(key)
        most = max(LARGEST, 100 * usual) if isinstance(usual, int) else LARGEST
        parts = list(value) if isinstance(value, list | tuple) else [value]
        largest = max((abs(part) for part in parts if isinstance(part, int)), default=0)
        if len(parts) > LARGEST:
            raise UsageError(f"{key} holds {len(parts):,} values; at most {LARGEST:,} are read")
        if largest > most and key.rpartition(".")[2] != "seed":
            raise UsageError(f"{key} is {largest:,}; at most {most:,} is built")


@contextmanager
def made_of(method: str, given: Mapping[str, object]) -> Iterator[None]:
    """Inside, a method is built. A Python error about an option of the wrong type becomes one UsageError that names all options.

    Without options such an error is a bug of the method and is raised as it is.
    """
    try:
        yield
    except IronclipError:
        raise
    except (TypeError, ValueError, AttributeError, LookupError, ArithmeticError, RuntimeError, MemoryError) as error:
        if not given:
            raise
        said = plain((str(error).splitlines() or [type(error).__name__])[0])[:120]
        raise UsageError(f"{method} cannot be built with {plain(str(dict(given)))[:200]}: {said}") from error


def check_choice(option: str, value: object, choices: Sequence[str]) -> None:
    """UsageError unless the option's value is one of these."""
    _note(option, words := f"one of {', '.join(choices)}")
    if value not in choices:
        raise UsageError(f"{option} must be {words}; got {value!r}")


def check_flags(**flags: object) -> None:
    """UsageError unless every option is true or false."""
    for option, value in flags.items():
        _note(option, "true or false")
        if not isinstance(value, bool):
            raise UsageError(f"{option} must be true or false; got {value!r}")


def check_templates(templates: str | Sequence[str]) -> tuple[str, ...]:
    """The prompts as a tuple; UsageError where there is none, or one has no place for the class name."""
    given = (templates,) if isinstance(templates, str) else tuple(templates)
    if not given:
        raise UsageError("templates must hold at least one prompt with {} for the class name; got none")
    for template in given:
        if not isinstance(template, str) or "{}" not in template:
            raise UsageError(f"a template needs {{}} where the class name goes; got {template!r}")
    return given
