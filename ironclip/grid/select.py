"""Which runs of a grid are meant: settings and the values they may have. Imports no torch."""

from collections.abc import Mapping, Sequence
from typing import Any

from ironclip.core.errors import UsageError, unknown
from ironclip.core.threat import parse_eps
from ironclip.grid.file import Measure
from ironclip.protocols.config import RunConfig, values_of

CELLS = (*RunConfig.model_fields, "variant")
"""Keys that choose cells."""
MEASURES = ("attack", "knowledge")
"""Keys that choose among the measures of a cell."""


def wanted(texts: Sequence[str]) -> dict[str, tuple[Any, ...]]:
    """The values by key of texts such as "method=apt,nap" or "dataset=eurosat,seed=1"; a key may come more than once.

    Raises:
        UsageError: no key, or one that no run has.
    """
    found: dict[str, tuple[Any, ...]] = {}
    key = ""
    for part in (part for text in texts for part in text.split(",")):
        name, equals, value = part.partition("=")
        key = name.strip() if equals else key
        if not key:
            raise UsageError(f"--only takes key=value, such as method=apt,nap; got {part!r}")
        if key not in (*CELLS, *MEASURES):
            raise unknown("key of --only", key, (*CELLS, *MEASURES))
        read = (value if equals else part).strip()
        found[key] = (*found.get(key, ()), read if key in ("variant", *MEASURES) else values_of([f"{key}={read}"])[key])
    return found


def known(only: Mapping[str, Any]) -> dict[str, tuple[Any, ...]]:
    """The `only` of a grid file in the same form: a value or a list of them by key.

    Raises:
        UsageError: a key that no run has.
    """
    for key in only:
        if key not in CELLS:
            raise unknown("key of only", key, CELLS)
    return {key: tuple(value) if isinstance(value, list) else (value,) for key, value in only.items()}


def meant(measure: Measure, settings: Mapping[str, Any]) -> bool:
    """Whether a measure is for the cell with these settings: one of its methods, and as its `only` says."""
    return (not measure.methods or settings["method"] in measure.methods) and agrees(settings, known(measure.only))


def agrees(settings: Mapping[str, Any], asked: Mapping[str, Sequence[Any]]) -> bool:
    """Whether each setting asked for has one of its values."""
    return all(any(_same(key, settings.get(key), value) for value in values) for key, values in asked.items())


def _same(key: str, own: Any, other: Any) -> bool:
    if key == "eps":
        return abs(parse_eps(own, "l2") - parse_eps(other, "l2")) < 1e-9
    return bool(own == other)
