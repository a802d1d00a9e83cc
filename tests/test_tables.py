"""Tables of pages and of the README are written from the stored files: their figures, marks and rules."""

import re
from pathlib import Path

import pytest

DOCS = Path(__file__).resolve().parents[1] / "docs"
PAGES = sorted(DOCS.rglob("*.md"))


@pytest.fixture(scope="module")
def tables(hooks):
    return hooks.tables()


def test_the_table_of_the_readme_is_up_to_date(tables) -> None:
    text = (DOCS.parent / "README.md").read_text(encoding="utf-8")
    assert "<!-- table: headline readme -->\n| method |" in text
    assert tables.renewed(text) == text, "make tables"


def test_every_table_is_asked_for_and_every_mark_has_a_table(tables) -> None:
    asked = [
        name for page in (*PAGES, DOCS.parent / "README.md") for name in re.findall(r"<!-- table: (.+?) -->", page.read_text())
    ]
    assert sorted(asked) == sorted(tables.TABLES)


def test_a_page_gets_its_tables_when_the_site_is_built(hooks) -> None:
    page = hooks.on_page_markdown((DOCS / "results/prompts.md").read_text(encoding="utf-8"))
    assert "<!-- table:" not in page
    (row,) = [line for line in page.splitlines() if line.startswith("| nap | 50.0 ")]
    cells = [cell.strip() for cell in row.strip("|").split("|")]
    assert cells[7:10] == ["64.0 ±1.4", "**36.7** ±0.5", "**46.6**"]  # the best of a column is bold
    assert "| zero_shot | 46.0 | 36.0 | 40.4 | 22.0 | 8.0 | 11.7 | 68.0 |" in page  # the largest of its column; learns nothing
    assert cells[14] == "34.0 (collapsed)"  # the largest average, and not bold, for one of its runs collapsed
    assert cells[13] == "51.8"  # 51.75: half way goes to the even digit
    assert cells[16:] == ["580,096", "151"]


def test_cells_hold_what_the_files_hold(tables) -> None:
    text = tables.TABLES["representations"]()
    assert "| zero_shot | 68 / 24 / 24 / = [14, 37] |" in text  # no surrogate but the classifier itself
    assert "| defeat (official) | 68 / 30 / 53 / 20 ±3 [10, 37] |" in text  # the attack on seven surrogates, three seeds
    assert "| apt+defeat | 38 / 36 / 32 / 23 [12, 41] | – | – |" in text
    assert "| atpt | 42 / 32 / **20** [8, 42] |" in tables.TABLES["test time"]()
    assert "46.9 / 30.0 / 13.8 | 0.23 | 35 + 19 back |" in tables.TABLES["test time"]()
    assert "| fap | 90 | 64 | 84 | 40 | 87 | 49 | 63 |" in tables.TABLES["held out eurosat"]()
    assert "| nap | 68 / 34 | 66 / 34 | 66 / 42 | 68 / 54 | 68 / 50 | 69 / 49* |" in tables.TABLES["fewer shots"]()
    assert "| clothing10 | flowers5 | 72 / 54 | 32 / 32 |" in tables.TABLES["masks transfer"]()
    eurosat = tables.TABLES["headline eurosat"]()
    assert "| nap | 580,096 | 64.0 [58.4, 69.2] | 31.7 [26.7, 37.1] |" in eurosat
    assert re.findall(r"^\| (\w+) \| [\d,]+ ", eurosat, re.MULTILINE)[:3] == ["tecoa", "nap", "advmask"]  # most robust first
    assert "| none | 3,328 | 60.7 [55.0, 66.0] | 9.3 [6.5, 13.2] |" in tables.TABLES["refiners"]()
    assert "| fap | 100,288 | 60.0 [47.4, 71.4] | 3.3 [0.9, 11.4] |" in tables.TABLES["headline autoattack"]()


def test_lines_that_disagree_are_refused(tables, monkeypatch) -> None:
    one = {"method": "apt", "data": "eurosat", "clean": "0.5", "robust": "0.1"}
    monkeypatch.setattr(tables, "stored", lambda file: (one, dict(one)))
    assert tables.found("any", "apt", "eurosat") == one
    monkeypatch.setattr(tables, "stored", lambda file: (one, {**one, "clean": "0.6"}))
    with pytest.raises(LookupError, match="has 2 lines of apt on eurosat"):
        tables.found("any", "apt", "eurosat")
