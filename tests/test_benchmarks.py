"""The equality that every benchmark asserts before it times, in miniature; nothing here looks at a clock."""

import json

import pytest
import torch

from benchmarks import (
    advmask_step,
    alpha_trace,
    apt_step,
    autoattack_eval,
    defeat_step,
    fap_step,
    harness,
    nap_step,
    pgd_eval,
    retrieval_table,
    standard_fast,
    switches,
    text_tower,
)
from ironclip.backbones.tiny import tiny_backbone
from ironclip.protocols.config import configure
from ironclip.protocols.few_shot import train

EXACT = 1e-9


def test_the_apt_step_equals_the_plain_one() -> None:
    row = apt_step.measure("tiny", 5, 4, 0, dtype=torch.float64, tolerance=(EXACT, EXACT, 0.0))
    assert row.deviations.keys() == {"loss", "gradients", "pixels"}


def test_the_apt_step_equals_the_plain_one_in_float32_within_the_stated_tolerances() -> None:
    apt_step.measure("tiny", 5, 4, 0)


def test_the_nap_step_equals_the_plain_one() -> None:
    row = nap_step.measure("tiny", 5, 4, 0, dtype=torch.float64, tolerance=(EXACT, EXACT, 0.0))
    assert row.deviations.keys() == {"loss", "gradients", "pixels"}


def test_the_fap_step_equals_the_plain_one() -> None:
    row = fap_step.measure("tiny", 5, 4, 0, dtype=torch.float64, tolerance=(EXACT, EXACT, 0.0))
    assert row.deviations.keys() == {"loss", "gradients", "pixels"}


def test_the_advmask_step_equals_the_plain_one_and_stores_bits_that_fold() -> None:
    row = advmask_step.measure("tiny", 5, 4, 0, dtype=torch.float64, tolerance=(EXACT, EXACT, 0.0))
    assert row.deviations.keys() == {"loss", "gradients", "pixels", "folded"}
    assert row.notes["bytes stored"] * 32 == row.notes["bytes of scores"]


def test_the_defeat_step_equals_the_plain_one() -> None:
    row = defeat_step.measure("tiny", 5, 4, 0, tolerance=(EXACT, EXACT, 0.0), codes=24, latent_width=8)
    assert row.deviations.keys() == {"loss", "gradients", "pixels"}


@pytest.mark.parametrize("chunk", [256, 2])
@pytest.mark.parametrize("words", [4, 16])
def test_the_text_tower_equals_the_plain_one_whole_and_in_chunks(chunk: int, words: int) -> None:
    text_tower.measure("tiny", 5, words, 0, gradient=True, chunk=chunk, dtype=torch.float64, tolerance=(EXACT, EXACT))


def test_pgd_evaluation_equals_the_plain_one() -> None:
    pgd_eval.measure("tiny", 5, 4, 0, steps=3, dtype=torch.float64, tolerance=(0.0, EXACT))


@pytest.mark.parametrize("member", ["apgd-ce", "apgd-t", "fab-t", "square", None])
def test_autoattack_leaves_the_images_that_the_plain_one_leaves(member: str | None) -> None:
    row = autoattack_eval.measure("tiny", 5, 8, 0, 2 / 255, steps=8, queries=30, member=member, dtype=torch.float64)
    assert 0 < row.notes["robust accuracy"] < row.notes["clean accuracy"] == 1


def test_compaction_breaks_the_same_images() -> None:
    row = pgd_eval.compaction("tiny", 5, 8, 0, 2 / 255, steps=3)
    assert 0 < row.notes["robust accuracy"] < 1


def test_a_wrong_value_is_not_timed(capsys: pytest.CaptureFixture[str]) -> None:
    def rows(quick: bool, rounds: int) -> list[harness.Row]:
        harness.check("loss", torch.tensor([1.0]), torch.tensor([1.1]), 1e-5)
        return []

    assert harness.main(rows, "Wrong.", []) == 1
    assert "not equal, so not timed: loss differs by" in capsys.readouterr().err


def test_the_json_holds_ratios_of_medians_and_minima(capsys: pytest.CaptureFixture[str]) -> None:
    row = harness.Row("toy", "case", seconds={"plain": [4.0, 6.0, 8.0], "ours": [1.0, 2.0, 3.0]}, deviations={"loss": 0.0})
    assert harness.main(lambda quick, rounds: [row], "Toy.", ["--json"]) == 0
    record = json.loads(capsys.readouterr().out)["rows"][0]
    assert record["ratios"] == {"plain": {"median": 3.0, "min": 4.0}}


def test_the_figure_of_alpha_stands_alone_and_without_runs_one_line_says_so(tmp_path, capsys) -> None:
    from ironclip.report.svg import Series

    drawn = alpha_trace.figure([Series("eurosat, mini", ((1.0, 0.5), (2.0, 0.4)))])
    assert drawn.startswith('<svg xmlns="http://www.w3.org/2000/svg"')
    assert "eurosat, mini" in drawn
    assert alpha_trace.main([str(tmp_path), "--svg", str(tmp_path / "a.svg")]) == 2
    assert capsys.readouterr().err.startswith("error: no run of capt")


def test_the_default_attack_is_compared_with_autoattack_and_what_is_finished_is_read(tmp_path, monkeypatch, capsys) -> None:
    monkeypatch.chdir(tmp_path)
    small = ["mini", "--data", "shapes", "--limit", "4", "--steps", "1", "--queries", "2", "--eps", "2/255", "--out", "found"]
    assert standard_fast.main(small) == 0
    said = capsys.readouterr().out
    assert "| target | n | clean | autoattack | standard-fast | pgd-ce 100 | found |" in said
    assert "together: " in said
    monkeypatch.setattr(standard_fast, "measured", None)
    assert standard_fast.main(small) == 0
    assert capsys.readouterr().out == said


def test_what_is_found_is_counted_among_what_autoattack_breaks() -> None:
    whole = standard_fast.Found(frozenset(range(8)), frozenset({0, 1, 2, 3}), 1000, 10)
    fast = standard_fast.Found(frozenset(range(8)), frozenset({1, 2, 3, 5}), 100, 10)
    row = standard_fast.line("nap on mini", {"autoattack": whole, "standard-fast": fast})
    assert row == "| nap on mini | 10 | 80.0 | 40.0 | 40.0 | 3 of 4 | 1 | 1,000 | 100 | 10.0 |"
    assert "3 of 4 (75.0%) at 1/10.0 of the passes" in standard_fast.table([("x", {"autoattack": whole, "standard-fast": fast})])


def test_retrieval_of_several_targets_is_counted_and_what_changes_no_tower_is_named(tmp_path, capsys) -> None:
    run, file = tmp_path / "prompts", tmp_path / "found.csv"
    schedule = {"epochs": 1, "batch_size": 8, "warmup_epochs": 0}
    config = configure(
        {"method": "apt", "backbone": "mini", "dataset": "shapes", "shots": 1, "eps": 2 / 255, "schedule": schedule}
    )
    train(config, out=run)
    small = ["mini", str(run), "--limit", "6", "--steps", "1", "--csv", str(file)]
    assert retrieval_table.main(small) == 0
    assert f"{run}: apt changes class prompts or the head alone" in capsys.readouterr().err
    lines = [line.split(",") for line in file.read_text(encoding="utf-8").splitlines()]
    assert lines[0] == list(retrieval_table.HEAD)
    assert len(lines) == 1 + 3 * 6
    assert {tuple(line[:4]) for line in lines[1:]} == {("zero_shot", "", "shapes", "2/255")}
    assert all(int(found) <= int(of) for *_, found, of in lines[1:])
    assert retrieval_table.main([str(run), "--csv", str(file)]) == 2


def test_start_noise_has_the_same_bits_however_it_is_drawn() -> None:
    assert switches.start_noise(3, 9, 0).deviations == {"bits": 0.0}


def test_images_made_ahead_are_those_made_in_turn() -> None:
    assert switches.images_ahead("shapes", 16, 32, 0.0, 0).deviations == {"images": 0.0}


def test_compiled_blocks_give_the_features_and_gradients_of_plain_ones() -> None:
    row = switches.compiled_blocks(tiny_backbone(), 2, 0, backend="eager")
    assert row.deviations.keys() == {"features", "gradient"}
