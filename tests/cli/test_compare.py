"""Two runs are compared only where the images, the threat and every constant of every attack agree; what differs is said."""

import json

from reporting import record

from ironclip.cli.compare import _differences
from ironclip.data import few_shot, open_dataset
from ironclip.records.record import DataFacts
from ironclip.records.statistics import holm

EVALUATE = ("--attack", "pgd", "--limit", "4", "--device", "cpu", "--json")


def test_one_constant_or_another_norm_keeps_records_apart(ironclip):
    for seed in ("1", "2"):
        code, _, said = ironclip("train", "zero_shot", "--data", "shapes", "--seed", seed, "--out", seed, "--device", "cpu")
        assert code == 0, said
    assert ironclip("evaluate", "1", *EVALUATE, "--set", "steps=1")[0] == 0
    assert ironclip("evaluate", "2", *EVALUATE, "--set", "steps=2")[0] == 0
    code, shown, said = ironclip("compare", "1", "2")
    assert (code, shown, len(said.strip().splitlines())) == (2, "", 1)
    assert "pgd steps 1 and 2" in said

    (record,) = json.loads(ironclip("evaluate", "2", *EVALUATE, "--set", "steps=1", "--norm", "l2", "--eps", "0.5")[1])
    assert (record["threat"]["norm"], record["attacks"][0]["constants"]["norm"]) == ("l2", "l2")
    assert ironclip("compare", "1", "2")[0] == 2

    assert ironclip("evaluate", "2", *EVALUATE, "--set", "steps=1")[0] == 0
    code, shown, said = ironclip("compare", "1", "2", "--json")
    assert code == 0
    assert {row["threat"].partition(" at ")[0] for row in json.loads(shown)} == {"white-box linf 4/255"}
    assert "pgd steps 1 and 2" in said
    assert "norm linf and l2" in said


def test_the_first_run_is_compared_with_each_other_one_and_p_is_corrected_for_all_of_them(ironclip):
    for seed in ("1", "2", "3"):
        code, _, said = ironclip("train", "zero_shot", "--data", "shapes", "--seed", seed, "--out", seed, "--device", "cpu")
        assert code == 0, said
        assert ironclip("evaluate", seed, *EVALUATE, "--set", "steps=1")[0] == 0
    code, shown, _ = ironclip("compare", "1", "2", "3", "--json")
    rows = json.loads(shown)
    assert code == 0
    assert [(row["run"], row["what"]) for row in rows] == [(run, what) for run in ("2", "3") for what in ("clean", "robust")]
    for what in ("clean", "robust"):
        p = [row["p"] for row in rows if row["what"] == what]
        assert [row["p_holm"] for row in rows if row["what"] == what] == holm(p)
    code, shown, _ = ironclip("compare", "1", "2", "3")
    assert code == 0
    assert "p (Holm)" in shown
    assert "p (Holm)" not in ironclip("compare", "1", "2")[1]
    assert ironclip("compare", "1")[0] == 2


def test_runs_that_trained_on_other_images_are_paired_where_the_same_ones_are_measured():
    whole = open_dataset("shapes")
    one, few = whole.images_sha256("test"), few_shot(whole, 2, 1)
    assert few.images_sha256("test") == one != whole.images_sha256("val")
    assert few.sha256 != whole.sha256
    assert whole.changed(classes=whole.classes[::-1]).images_sha256("test") != one
    facts = [
        DataFacts(name="shapes", split_hash=data.sha256, images_hash=data.images_sha256("test"), available=100)
        for data in (whole, few)
    ]
    first, second, older = record(data=facts[0]), record(data=facts[1]), record(data=DataFacts(name="shapes", split_hash="x"))
    assert not _differences(first, second)
    assert _differences(first, older)
    other = facts[1].model_copy(update={"images_hash": "0"})
    assert _differences(first, record(data=other))[0].startswith("images_hash")
