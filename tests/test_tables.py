"""Tables of pages and of the READMEs are written from the stored files: their figures, marks and rules."""

import re
from pathlib import Path

import pytest

DOCS = Path(__file__).resolve().parents[1] / "docs"
PAGES = sorted(DOCS.rglob("*.md"))


@pytest.fixture(scope="module")
def tables(hooks):
    return hooks.tables()


def test_the_tables_that_stand_in_a_text_are_up_to_date(tables) -> None:
    for page, first in zip(tables.WHOLE, ("headline readme", "speed", "mini"), strict=True):
        text = page.read_text(encoding="utf-8")
        assert re.search(rf"^<!-- table: {first} -->\n\| .* \|\n\|---", text, re.MULTILINE), page
        assert tables.renewed(text) == text, "make tables"


def test_every_table_is_asked_for_and_every_mark_has_a_table(tables) -> None:
    pages = (*PAGES, *tables.WHOLE)
    asked = [name for page in pages for name in re.findall(r"<!-- table: (.+?) -->", page.read_text(encoding="utf-8"))]
    assert sorted(asked) == sorted(tables.TABLES)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.relative_to(DOCS).as_posix())
def test_no_mark_is_left_in_a_page(tables, page: Path) -> None:
    assert "<!-- table:" not in tables.included(page.read_text(encoding="utf-8"))


def test_a_page_gets_its_tables_when_the_site_is_built(hooks) -> None:
    page = hooks.on_page_markdown((DOCS / "results/prompts.md").read_text(encoding="utf-8"))
    assert "<!-- table:" not in page
    (row,) = [line for line in page.splitlines() if line.startswith("| nap | 50.0 ")]
    cells = [cell.strip() for cell in row.strip("|").split("|")]
    assert cells[3] == "64.0 ±1.4 / **36.7** ±0.5"  # the best of a column is bold
    assert "| zero_shot | 46.0 / 36.0 | 22.0 / 8.0 | 68.0 / 23.0 |" in page  # the largest of its column; learns nothing
    assert (
        cells[5] == "51.8 / 34.0†"
    )  # the largest mean, and not bold, for one of its runs collapsed; 51.75 goes to the even digit
    assert cells[7:] == ["580,096", "151"]


def test_cells_hold_what_the_files_hold(tables) -> None:
    text = tables.TABLES["representations"]()
    assert "| zero_shot | 68 / 24 / 24 / = [14, 37] |" in text  # no surrogate but the classifier itself
    assert "| defeat (official) | 68 / 30 / 53 / 20 ±3 [10, 37] |" in text  # the attack on seven surrogates, three seeds
    assert "| apt+defeat | 38 / 36 / 32 / 23 [12, 41] | – | – |" in text
    assert "| rtpt | 65 [55, 74] | 20 [13, 29] | **2** [1, 7] | 16 |" in tables.TABLES["test time eurosat 4"]()
    assert (
        "| csr (tau=0.85) | eurosat | linf 4/255 | 68 [58, 76] | 29 [21, 39] | **0** [0, 4] |"
        in tables.TABLES["test time of csr"]()
    )
    assert "| nap | 66.4 | 42.6 | 0.2 | 44.2 | 30.5 | 1.5 |" in tables.TABLES["retrieval shapes"]()
    assert "| flowers5 | adaptive, pgd (40 steps) | 65.3 [59.8, 70.5] | 25.0 [20.4, 30.2] |" in tables.TABLES["headline defeat"]()
    assert "| fap | 90 | 64 | 84 | 40 | 87 | 49 | 63 |" in tables.TABLES["held out eurosat"]()
    assert "| nap | 68 / 34 | 66 / 34 | 66 / 42 | 68 / 54 | 68 / 50 | 69 / 49* |" in tables.TABLES["fewer shots"]()
    assert "| clothing10 | flowers5 | 72 / 54 | 32 / 32 |" in tables.TABLES["masks transfer"]()
    eurosat = tables.TABLES["headline eurosat"]()
    assert "| nap | 580,096 | 64.0 [58.4, 69.2] | 31.7 [26.7, 37.1] |" in eurosat
    assert re.findall(r"^\| (\w+) \| [\d,]+ ", eurosat, re.MULTILINE)[:3] == ["tecoa", "nap", "advmask"]  # most robust first
    assert "| none | 3,328 | 60.7 [55.0, 66.0] | 9.3 [6.5, 13.2] |" in tables.TABLES["refiners"]()
    assert "| fap | 100,288 | 60.0 [47.4, 71.4] | 3.3 [0.9, 11.4] |" in tables.TABLES["headline autoattack"]()


def test_counts_become_shares_intervals_and_p_values(tables) -> None:
    capt = tables.TABLES["capt ablations"]()
    assert "robust against zero-shot's 23 %: won, lost (p) |" in capt
    assert "| nothing (seed 1) | 67 | 30 | 7, 0 (0.016) |" in capt
    assert "| without consistency (`lam=0`) | 65 | 22 | 2, 3 (1) |" in capt
    assert "| coupled prompts (MaPLe) | 67 | 28 | 5, 0 (0.06) |" in capt
    defeat = tables.TABLES["defeat"]()
    assert "| `official` | eurosat, three seeds | 68 | 30 | 53 | **20 ±3** [10, 37] | 20 |" in defeat
    assert "| `stable` | caltech101, 4 shots | 46 | 38 | 40 | **30** [17, 48] | 27 |" in defeat
    assert "| mini-robust, eurosat | 19 | 19 | 19 | 19 | 16 |" in tables.TABLES["defeat on 30 images"]()
    assert "| apd | 7.1 | 29.1 | 52, 15 | AdamW 0.01 |" in tables.TABLES["presets chosen"]()
    assert "| defeat | 18.9 | 18.9 | 47, 9 | SGD 0.01, unchanged |" in tables.TABLES["presets chosen"]()
    assert "| advmask | 16 | 11 | 11, 37 % [22, 54] | 11 |" in tables.TABLES["autoattack"]()
    assert "| zero_shot | 21 | 6 | 6, 20 % [10, 37] | = |" in tables.TABLES["autoattack"]()
    assert "| tecoa | 62.5 | 27.5 | 27.5 | 27.5 | 14 of 14 | 107,182 | 2,568 | 42 |" in tables.TABLES["standard-fast"]()
    assert "| 64/255 | 0 of 500, 0 % [0.0, 0.8] | pgd the last one |" in tables.TABLES["audit of 500 images"]()
    assert "| nap | mini | 70.0 [60.4, 78.1] | 33.0 [24.6, 42.7] |" in tables.TABLES["demo"]()


def test_seeds_stand_side_by_side_and_an_absent_one_is_no_number(tables, monkeypatch) -> None:
    assert "| nap | 64.0 / 31.7 | 56.3 / 30.7 | 61.0 / 33.7 | 32.0 ±1.2 |" in tables.TABLES["headline seeds"]()
    few = [line for line in tables.reading.stored("headline-seeds") if line["method"] == "nap" or line["seed"] == "1"]
    monkeypatch.setattr(tables.trained, "stored", lambda file: few)
    assert "| fap | 57.7 / 2.7 | – | – | 2.7 ±0.0 |" in tables.trained.headline_seeds()


def test_defeat_on_thirty_images_agrees_with_the_records_of_one_seed(tables) -> None:
    compared = 0
    for line in tables.reading.stored("defeat-30"):
        shots = "4 shots" if line["data"] == "caltech101" else "16 shots"
        facts = f"backbone {line['backbone']}; {shots}; linf 1/255 adaptive; pgd (40 steps)"
        for preset in ("official", "stable"):
            record = tables.reading.found("representation", f"defeat ({preset})", line["data"], facts)
            assert record["images"] == "30"
            if record["seeds"] == "1":
                assert float(record["robust"]) == pytest.approx(int(line[f"{preset} adaptive"]) / 30, abs=1e-6)
                compared += 1
    assert compared == 10


TYPED = re.compile(r"^\|(?:[^|]*\|)*[^|]*\d+(?:\.\d+)? ?%? \[\d+(?:\.\d+)?, \d+(?:\.\d+)?\]", re.MULTILINE)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.relative_to(DOCS).as_posix())
def test_no_page_has_a_typed_table_with_intervals(page: Path) -> None:
    """A share with its interval is a measured figure, so its table is written from a file."""
    assert not TYPED.findall(page.read_text(encoding="utf-8"))


def test_lines_that_disagree_are_refused(tables, monkeypatch) -> None:
    one = {"method": "apt", "data": "eurosat", "clean": "0.5", "robust": "0.1"}
    monkeypatch.setattr(tables.reading, "stored", lambda file: (one, dict(one)))
    assert tables.reading.found("any", "apt", "eurosat") == one
    monkeypatch.setattr(tables.reading, "stored", lambda file: (one, {**one, "clean": "0.6"}))
    with pytest.raises(LookupError, match="has 2 lines of apt on eurosat"):
        tables.reading.found("any", "apt", "eurosat")
