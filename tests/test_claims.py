"""Figures in words are those of the stored tables: `docs/results/methods.md` against the CSV files beside it, and every
count with an interval against Wilson's formula."""

import csv
import re
from pathlib import Path

import pytest

from ironclip.records.statistics import wilson

ROOT = Path(__file__).resolve().parents[1]
FOLDER = ROOT / "docs" / "results"
SECTIONS = dict(
    re.findall(r"^## [^\n]+ \{#(\w+)\}\n(.*?)(?=^## |\Z)", (FOLDER / "methods.md").read_text(encoding="utf-8"), re.M | re.S)
)
SPREAD = r"([\d.]+) ± ([\d.]+)"


def rows(file: str, **wanted: str) -> list[dict[str, str]]:
    """Rows of a stored table in which every wanted column begins with the wanted text."""
    with (FOLDER / file).open(encoding="utf-8") as stream:
        found = [row for row in csv.DictReader(stream) if all(row[key].startswith(value) for key, value in wanted.items())]
    assert found, f"{file} has no row with {wanted}"
    return found


def trained(method: str, data: str) -> dict[str, str]:
    """The row of a prompt method on `mini` under its white-box attack."""
    facts = "backbone mini; 16 shots; linf 1/255 white-box; pgd (100 steps)"
    return next(row for row in rows("prompts.csv", facts=facts, data=data) if row["method"].split(" ")[0] == method)


def per_cent(row: dict[str, str], column: str) -> float:
    return round(100 * float(row[column]), 1)


PROMPTS = sorted(name for name, text in SECTIONS.items() if "grids/prompts.yaml" in text)


@pytest.mark.parametrize("name", PROMPTS)
def test_prompts_three_seeds_on_eurosat_and_flowers(name: str) -> None:
    text = " ".join(SECTIONS[name].split())
    said = re.search(rf"EuroSAT, `mini`, three seeds(?:, 100 images)?: clean {SPREAD}, robust {SPREAD} %", text)
    assert said is not None
    row = trained(name, "eurosat")
    assert [*map(float, said.groups())] == [per_cent(row, key) for key in ("clean", "clean_std", "robust", "robust_std")]
    flowers = re.search(r"flowers5: ([\d.]+) ± ([\d.]+), ([\d.]+)(?: ± ([\d.]+))? %", text)
    assert flowers is not None
    row = trained(name, "flowers5")
    expected = [per_cent(row, key) for key in ("clean", "clean_std", "robust", "robust_std")]
    assert [float(value or 0) for value in flowers.groups()] == expected


def test_the_claims_are_found() -> None:
    assert len(PROMPTS) >= 8


FIGURE = re.compile(r"\d+\.\d \[\d+\.\d, \d+\.\d\]")


def test_intervals_of_the_few_shot_page_are_those_of_their_counts() -> None:
    checked = 0
    for row in rows("few-shot.csv"):
        count = int(row["n"])
        for cell in (row["clean %"], row["PGD-100 1/255 %"], row["PGD-100 4/255 %"]):
            assert FIGURE.fullmatch(cell), row
            share, low, high = map(float, re.findall(r"[\d.]+", cell))
            right = round(share * count / 100)
            expected = [100 * x for x in (right / count, *wilson(right, count))]
            assert [share, low, high] == pytest.approx(expected, abs=0.0501), row
            checked += 1
    assert checked > 30


def test_the_sentence_on_the_demo_holds_the_counts_of_its_file() -> None:
    text = " ".join((ROOT / "docs/results.md").read_text(encoding="utf-8").split())
    said = [
        f"{method} on `{backbone}` {figures}"
        for method, backbone, figures in re.findall(r"(\w+) on `([\w-]+)` (\d+, \d+, \d+, \d+) %", text)
    ]
    radii = ("1/255", "2/255", "4/255", "8/255")
    expected = [
        f"{row['method']} on `{row['backbone']}` " + ", ".join(f"{100 * int(row[eps]) / int(row['images']):.0f}" for eps in radii)
        for row in rows("demo.csv")
    ]
    assert said == expected
    assert len(said) == 3


def test_the_audit_of_fifty_images_says_wilsons_interval() -> None:
    (row,) = rows("audit-1-255.csv", **{"attacks at 1/255": "and then square"})
    count, share, low, high = map(int, re.findall(r"\d+", row["right, of 50"]))
    assert (share, low, high) == tuple(round(100 * value) for value in (count / 50, *wilson(count, 50)))
