"""What there is, by name, read from the files themselves: methods, attacks, presets. Imports no torch."""

import ast
from pathlib import Path

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

    return {name: line for name, (_, line) in CATALOGUE.items()}


def presets() -> dict[str, str]:
    from ironclip.presets import names, preset

    return {name: str(preset(name).get("source", "")) for name in names()}
