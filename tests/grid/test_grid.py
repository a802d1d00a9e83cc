"""Grids: the file, the plan, workers that die, and what is left behind."""

import shutil
import threading
import time
from pathlib import Path

import pytest
from outcomes import outcomes

from ironclip.core.errors import UsageError
from ironclip.core.files import append_lines, write_json
from ironclip.grid.cost import estimate
from ironclip.grid.execute import run_local
from ironclip.grid.job import GridJob
from ironclip.grid.plan import plan
from ironclip.grid.state import ATTEMPTS, Place
from ironclip.grid.work import helpers, join, run_cell, work
from ironclip.records.shards import shards

SMALL = """
name: small
defaults: {backbone: mini, dataset: shapes, eps: 4/255, augment: none, set: {epochs: 1, attack.steps: 1}}
runs:
  - {method: zero_shot}
  - {method: apt, shots: 1, seed: [1, 2]}
evaluate:
  - {attacks: [fgsm], eps: [1/255, 4/255], limit: 3}
"""


def written(folder: Path, text: str = SMALL) -> Path:
    path = folder / "grid.yaml"
    path.write_text(text, encoding="utf-8")
    return path


def test_a_block_is_the_product_of_its_lists_and_a_cell_comes_once(tmp_path):
    text = """
name: product
defaults: {dataset: shapes, set: {epochs: 3}}
runs:
  - {method: [apt, nap], shots: [1, 4], seed: [1, 2, 3]}
  - {method: apt, shots: 1, seed: 2}
  - {method: nap, variant: {image: {sides: image}, deep: {depth: 2, epochs: 7}}}
"""
    cells = plan(written(tmp_path, text)).cells
    assert len(cells) == 2 * 2 * 3 + 2
    assert {cell.config.schedule.epochs for cell in cells[:12]} == {3}
    image, deep = cells[12:]
    assert (image.variant, image.config.options["sides"], image.config.schedule.epochs) == ("image", "image", 3)
    assert (deep.variant, deep.config.options["depth"], deep.config.schedule.epochs) == ("deep", 2, 7)
    assert cells[1].config.split_seed == cells[1].config.seed == 2


def test_measures_may_be_for_some_methods_only(tmp_path):
    text = SMALL + "  - {attacks: pgd, knowledge: static, methods: [apt]}\n"
    zero_shot, apt, _ = plan(written(tmp_path, text)).cells
    assert len(zero_shot.measures) == 1
    assert [measure.knowledge for measure in apt.measures] == ["white-box", "static"]


CHOICE = """
name: choice
defaults: {backbone: mini, eps: 1/255}
runs:
  - {method: [zero_shot, apt, nap], dataset: [shapes, eurosat], shots: [1, 16], seed: [1, 2]}
  - {method: nap, dataset: shapes, eps: 4/255, variant: {image: {sides: image}}}
evaluate:
  - {attacks: [pgd]}
  - {attacks: [autoattack], only: {shots: 16, dataset: shapes}}
  - {attacks: [pgd], knowledge: adaptive, only: {eps: [1/255, 2/255], seed: [2, 3]}}
"""


def test_the_file_in_the_documents_can_be_planned(tmp_path):
    page = (Path(__file__).parents[2] / "docs" / "grids.md").read_text(encoding="utf-8")
    cells = plan(written(tmp_path, page.split("```yaml\n")[1].split("```")[0])).cells
    assert len(cells) == 2 + 2 * 2 * 3 * 3 + 2


def test_a_measure_may_leave_variants_out(tmp_path):
    for variant, many in (('""', 24), ("image", 1), ('["", image]', 25)):
        text = CHOICE.replace("only: {shots: 16, dataset: shapes}", f"only: {{variant: {variant}}}")
        assert text != CHOICE
        cells = plan(written(tmp_path, text)).cells
        assert len([cell for cell in cells if "autoattack" in str(cell.measures)]) == many


def test_measures_may_be_for_some_settings_only(tmp_path):
    for cell in plan(written(tmp_path, CHOICE)).cells:
        config = cell.config
        attacked = [(measure.attacks[0], measure.knowledge) for measure in cell.measures]
        assert attacked[0] == ("pgd", "white-box")
        assert (("autoattack", "white-box") in attacked) == (config.shots == 16 and config.dataset == "shapes")
        assert (("pgd", "adaptive") in attacked) == (config.seed == 2 and config.eps == pytest.approx(1 / 255))


@pytest.mark.parametrize(
    ("only", "many"),
    [
        ([], 25),
        (["method=apt,nap", "seed=1"], 9),
        (["method=apt,nap,seed=1"], 9),
        (["method=apt,method=nap,seed=1,shots=1"], 4),
        (["eps=4/255"], 1),
        (["variant=image"], 1),
        (["attack=autoattack"], 7),
        (["knowledge=adaptive"], 12),
    ],
)
def test_a_part_of_a_grid_is_chosen_by_settings(tmp_path, only, many):
    path = written(tmp_path, CHOICE)
    cells = plan(path, only=only).cells
    assert len(cells) == many
    chosen = {cell.name for cell in cells}
    assert [cell.name for cell in cells] == [cell.name for cell in plan(path).cells if cell.name in chosen]
    assert plan(path, only=only, first=1).cells == cells[:1]
    if only == ["attack=autoattack"]:
        assert {measure.attacks for cell in cells for measure in cell.measures} == {("autoattack",)}


@pytest.mark.parametrize(
    ("only", "message"),
    [
        ("shot=1", "unknown key of --only 'shot'; did you mean 'shots'?"),
        ("apt", "--only takes key=value"),
        ("method=fap", "no cell of the grid agrees"),
    ],
)
def test_a_choice_that_cannot_be_right_is_refused(tmp_path, only, message):
    with pytest.raises(UsageError, match=message.replace("?", "[?]")):
        plan(written(tmp_path, CHOICE), only=[only])
    with pytest.raises(UsageError, match="unknown key of only 'shot'"):
        plan(written(tmp_path, CHOICE.replace("only: {shots: 16", "only: {shot: 16")))


def test_no_cell_is_begun_after_the_time_given(tmp_path):
    path, out = written(tmp_path), tmp_path / "out"
    made, events = plan(path), []
    work(made, out, callback=events.append, until=time.time() - 1)
    assert not events
    assert {Place(out, cell).state for cell in made.cells} == {"open"}


@pytest.mark.slow
def test_workers_do_the_part_that_was_chosen(tmp_path):
    path, choice = written(tmp_path), {"only": ["method=zero_shot"], "small": False, "first": None}
    run_local(GridJob(path, plan(path, **choice), tmp_path / "out", workers=2, choice=choice))
    assert list(outcomes(tmp_path / "out")) == [plan(path).cells[0].name]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (("name: small", "nam: small"), "unknown setting 'nam'; did you mean 'name'?"),
        (("method: zero_shot", "method: zero_shoot"), "cell 1: unknown method 'zero_shoot'; did you mean 'zero_shot'?"),
        (("method: zero_shot", "methods: zero_shot"), "unknown key of a grid's runs 'methods'; did you mean 'method'?"),
        (("epochs: 1", "epoch: 1"), "unknown setting of zero_shot 'epoch'; did you mean 'epochs'?"),
        (("seed: [1, 2]", "seed: []"), "seed is an empty list"),
        (("shots: 1", "shots: 0"), "cell 2: shots"),
        (("limit: 3", "limit: 0"), "limit"),
        (("[fgsm]", "[fgsn]"), "grid.yaml, measure 1: unknown attack 'fgsn'; did you mean 'fgsm'?"),
        (("[fgsm]", "pgd, set: {step: 3}"), "measure 1: unknown option of these attacks 'step'; did you mean 'steps'?"),
        (("[fgsm]", "pgd, set: {mode: fast}"), "measure 1: mode must be one of"),
        (("[fgsm]", "[fgsm], methods: [apd]"), "measure 1: unknown method of this grid's runs 'apd'; did you mean 'apt'?"),
        (("[fgsm]", "[fgsm], only: {shots: 7}"), "measure 1: no run of the grid agrees with only {'shots': 7}"),
        (("[fgsm]", "[fgsm], methods: [zero_shot], only: {seed: 2}"), "agrees with only {'seed': 2} among those of zero_shot"),
        (("[fgsm]", "[fgsm], suite: teca"), "measure 1: unknown suite 'teca'; did you mean 'tecoa'?"),
        (("[fgsm]", "[fgsm], suite: clean, data: shapes"), "measure 1: a measure has either a suite or other data"),
        (("[fgsm]", "[fgsm], test_time: rtpt, set: {rtpt.select: 7}"), "measure 1: select must be a number"),
        (("zero_shot}", "rtpt, set: {select: 7}}"), "cell 1: select must be a number"),
        (("attack.steps: 1", "attack.mode: fast"), "cell 1: mode must be one of"),
        (("runs:", "runs: ]"), "is no YAML, line"),
    ],
)
def test_a_file_that_cannot_be_right_is_refused_in_one_line(tmp_path, change, message):
    with pytest.raises(UsageError) as caught:
        plan(written(tmp_path, SMALL.replace(*change, 1)))
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_grid_runs_once_and_costs_are_known_afterwards(tmp_path):
    made, out = plan(written(tmp_path)), tmp_path / "out"
    before, left = estimate(made, out)
    assert left is None
    assert [cost.state for cost in before] == ["open"] * 3
    events: list[dict] = []
    work(made, out, callback=events.append)
    assert [event["state"] for event in events] == ["done"] * 3
    assert all(len(records) == 2 for records in outcomes(out).values())
    after, left = estimate(made, out)
    assert left == 0
    assert after[1].passes > after[0].passes
    first = outcomes(out)
    work(made, out, callback=events.append)
    assert len(events) == 3
    assert outcomes(out) == first


def test_a_failing_cell_is_reported_and_does_not_stop_the_others(tmp_path):
    text = SMALL.replace("- {method: zero_shot}", "- {method: nap, set: {depth: 99}}\n  - {method: zero_shot}")
    made, out = plan(written(tmp_path, text)), tmp_path / "out"
    work(made, out)
    states = [Place(out, cell).read() for cell in made.cells]
    assert [state["state"] for state in states] == ["failed", "done", "done", "done"]
    assert "prompt depth must be 1 to" in states[0]["reason"]
    Place(out, made.cells[0]).reopen()
    assert Place(out, made.cells[0]).state == "open"


def test_a_cell_that_kills_its_process_is_given_up(tmp_path):
    made, out = plan(written(tmp_path)), tmp_path / "out"
    place = Place(out, made.cells[0])
    write_json(place.folder / "state.json", {"state": "begun", "attempts": ATTEMPTS, "reason": "", "seconds": 1.0})
    work(made, out)
    assert place.state == "failed"
    assert f"died {ATTEMPTS} times" in place.read()["reason"]


@pytest.mark.parametrize("kept", ["samples.jsonl", "log.jsonl", None])
def test_a_cell_whose_process_dies_is_given_up_only_where_nothing_is_kept(tmp_path, kept):
    place = Place(tmp_path, plan(written(tmp_path)).cells[0])
    begun = []
    for _ in range(3 * ATTEMPTS):
        begun.append(place.begin())
        if kept is not None:
            append_lines(place.run / kept, ["{}"])
    assert begun == ([True] * 3 * ATTEMPTS if kept else [True] * ATTEMPTS + [False] * 2 * ATTEMPTS)
    if kept is not None:  # what was kept long ago is no progress
        assert [place.begin() for _ in range(ATTEMPTS + 1)] == [True] * ATTEMPTS + [False]


def test_a_removed_run_is_done_again(tmp_path):
    made, out = plan(written(tmp_path)), tmp_path / "out"
    work(made, out)
    (out / made.cells[0].name / "config.yaml").unlink()
    assert Place(out, made.cells[0]).state == "open"


def test_a_large_measure_is_done_in_shards_with_the_records_of_the_whole(tmp_path):
    text = SMALL.replace("limit: 3}", "limit: 6, batch_size: 2}\n  - {attacks: [pgd], set: {steps: 1}, eps: 4/255, limit: 2}")
    text = text.replace("seed: [1, 2]", "seed: 1")
    work(plan(written(tmp_path, text)), tmp_path / "whole")
    divided = plan(written(tmp_path, text.replace("name: small", "name: small\nshard_above: 2")))
    assert [helpers(cell, divided.grid.shard_above) for cell in divided.cells] == [3, 3]

    cell, out = divided.cells[0], tmp_path / "out"
    assert not join(cell, out, shard_above=2), "nothing to help with before somebody begins"
    with Place(out, cell).claim():
        busy = threading.Thread(target=work, args=(divided, out), kwargs={"pause": 0.01})
        busy.start()  # does the other cell, and helps in this one
        run = run_cell(cell, out, shard_above=2)
        Place(out, cell)._write(state="done")
    busy.join(60)
    assert outcomes(out) == outcomes(tmp_path / "whole")
    places = run.evaluations()
    assert [len(shards(place)) for place in places] == [3, 3, 0]
    assert not join(cell, out, shard_above=2)


def test_who_finds_a_cell_held_does_its_shards(tmp_path):
    text = SMALL.replace("limit: 3}", "limit: 6, batch_size: 2}").replace("name: small", "name: small\nshard_above: 2")
    divided, out = plan(written(tmp_path, text)), tmp_path / "out"
    cell = divided.cells[0]
    run = run_cell(cell, out, shard_above=2)
    done = outcomes(out)
    place = run.evaluations()[0]
    (place.path / "record.json").unlink()
    shutil.rmtree(place.path / "shards" / "2-of-3")
    assert join(cell, out, shard_above=2)
    assert outcomes(out) == done
