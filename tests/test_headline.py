"""The tables of the headline page are the stored ones, cell by cell."""

import csv
import re
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]


def test_the_headline_tables_are_the_stored_ones():
    text = (ROOT / "docs/results/headline.md").read_text(encoding="utf-8")
    lines = (ROOT / "docs/results/headline.csv").read_text(encoding="utf-8").splitlines()
    stored = {
        (row["data"], row["method"]): row
        for row in csv.DictReader(lines)
        if row["facts"].endswith("linf 2/255 white-box; standard-fast") and row["seeds"] == "1"
    }
    shown = []
    for data, section in (("eurosat", "EuroSAT"), ("flowers5", "Flowers")):
        table = text.partition(f"\n## {section}\n")[2].partition("\n## ")[0]
        for method, learned, clean, robust in re.findall(r"^\| (\w+) \| ([\d,]+) \| (.+?) \| (.+?) \|$", table, re.MULTILINE):
            row = stored[data, method]
            shown.append((data, method))
            assert int(learned.replace(",", "")) == int(row["learned_parameters"])
            for cell, key in ((clean, "clean"), (robust, "robust")):
                value, low, high = (100 * float(row[key + end]) for end in ("", "_low", "_high"))
                assert cell == f"{value:.1f} [{low:.1f}, {high:.1f}]"
    assert sorted(shown) == sorted(stored)
