"""What there is, by name, read from the files themselves: methods, attacks, presets. Imports no torch."""

import ast
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ironclip.core.errors import unknown

PACKAGE = Path(__file__).parent


def first_lines(room: str) -> dict[str, str]:
    """Name -> first line of the docstring, of every public file of a room; a method is known by its file's name."""
    found = {}
    for path in sorted((PACKAGE / room).glob("[!_]*.py")):
        docstring = ast.get_docstring(ast.parse(path.read_text(encoding="utf-8"))) or ""
        found[path.stem] = docstring.split("\n\n")[0].replace("\n", " ")
    return found


def methods() -> dict[str, str]:
    """Trained and test-time methods."""
    return {**first_lines("defenses"), **first_lines("testtime")}


def attacks() -> dict[str, str]:
    from ironclip.attacks import CATALOGUE

    return {name: entry.line for name, entry in CATALOGUE.items()}


def grids() -> dict[str, str]:
    """Grid file that comes with the package -> its first comment."""
    from ironclip.grid.located import packaged

    lines = {name: path.read_text(encoding="utf-8").partition("\n")[0] for name, path in packaged().items()}
    return {name: line.removeprefix("#").strip() if line.startswith("#") else "" for name, line in lines.items()}


def presets(paper: str | None = None) -> dict[str, str]:
    """Preset -> its training radius and where its values come from, for a published row what is expected; with `paper`, the rows
    of that paper.

    Raises:
        UsageError: no preset stands for a row of this paper.
    """
    from ironclip.presets import names, preset, published

    rows = {name: published(name) for name in names()}
    papers = sorted({str(row["paper"]) for row in rows.values() if row})
    if paper is not None and paper not in papers:
        raise unknown("paper", paper, papers)
    chosen = {name: row for name, row in rows.items() if paper is None or (row and row["paper"] == paper)}
    return {name: _radius(preset(name)) + (_row(row) if row else str(preset(name)["source"])) for name, row in chosen.items()}


def _radius(values: Mapping[str, Any]) -> str:
    """The radius of the training attack, where the preset trains something."""
    return f"trained at {values['eps']}; " if "attack" in values else ""


def _row(row: Mapping[str, Any]) -> str:
    numbers = ", ".join(f"{what} {value}" for what, value in row["expected"].items())
    provisional = "" if row["read_in"] == "paper" else "; read in a summary"
    note = f"; {row['note']}" if row.get("note") else ""
    return f"{row['paper']}, {row['table']}, {row['data']}: {numbers} under {row['attack']}{provisional}{note}"
