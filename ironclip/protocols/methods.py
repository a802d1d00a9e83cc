"""Method names as typed: trained defences joined by +, and at most one test-time method, last."""

from collections.abc import Mapping
from typing import Any

from ironclip import defenses, testtime
from ironclip.core.errors import UsageError, unknown

ALONE = "zero_shot"  # the base of a test-time method that is named alone


def split(name: str) -> tuple[str, str | None]:
    """(trained part, test-time method or None) of a method's name; `rtpt` alone stands on zero-shot classification.

    Raises:
        UsageError: an unknown name, or a test-time method that is not the last or not the only one.
    """
    parts = name.split("+")
    for part in parts:
        if part not in (*defenses.NAMES, *testtime.NAMES):
            raise unknown("method", part, (*defenses.NAMES, *testtime.NAMES))
    last = [part for part in parts if part in testtime.NAMES]
    if len(last) > 1:
        raise UsageError(f"a method holds at most one test-time method, written last; got {' and '.join(last)} in {name!r}")
    if last and parts[-1] != last[0]:
        raise UsageError(f"a test-time method is written last; got {name!r}, write {'+'.join([*_trained(parts), *last])!r}")
    return "+".join(_trained(parts)) or ALONE, last[0] if last else None


def full(name: str) -> str:
    """The name with its base written out: `rtpt` is `zero_shot+rtpt`."""
    base, above = split(name)
    return base if above is None else f"{base}+{above}"


def options(name: str) -> dict[str, Any]:
    """Every option of a method with its default; "part.option" as soon as the name has several parts."""
    base, above = split(name)
    if above is None:
        return defenses.options(base)
    if name == above:
        return testtime.options(above)
    below = {key if "+" in base else f"{base}.{key}": value for key, value in defenses.options(base).items()}
    return below | {f"{above}.{key}": value for key, value in testtime.options(above).items()}


def divide(name: str, given: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    """(options of the trained part as `defenses.build` takes them, options of the test-time method).

    Raises:
        UsageError: an option that no part has.
    """
    known = options(name)
    for key in given:
        if key not in known:
            raise unknown(f"option of {name}", key, known)
    base, above = split(name)
    if above is None:
        return dict(given), {}
    if name == above:
        return {}, dict(given)
    mine = {key.removeprefix(f"{above}."): value for key, value in given.items() if key.startswith(f"{above}.")}
    rest = {key: value for key, value in given.items() if not key.startswith(f"{above}.")}
    return (rest if "+" in base else {key.removeprefix(f"{base}."): value for key, value in rest.items()}), mine


def _trained(parts: list[str]) -> list[str]:
    return [part for part in parts if part in defenses.NAMES]
