"""The site's generated pages hold everything that there is, each with a meaning, and the architecture names what exists."""

import ast
import re
from pathlib import Path

import pytest
import yaml

from ironclip import attacks, catalogue
from ironclip.audit.diagnose import CHECKS
from ironclip.records import record

DOCS = Path(__file__).resolve().parents[1] / "docs"
PACKAGE = DOCS.parent / "ironclip"


def test_our_board_is_made_of_the_records_that_are_stored(hooks):
    made = hooks.board()
    page = made.pop("board/index.html")
    stored = {path.stem for path in (DOCS / "board/records").glob("*.json")}
    assert len(stored) >= 14
    assert {name.removeprefix("board/robustbench/").removesuffix(".json") for name in made} == stored
    assert all(f"records/{name}.json" in page for name in stored)


@pytest.fixture(scope="module")
def written(hooks) -> dict[str, str]:
    return {address: write() for address, write in hooks.PAGES.items()}


def without_meaning(page: str, column: int) -> list[str]:
    rows = [re.split(r"(?<!\\)\|", line)[1:-1] for line in page.splitlines() if line.startswith("| `")]
    assert len(rows) > 20
    return [row[0].strip() for row in rows if not row[column].strip()]


def test_every_verb_method_attack_and_field_has_its_place(written) -> None:
    kinds = [name for name, kind in vars(record).items() if isinstance(kind, type) and issubclass(kind, record.Part)]
    for page, names in (
        ("reference/command-line.md", ("ironclip train", "ironclip grid plan", "ironclip data check", "ironclip classify")),
        ("reference/methods.md", catalogue.methods()),
        ("reference/attacks.md", attacks.CATALOGUE),
        ("reference/records.md", kinds),
    ):
        assert not [name for name in names if f"## {name}\n" not in written[page] and name not in ("Part", "Seal")], page


@pytest.mark.parametrize(
    ("page", "column"),
    [("reference/command-line.md", 1), ("reference/methods.md", 1), ("reference/attacks.md", 1), ("reference/records.md", 2)],
)
def test_everything_has_a_meaning(written, page: str, column: int) -> None:
    assert without_meaning(written[page], column) == []


def test_one_entry_may_speak_of_two_and_a_line_may_hold_two(hooks) -> None:
    found = hooks.arguments("Args:\n    a, b: one\n        thing. cc: another.\n    d: n: a number.\n\nRaises:\n    e: no.")
    assert found == {"a": "one thing.", "b": "one thing.", "cc": "another.", "d": "n: a number."}


def test_the_rooms_are_drawn_from_the_imports_and_nothing_points_down(hooks) -> None:
    rows = [[cell.strip() for cell in line.split("|")[1:-1]] for line in hooks.rooms().splitlines()[2:]]
    order = [name.strip("`/") for name, _ in rows]
    assert order[0] == "core"
    assert {"attacks", "cli", "api"} <= set(order)
    for place, (name, below) in enumerate(rows):
        assert set(filter(None, below.split(", "))) <= set(order[:place]), name


def test_the_page_of_the_audit_has_a_row_per_diagnostic_with_its_alarm(hooks) -> None:
    page = hooks.on_page_markdown((DOCS / "audit.md").read_text(encoding="utf-8"))
    rows = [[cell.strip() for cell in line.split(" | ")] for line in page.splitlines() if re.match(r"\| D\d+ \|", line)]
    assert [row[0] for row in rows] == [f"| D{number}" for number in range(1, len(CHECKS) + 1)]
    assert all(len(row) == 3 and len(row[1]) > 15 and re.match("fail|warn|none", row[2]) for row in rows)


def test_marks_side_by_side_are_no_links(hooks) -> None:
    assert hooks.on_page_markdown("[1, 9] [code] of [a] [b]") == r"[1, 9] \[code] of [a] [b]"


PLACES = re.findall(r"\| `([a-z_/]+\.py)` \| (.+?) \|", (DOCS / "architecture.md").read_text(encoding="utf-8"))


def test_the_architecture_names_places() -> None:
    assert len(PLACES) >= 15


@pytest.mark.parametrize(("file", "names"), PLACES)
def test_what_the_architecture_names_exists(file: str, names: str) -> None:
    text = (PACKAGE / file).read_text(encoding="utf-8")
    for name in re.findall(r"`([\w.]+)`", names):
        for part in name.split("."):
            assert re.search(rf"^\s*(?:def|class) {part}\b", text, re.MULTILINE), f"{file} has no {part} (of {name})"


def test_every_page_is_in_the_navigation() -> None:
    text = re.sub(r"!ENV (\[.*\])", r"\1", (DOCS.parent / "mkdocs.yml").read_text(encoding="utf-8"))
    listed = str(yaml.safe_load(text)["nav"])
    pages = [path.relative_to(DOCS).as_posix() for path in DOCS.rglob("*") if path.suffix in (".md", ".ipynb")]
    assert not [page for page in pages if page not in listed]


METHODS = [path for room in ("defenses", "testtime") for path in sorted((PACKAGE / room).glob("[!_]*.py"))]


@pytest.mark.parametrize("path", METHODS, ids=lambda path: path.stem)
def test_a_method_file_shows_its_equations(path: Path) -> None:
    """In a block of its own, in the symbols of the paper; or one hop away, where the method is another one with a constant."""
    docs = ast.get_docstring(ast.parse(path.read_text(encoding="utf-8"))) or ""
    blocks = re.findall(r"^ {4}(?=\S).*(?: = | <- |\": |: ).*$", docs, re.MULTILINE)
    elsewhere = re.search(r"^Equations: those of `(\w+)`", docs, re.MULTILINE)
    assert blocks or (elsewhere and (path.parent / f"{elsewhere[1]}.py").is_file()), f"{path.name} shows no equation"


FINDABLE = {
    "NAP: the token refiner": 1, "CAPT: alpha": 1, "DEFEAT: loss of the quantiser": 2, "AdvMask: the gate": 1, "AdvMask: LAFA": 1,
    "A-TPT: attention rollout": 1, "A-TPT: weights by total variation": 1, "what an attack is handed": 2, "robust accuracy": 1,
    "continues": 2,
}  # fmt: skip
"""What a stranger with the paper looks for -> in how many files at most it is written."""


@pytest.mark.parametrize("thing", FINDABLE)
def test_what_a_stranger_looks_for_stands_in_at_most_two_files(thing: str) -> None:
    table = (DOCS / "architecture.md").read_text(encoding="utf-8")
    files = {file for said, file in re.findall(r"^\| ([^|]+) \| `([a-z_/]+\.py)` \|", table, re.MULTILINE) if thing in said}
    assert 1 <= len(files) <= FINDABLE[thing]
