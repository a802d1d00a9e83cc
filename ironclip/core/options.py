"""Checks of option values, said in one line where one cannot be right. Imports no torch."""

import math
from collections.abc import Sequence

from ironclip.core.errors import UsageError


def check_whole(option: str, value: object, least: int) -> None:
    """UsageError unless the option's value is a whole number of at least `least`."""
    if isinstance(value, bool) or not isinstance(value, int) or value < least:
        raise UsageError(f"{option} must be a whole number of at least {least}; got {value!r}")


def check_number(option: str, value: object, low: float, high: float = math.inf, *, above: bool = False) -> None:
    """UsageError unless the option's value is a finite number in [low, high], or in (low, high] if `above`."""
    number = isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
    if not number or not low <= value <= high or (above and value == low):  # type: ignore[operator]
        bounds = [f"above {low:g}" if above else f"at least {low:g}"] + ([f"at most {high:g}"] if high < math.inf else [])
        raise UsageError(f"{option} must be a number of {' and '.join(bounds)}; got {value!r}")


def check_choice(option: str, value: object, choices: Sequence[str]) -> None:
    """UsageError unless the option's value is one of these."""
    if value not in choices:
        raise UsageError(f"{option} must be one of {', '.join(choices)}; got {value!r}")


def check_flags(**flags: object) -> None:
    """UsageError unless every option is true or false."""
    for option, value in flags.items():
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
