"""The search for presets is fair: as many tries for every method, images that no shot and no test uses, one rule of choice."""

import csv
from pathlib import Path

import pytest
import torch

from benchmarks.preset_search import COLUMNS, LINES, Size, chosen, harmonic, held_out, measured, table, tries
from ironclip import defenses, presets
from ironclip.data import few_shot, open_dataset
from ironclip.protocols.resolve import resolve

ROOT = Path(__file__).parents[1]


def row(method, data, optimizer, lr, clean, robust):
    facts = {"method": method, "data": data, "optimizer": optimizer, "lr": lr, "clean": clean, "robust": robust, "images": 100}
    return dict.fromkeys(COLUMNS, "") | facts


def test_every_quick_preset_that_trains_is_searched():
    quick = {name.split("/")[0] for name in presets.names() if name.endswith("/quick")}
    assert quick & set(defenses.NAMES) <= set(LINES)


def test_every_method_has_as_many_tries_and_no_try_twice():
    assert len({len(line) for line in LINES.values()}) == 1
    found = list(tries(list(LINES), ["eurosat", "flowers5"]))
    assert len(found) == 2 * sum(map(len, LINES.values())) == len({tuple(one.values()) for one in found})


def test_validation_pictures_are_no_shots_and_no_test_pictures():
    whole = open_dataset("shapes")
    data = held_out("shapes", 4, 1)
    shots = few_shot(data, 4, 1).splits["train"]
    names = {split: {item.source.name for item in items} for split, items in data.splits.items()}
    assert names["val"]
    assert not names["val"] & {item.source.name for item in shots}
    assert not names["val"] & {item.source.name for item in whole.splits["test"]}


def test_the_choice_is_the_largest_mean_h_over_all_sets_and_an_earlier_try_wins_a_tie():
    rows = [
        row("nap", "a", "sgd", 0.01, 60, 20),
        row("nap", "a", "adamw", 0.001, 60, 30),
        row("nap", "a", "adamw", 0.01, 90, 90),  # not measured on the second set
        row("nap", "b", "sgd", 0.01, 60, 20),
        row("nap", "b", "adamw", 0.001, 60, 30),
        row("apt", "a", "sgd", 0.01, 50, 0),
        row("apt", "a", "sgd", 0.1, 50, 0),
    ]
    assert harmonic(rows[0]) == pytest.approx(0.3)
    assert chosen(rows) == {"nap": ("adamw", 0.001, pytest.approx(0.4)), "apt": ("sgd", 0.01, 0.0)}
    assert table(rows).splitlines()[0] == ",".join(COLUMNS)
    assert len(table(rows).splitlines()) == 8


def test_an_image_is_robust_where_both_losses_fail():
    images = torch.full((4, 3, 2, 2), 0.5)
    labels = torch.tensor([0, 0, 1, 0])
    firm = lambda x: torch.stack([x.mean((1, 2, 3)), x.mean((1, 2, 3)) - 1], dim=1)  # noqa: E731
    assert measured(firm, images, labels, Size(eps=0.01, steps=3)) == (3, 3)
    weak = lambda x: torch.stack([x.mean((1, 2, 3)) - 0.495, 0 * x.mean((1, 2, 3))], dim=1)  # noqa: E731
    assert measured(weak, images, labels, Size(eps=0.01, steps=10)) == (3, 0)


def test_the_quick_presets_are_what_the_stored_search_chose():
    rows = [
        row | {"lr": float(row["lr"]), **{name: int(row[name]) for name in ("clean", "robust", "images")}}
        for row in csv.DictReader((ROOT / "docs/results/preset-search.csv").read_text(encoding="utf-8").splitlines())
    ]
    found = chosen(rows)
    assert len(found) >= 9
    for method, (optimizer, lr, _) in found.items():
        assert sum(row["method"] == method for row in rows) % len(LINES[method]) == 0
        schedule = resolve(method, "shapes", preset=f"{method}/quick", given={}).schedule
        assert (schedule.optimizer, schedule.lr) == (optimizer, lr), method
