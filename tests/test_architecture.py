"""The arrows between rooms, read off the imports of every file; no circles, nothing private across rooms; length of files."""

import ast
import importlib
import inspect
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

PACKAGE = Path(__file__).resolve().parents[1] / "ironclip"
FILES = sorted(path for path in PACKAGE.rglob("*.py"))

# From the ground up; rooms in one brace do not import each other.
ORDER = [
    {"core"}, {"presets"}, {"backbones"}, {"attacks"}, {"defenses"}, {"testtime"}, {"data"}, {"records"}, {"loops"}, {"audit"},
    {"pretraining"}, {"protocols"}, {"grid"}, {"report"}, {"serve"}, {"api"}, {"catalogue"}, {"cli"},
]  # fmt: skip
RANK = {room: rank for rank, rooms in enumerate(ORDER) for room in rooms}
APART = {"attacks", "defenses", "testtime", "data"}
BELOW_LOOPS = {"core", "records"}

# Arrows that point the wrong way, each with its reason; nothing else may, and a reason that no longer holds must go.
KNOWN: dict[tuple[str, str], str] = {}


@dataclass(frozen=True)
class Arrow:
    """One import: from a module to a module, both below the package, and the names that were asked for."""

    source: str
    target: str
    names: tuple[str, ...]
    place: str

    @property
    def rooms(self) -> tuple[str, str]:
        return room(self.source), room(self.target)


def room(module: str) -> str:
    return module.split(".")[0]


def module_of(path: Path) -> str:
    """The module's name below the package: "attacks.pgd", "attacks" for the front of a room, "" for that of the package."""
    parts = path.relative_to(PACKAGE).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


MODULES = {module_of(path) for path in FILES}


def imports(path: Path) -> Iterator[Arrow]:
    """Everything of ours that a file imports, inside functions and for type checkers too."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if not isinstance(node, ast.Import | ast.ImportFrom):
            continue
        place = f"{path.relative_to(PACKAGE)}:{node.lineno}"
        if isinstance(node, ast.Import):
            for alias in node.names:
                if alias.name.split(".")[0] == "ironclip":
                    yield Arrow(module_of(path), alias.name.removeprefix("ironclip").removeprefix("."), (), place)
        else:
            assert node.level == 0, f"{place}: imports are absolute here"
            if (node.module or "").split(".")[0] != "ironclip":
                continue
            home = (node.module or "").removeprefix("ironclip").removeprefix(".")
            names = [alias.name for alias in node.names]
            modules = [name for name in names if f"{home}.{name}".lstrip(".") in MODULES]
            for name in modules:
                yield Arrow(module_of(path), f"{home}.{name}".lstrip("."), (), place)
            if others := tuple(name for name in names if name not in modules):
                yield Arrow(module_of(path), home, others, place)


ARROWS = [arrow for path in FILES for arrow in imports(path)]
ACROSS = [arrow for arrow in ARROWS if arrow.rooms[0] != arrow.rooms[1]]


def allowed(source: str, target: str) -> bool:
    if source == "loops":
        return target in BELOW_LOOPS
    if source in APART and target in APART:
        return False
    return RANK[target] < RANK[source]


def test_every_module_belongs_to_a_room():
    rooms = {room(module) for module in MODULES} - {"", "__main__"}
    assert rooms <= RANK.keys(), f"rooms without a place in the order: {sorted(rooms - RANK.keys())}"
    assert {arrow.rooms[1] for arrow in ACROSS} <= RANK.keys() | {""}


def test_rooms_import_only_rooms_above_them():
    wrong = [
        f"{arrow.place}: {arrow.rooms[0]} imports {arrow.rooms[1] or 'the package itself'}"
        for arrow in ACROSS
        if arrow.rooms[0] not in ("", "__main__")
        and arrow.rooms not in KNOWN
        and (not arrow.rooms[1] or not allowed(*arrow.rooms))
    ]
    assert not wrong, "\n".join(wrong)


def test_the_known_exceptions_are_still_needed():
    assert KNOWN.keys() <= {arrow.rooms for arrow in ACROSS}, "no longer needed"


def test_the_two_loops_do_not_know_each_other():
    loops = {"loops.training", "loops.evaluation"}
    assert not [arrow.place for arrow in ARROWS if {arrow.source, arrow.target} == loops]


def test_nothing_but_the_command_line_imports_the_command_line():
    assert {arrow.rooms[0] for arrow in ACROSS if arrow.rooms[1] == "cli"} <= {"", "__main__"}


def private(name: str) -> bool:
    return name.startswith("_") and not name.startswith("__")


def test_no_room_imports_what_is_private_to_another():
    wrong = [
        f"{arrow.place}: {'.'.join([arrow.target, *arrow.names])}"
        for arrow in ACROSS
        if any(map(private, (*arrow.target.split("."), *arrow.names)))
    ]
    assert not wrong, "\n".join(wrong)


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_no_file_reaches_for_a_private_name_of_a_module(path):
    """Through an imported module too: `from ironclip import attacks; attacks._load`."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    bound = {}
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] == "ironclip":
            home = (node.module or "").removeprefix("ironclip").removeprefix(".")
            bound |= {alias.asname or alias.name: f"{home}.{alias.name}".lstrip(".") for alias in node.names}
    modules = {name: full for name, full in bound.items() if full in MODULES and room(full) != room(module_of(path))}
    reached = [
        f"{path.name}:{node.lineno}: {modules[node.value.id]}.{node.attr}"
        for node in ast.walk(tree)
        if isinstance(node, ast.Attribute)
        and isinstance(node.value, ast.Name)
        and node.value.id in modules
        and private(node.attr)
    ]
    assert not reached, "\n".join(reached)


def circles(arrows: dict[str, set[str]]) -> list[list[str]]:
    """Groups of modules that all reach each other (Tarjan), each with more than one member."""
    number: dict[str, int] = {}
    lowest: dict[str, int] = {}
    stack: list[str] = []
    found = []

    def visit(module: str) -> None:
        number[module] = lowest[module] = len(number)
        stack.append(module)
        for target in sorted(arrows.get(module, ())):
            if target not in number:
                visit(target)
                lowest[module] = min(lowest[module], lowest[target])
            elif target in stack:
                lowest[module] = min(lowest[module], number[target])
        if lowest[module] == number[module]:
            at = stack.index(module)
            group = sorted(stack[at:])
            del stack[at:]
            if len(group) > 1:
                found.append(group)

    for module in sorted(arrows):
        if module not in number:
            visit(module)
    return found


def test_a_circle_is_found():
    assert circles({"a": {"b"}, "b": {"c"}, "c": {"b"}, "d": {"a"}}) == [["b", "c"]]
    assert circles({"a": {"b", "c"}, "b": {"c"}, "c": set()}) == []


def test_no_modules_import_each_other_in_a_circle():
    """Imports inside functions and for type checkers count."""
    arrows: dict[str, set[str]] = {}
    for arrow in ARROWS:
        if arrow.source != arrow.target:
            arrows.setdefault(arrow.source, set()).add(arrow.target)
    assert circles(arrows) == []


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_no_module_is_longer_than_400_lines(path):
    lines = len(path.read_text(encoding="utf-8").splitlines())
    if lines > 250:
        print(f"{path.relative_to(PACKAGE)}: {lines} lines; is there a second idea in it?")
    assert lines <= 400, f"{path.relative_to(PACKAGE)} has {lines} lines; ask what second idea moved in"


CONTRACT = {"TestTime", "TestTimeMethod"}
"""What a test-time method may stand on and fill in: methods of these have defaults that a method replaces."""
TEST_TIME = sorted(module for module in MODULES if room(module) == "testtime")


def classes(module: str) -> list[type]:
    """The classes that are written in a module."""
    home = f"ironclip.{module}"
    return [kind for kind in vars(importlib.import_module(home)).values() if inspect.isclass(kind) and kind.__module__ == home]


def parents(kind: type) -> list[type]:
    """The classes of ours above one, without the contract."""
    ours = [each for each in kind.__mro__[1:] if each.__module__.partition(".")[0] == "ironclip"]
    return [each for each in ours if each.__name__ not in CONTRACT]


def overridden(kind: type) -> list[str]:
    """Methods of a class that replace a concrete method of a class above it, the contract's and constructors aside."""
    own = [name for name, value in vars(kind).items() if inspect.isroutine(value) and name != "__init__"]
    concrete = lambda each, name: not getattr(vars(each)[name], "__isabstractmethod__", False)  # noqa: E731
    return [
        f"{kind.__name__}.{name} replaces that of {each.__name__}"
        for name in own
        for each in parents(kind)
        if name in vars(each) and concrete(each, name)
    ]


@pytest.mark.parametrize("module", TEST_TIME)
def test_test_time_methods_are_made_of_parts_not_of_overrides(module):
    """At most one class of ours between a method and the contract, and nothing concrete is overridden: a reader of a method meets
    its parts, not a line of classes in which the last word may be anywhere."""
    assert not [kind.__name__ for kind in classes(module) if len(parents(kind)) > 1]
    assert not [found for kind in classes(module) for found in overridden(kind)]


def test_an_override_and_a_long_line_of_classes_are_found():
    class Base:
        def views(self):
            return 1

    class Middle(Base):
        pass

    class Last(Middle):
        def views(self):
            return 2

    for kind in (Base, Middle, Last):
        kind.__module__ = "ironclip.testtime.invented"
    assert overridden(Last) == ["Last.views replaces that of Base"]
    assert parents(Last) == [Middle, Base]
