"""Presets are data: one YAML file per published row or sane default, naming its source. Imports no torch."""

from pathlib import Path
from typing import Any

import yaml

from ironclip.errors import unknown

FOLDER = Path(__file__).parent


def names() -> list[str]:
    """All presets, as "method/name"."""
    return sorted(str(path.relative_to(FOLDER).with_suffix("")) for path in FOLDER.glob("*/*.yaml"))


def preset(name: str) -> dict[str, Any]:
    """The values of a preset, with its name.

    Raises:
        UsageError: no such preset; names the nearest one.
    """
    if name not in names():
        raise unknown("preset", name, names())
    values = yaml.safe_load((FOLDER / f"{name}.yaml").read_text(encoding="utf-8"))
    return {**values, "preset": name}


def default(method: str) -> dict[str, Any]:
    """The preset "<method>/default", of the first part of a stack; nothing where there is none."""
    name = f"{method.split('+')[0]}/default"
    return preset(name) if name in names() else {}
