"""Presets are data: one YAML file per published row or sane default, naming its source. Imports no torch.

base: fap/default             another preset, whose values these replace
backbone: ViT-B-32/openai     ... any setting of a run
published:                    the row of a paper that this configuration stands for
  {paper: fap, table: "Tables 14 and 15", data: mean of 11, attack: PGD-100, expected: {clean: 65.32}, read_in: paper}
"""

from functools import cache
from pathlib import Path
from typing import Any

import yaml

from ironclip.core.errors import unknown

FOLDER = Path(__file__).parent


@cache
def names() -> tuple[str, ...]:
    """All presets, as "method/name"."""
    return tuple(sorted(str(path.relative_to(FOLDER).with_suffix("")) for path in FOLDER.glob("*/*.yaml")))


def preset(name: str) -> dict[str, Any]:
    """The settings of a preset, with its name.

    Raises:
        UsageError: no such preset; names the nearest one.
    """
    return {key: value for key, value in _values(name).items() if key != "published"} | {"preset": name}


def published(name: str) -> dict[str, Any] | None:
    """The published row a preset stands for, in per cent, or None; keys as in the docstring of this module."""
    found: dict[str, Any] | None = _values(name).get("published")
    return found


def default(method: str) -> dict[str, Any]:
    """The preset "<method>/default", of the first part of a stack; nothing where there is none."""
    name = f"{method.split('+')[0]}/default"
    return preset(name) if name in names() else {}


@cache
def _values(name: str) -> dict[str, Any]:
    if name not in names():
        raise unknown("preset", name, names(), see="ironclip list presets")
    values = yaml.safe_load((FOLDER / f"{name}.yaml").read_text(encoding="utf-8"))
    base = values.pop("base", None)
    if base is None:
        return dict(values)
    below = {key: value for key, value in _values(base).items() if key != "published"}
    return below | {key: {**below[key], **value} if isinstance(below.get(key), dict) else value for key, value in values.items()}
