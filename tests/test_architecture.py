"""The arrows between rooms, read off the imports of every file, and the length of files."""

import ast
from pathlib import Path

import pytest

PACKAGE = Path(__file__).resolve().parents[1] / "ironclip"
FILES = sorted(path for path in PACKAGE.rglob("*.py"))

# From the ground up; rooms in one brace do not import each other, except the loops as LOOPS says.
ORDER = [
    {"errors"}, {"options"}, {"files"},
    {"threat"}, {"permits"}, {"schedule"}, {"presets"}, {"types"}, {"merging"}, {"parallel"},
    {"tensors"}, {"views"}, {"losses"}, {"backbones"}, {"attacks"},
    {"defenses"}, {"testtime"}, {"data"}, {"runs"}, {"training", "evaluation", "scoring"}, {"audit"}, {"pretraining"},
    {"protocols"}, {"grid"}, {"report"}, {"serve"}, {"api"}, {"catalogue"}, {"cli"},
]  # fmt: skip
RANK = {room: rank for rank, rooms in enumerate(ORDER) for room in rooms}
APART = {"attacks", "defenses", "testtime", "data"}
LOOPS = {"training", "evaluation", "scoring"}
BELOW_LOOPS = {"errors", "options", "files", "schedule", "threat", "types", "merging", "parallel", "losses", "tensors"}
BELOW_LOOPS |= {"runs", "scoring", "permits"}

# Arrows that point the wrong way, each with its reason; nothing else may, and a reason that no longer holds must go.
KNOWN: dict[tuple[str, str], str] = {}


def room(module: str) -> str:
    """The room of a module below the package; pretraining is one room in several files."""
    first = module.split(".")[0]
    return "pretraining" if first.startswith("pretraining") else first


def imported(path: Path) -> list[tuple[str, int]]:
    """(module below the package, line) of everything of ours that a file imports, inside functions too."""
    found = []
    for node in ast.walk(ast.parse(path.read_text())):
        names: list[str] = []
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}:{node.lineno}: imports are absolute here"
            names = [f"ironclip.{alias.name}" for alias in node.names] if node.module == "ironclip" else [node.module or ""]
        found += [(name.removeprefix("ironclip."), node.lineno) for name in names if name.startswith("ironclip.")]
    return [(module, line) for module, line in found if not module.startswith("__")]


def own_room(path: Path) -> str:
    return room(path.relative_to(PACKAGE).with_suffix("").parts[0])


ARROWS = [
    (own_room(path), target, path, line) for path in FILES for target, line in imported(path) if own_room(path) != room(target)
]


def allowed(source: str, target: str) -> bool:
    if source in LOOPS:
        return target in BELOW_LOOPS
    if source in APART and target in APART:
        return False
    return RANK[target] < RANK[source]


def test_every_module_belongs_to_a_room():
    rooms = {own_room(path) for path in FILES} - {"__init__"}
    assert rooms <= RANK.keys(), f"rooms without a place in the order: {sorted(rooms - RANK.keys())}"
    assert {room(target) for _, target, _, _ in ARROWS} <= RANK.keys()


def test_rooms_import_only_rooms_above_them():
    wrong = [
        f"{path.relative_to(PACKAGE)}:{line}: {source} imports {target}"
        for source, target, path, line in ARROWS
        if source != "__init__" and not allowed(source, room(target)) and (source, target) not in KNOWN
    ]
    assert not wrong, "\n".join(wrong)


def test_the_known_exceptions_are_still_needed():
    present = {(source, target) for source, target, _, _ in ARROWS}
    assert KNOWN.keys() <= present, f"no longer needed: {KNOWN.keys() - present}"


def test_nothing_but_the_command_line_imports_the_command_line():
    assert {source for source, target, _, _ in ARROWS if room(target) == "cli"} <= {"__init__", "__main__"}


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_no_module_is_longer_than_400_lines(path):
    lines = len(path.read_text().splitlines())
    if lines > 250:
        print(f"{path.relative_to(PACKAGE)}: {lines} lines; is there a second idea in it?")
    assert lines <= 400, f"{path.relative_to(PACKAGE)} has {lines} lines; ask what second idea moved in"
