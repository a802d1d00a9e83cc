"""Shards of an evaluation on a toy: merged they are the whole; what is missing, foreign, damaged or copied is named, and nothing
is written."""

import json
import shutil
import threading

import pytest
import torch
from torch import Tensor, nn

from ironclip.attacks import FGSM
from ironclip.core.errors import RunBusy, RunError
from ironclip.core.threat import Threat
from ironclip.core.types import Batch
from ironclip.loops.evaluation import evaluate_into, settings
from ironclip.records.folder import EvaluationFolder, RunFolder
from ironclip.records.lock import locked
from ironclip.records.merge import merge
from ironclip.records.pictures import load_examples
from ironclip.records.record import BackboneFacts, DataFacts, Setup
from ironclip.records.shards import Part, missing, take
from ironclip.records.share import Share

CONFIG = {"method": "zero_shot", "dataset": "toy", "backbone": "toy", "shots": 1, "seed": 1}
IMAGES, SIZE, OF, KEPT = 20, 3, 3, 2
ATTACKS = {"fgsm": FGSM(8 / 255)}


class Noisy(nn.Module):
    """Which half of [0, 1] the mean of an image is in, seen through noise of the global generator."""

    classes = ("dark", "light")

    def forward(self, images: Tensor) -> Tensor:
        light = 20 * (images.flatten(1).mean(1) - 0.5) + 0.3 * torch.randn(len(images))
        return torch.stack([-light, light], 1)


def pictures(rows: range) -> Batch:
    images = torch.rand(IMAGES, 3, 4, 4, generator=torch.Generator().manual_seed(0))
    chosen = list(rows)
    labels = (images.flatten(1).mean(1) > 0.5).long()
    return Batch(images[chosen], labels[chosen], torch.tensor(chosen), Noisy.classes)


def setup(**changes) -> Setup:
    data = DataFacts(name="toy", classes=Noisy.classes)
    facts = {"method": "zero_shot", "backbone": BackboneFacts(name="toy"), "data": data, "threat": Threat(eps=8 / 255)}
    return Setup.model_validate(facts | changes)


def begun(tmp_path, name: str = "run", **changes) -> tuple[RunFolder, EvaluationFolder]:
    run = RunFolder.create(CONFIG, out=tmp_path / name)
    return run, run.evaluation(settings(setup(**changes), ATTACKS, images=IMAGES))


def score(folder: EvaluationFolder, rows: list[range], **changes) -> None:
    batches, total = map(pictures, rows), sum(map(len, rows))
    evaluate_into(folder, setup(**changes), Noisy(), ATTACKS, batches, keep_examples=KEPT, total=total)


def do(run, place, share: str, **changes) -> list[int]:
    """Numbers of the shards that this share scored."""
    done = []

    def scored(shard, folders):
        done.append(shard.number)
        score(folders[0], shard.rows(IMAGES, SIZE), **changes)

    part = Part.of(place, setup(**changes), batch_size=SIZE, keep_examples=KEPT)
    take(run.lock, [part], Share.parse(share), 7, scored, pause=0.01)
    return done


def files(folder) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.fixture
def whole(tmp_path):
    _, place = begun(tmp_path, "whole")
    score(place, [range(start, min(start + SIZE, IMAGES)) for start in range(0, IMAGES, SIZE)])
    return place


def test_merged_shards_are_the_whole_in_any_order_and_after_an_interruption(tmp_path, whole):
    run, place = begun(tmp_path)
    for number in (3, 1, 2):
        assert do(run, place, f"{number}/{OF}") == [number]
    cut = place.path / "shards" / f"2-of-{OF}"
    (cut / "record.json").unlink()
    lines = (cut / "samples.jsonl").read_text().splitlines(keepends=True)
    (cut / "samples.jsonl").write_text("".join(lines[:2]) + lines[2][:10])
    assert do(run, place, f"2/{OF}") == [2]
    record = merge(run, place)
    assert record.outcome() == whole.record().outcome()
    assert (place.path / "samples.jsonl").read_bytes() == (whole.path / "samples.jsonl").read_bytes()
    assert place.settings == whole.settings
    kept, expected = (load_examples(each.path / "examples.safetensors") for each in (place, whole))
    assert [example.index for example in kept] == [example.index for example in expected]
    assert len(kept) == KEPT
    assert all(torch.equal(a.adversarial, b.adversarial) for a, b in zip(kept, expected, strict=True))
    torch.manual_seed(5)
    assert merge(run, place) == record, "what is merged is read"


@pytest.mark.parametrize("locks", ["", "soft"])
def test_any_does_what_nobody_holds_and_waits_for_the_rest(tmp_path, whole, locks, monkeypatch):
    monkeypatch.setenv("IRONCLIP_LOCKS", locks)
    run, place = begun(tmp_path)
    assert do(run, place, "2/4") == [2]
    held = Part.of(place, setup(), batch_size=SIZE, keep_examples=KEPT).folder(Share.parse("3/4").shards(7, 4)[0])
    with locked(held.path):
        with pytest.raises(RunBusy):
            do(run, place, "3/4")
        waiting, done = threading.Thread(target=lambda: done.extend(do(run, place, "any/99"))), []
        waiting.start()
        while len(missing(place)) > 1:
            waiting.join(0.01)
        assert waiting.is_alive(), "it waits for who holds the last one, and does it if that one dies"
    waiting.join(20)
    assert done == [1, 4, 3]
    assert merge(run, place).outcome() == whole.record().outcome()


def test_missing_shards_are_named_and_nothing_is_written(tmp_path):
    run, place = begun(tmp_path)
    with pytest.raises(RunError, match="was not done in shards"):
        merge(run, place)
    do(run, place, f"2/{OF}")
    before = files(run.path)
    with pytest.raises(RunError, match=r"2 of 3 shards are missing or not finished: 1/3, 3/3"):
        merge(run, place)
    assert files(run.path) == before


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"learned_sha256": "f" * 8}, r"on another checkpoint: its learned_sha256 is '', not 'ffffffff'"),
        ({"backbone": BackboneFacts(name="toy", sha256="aa")}, r"on another checkpoint: its backbone.sha256 is '', not 'aa'"),
        ({"seed": 7}, r"under other settings: its seed is None, not 7"),
    ],
)
def test_a_shard_beside_those_of_another_checkpoint_is_refused_before_it_begins(tmp_path, change, said):
    run, place = begun(tmp_path)
    do(run, place, f"1/{OF}")
    before = files(run.path)
    with pytest.raises(RunError, match=rf"1-of-3 was measured {said}"):
        do(run, place, f"2/{OF}", **change)
    assert files(run.path) == before


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """A run whose shards are all done and not merged."""
    folder = tmp_path_factory.mktemp("finished")
    run, place = begun(folder)
    do(run, place, f"any/{OF}")
    return run.path


@pytest.fixture
def parts(finished, tmp_path):
    """The same in a folder of its own, with its evaluation."""
    shutil.copytree(finished, tmp_path / "run")
    return begun(tmp_path)


def other(place, number: int, edit) -> None:
    """The settings of a shard, edited as if it had been done elsewhere."""
    path = place.path / "shards" / f"{number}-of-{OF}" / "settings.json"
    value = json.loads(path.read_text())
    edit(value)
    path.write_text(json.dumps(value))


@pytest.mark.parametrize(
    ("edit", "said"),
    [
        (lambda value: value["shard"]["versions"].update(ironclip="0.0.1"), "by another version: its ironclip is '0.0.1'"),
        (lambda value: value["shard"]["versions"].update(torch="1.0"), "by another version: its torch is '1.0'"),
        (lambda value: value["shard"]["versions"].update(code="0a"), "by another version: its code is '0a', not "),
        (lambda value: value["shard"]["setup"].update(learned_sha256="f0"), "on another checkpoint: its learned_sha256 is 'f0'"),
        (lambda value: value["shard"]["setup"].update(config_hash="f1"), "on another checkpoint: its config_hash is 'f1'"),
        (
            lambda value: value["shard"]["setup"]["backbone"].update(sha256="f2"),
            "on another checkpoint: its backbone.sha256 is 'f2'",
        ),
        (lambda value: value["shard"]["setup"].update(options={"length": 4}), "under other settings: its options.length is 4"),
        (lambda value: value["shard"]["setup"].update(trained_on="other"), "under other settings: its trained_on is 'other'"),
        (lambda value: value["shard"].update(keep_examples=9), "under other settings: its keep_examples is 9"),
        (lambda value: value.update(precision="bf16"), "under other settings: its precision is 'bf16', not 'float32'"),
        (lambda value: value.update(quantise="round"), "under other settings: its quantise is 'round', not 'none'"),
        (lambda value: value.update(images=21), "under other settings: its images is 21, not 20"),
        (lambda value: value["threat"].update(knowledge="static"), "under other settings: its threat.knowledge is 'static'"),
        (lambda value: value["data"].update(classes=["a", "b"]), "under other settings: its data.classes is "),
        (lambda value: value["data"].update(preprocessing="x"), "under other settings: its data.preprocessing is 'x'"),
        (lambda value: value["attacks"]["fgsm"].update(eps=0.5), "under other settings: its attacks.fgsm.eps is 0.5"),
        (lambda value: value["data"].update(split_hash="x"), "under other settings: its data.split_hash is 'x'"),
        (lambda value: value["shard"].update(batch_size=4), "under other settings: its batch_size is 4, not 3"),
        (lambda value: value.pop("shard"), "under other settings"),
    ],
)
@pytest.mark.parametrize("number", [1, 3])
def test_the_foreign_shard_among_several_is_the_one_named(parts, number, edit, said):
    run, place = parts
    other(place, number, edit)
    before = files(run.path)
    with pytest.raises(RunError, match=rf"shards/{number}-of-3 was measured {said}"):
        merge(run, place)
    assert files(run.path) == before


def test_shards_that_were_copied_cut_or_are_of_two_divisions_are_refused(tmp_path):
    run, place = begun(tmp_path)
    do(run, place, f"any/{OF}")
    shards = place.path / "shards"
    shutil.copytree(shards / "1-of-3", tmp_path / "kept")
    shutil.rmtree(shards / "1-of-3")
    shutil.copytree(shards / "2-of-3", shards / "1-of-3")
    with pytest.raises(RunError, match=r"2-of-3 holds image 3, which another shard holds too"):
        merge(run, place)
    shutil.rmtree(shards / "1-of-3")
    shutil.copytree(tmp_path / "kept", shards / "1-of-3")
    (shards / "1-of-3" / "samples.jsonl").write_bytes((shards / "2-of-3" / "samples.jsonl").read_bytes())
    with pytest.raises(RunError, match=r"1-of-3/record.json is not to be believed"):
        merge(run, place)
    shutil.copytree(tmp_path / "kept", shards / "1-of-7")
    with pytest.raises(RunError, match=r"holds shards of 3 and of 7"):
        merge(run, place)
    assert not (place.path / "record.json").exists()


@pytest.mark.parametrize(
    ("moves", "said"),
    [
        ([("2-of-3", "4-of-3")], "shard 2/3 is missing"),
        ([("2-of-3", "0-of-3")], "shard 2/3 is missing"),
        ([("2-of-3", "02-of-3")], "shard 2/3 is missing"),
        ([("2-of-3", "\N{ARABIC-INDIC DIGIT TWO}-of-3")], "shard 2/3 is missing"),
        ([("1-of-3", "kept"), ("2-of-3", "1-of-3")], "shard 2/3 is missing"),
        ([("2-of-3", "2-of-4")], "holds shards of 3 and of 4"),
        ([("1-of-3", "kept"), ("2-of-3", "1-of-3"), ("kept", "2-of-3")], None),
    ],
    ids=["beyond the last", "before the first", "a zero before", "other digits", "over another", "another division", "swapped"],
)
def test_a_shard_under_another_name_is_missed_or_does_no_harm(parts, whole, moves, said):
    run, place = parts
    for old, new in moves:
        (place.path / "shards" / old).rename(place.path / "shards" / new)
    if said is None:
        assert merge(run, place).outcome() == whole.record().outcome()
        return
    before = files(run.path)
    with pytest.raises(RunError, match=said):
        merge(run, place)
    assert files(run.path) == before


@pytest.mark.parametrize("name", ["02-of-3", "\N{ARABIC-INDIC DIGIT TWO}-of-3", "4-of-3", "2-of-3.bak"])
def test_a_copy_beside_the_shards_counts_once(parts, whole, name):
    run, place = parts
    shutil.copytree(place.path / "shards" / "2-of-3", place.path / "shards" / name)
    assert merge(run, place).outcome() == whole.record().outcome()


def test_an_unfinished_shard_under_another_number_is_named_and_no_record_is_written(tmp_path):
    run, place = begun(tmp_path)
    do(run, place, f"2/{OF}")
    shards = place.path / "shards"
    (shards / "2-of-3" / "record.json").unlink()
    lines = (shards / "2-of-3" / "samples.jsonl").read_text().splitlines(keepends=True)
    (shards / "2-of-3" / "samples.jsonl").write_text("".join(lines[:3]))
    (shards / "2-of-3").rename(shards / "1-of-3")
    with pytest.raises(RunError, match=r"shards/1-of-3"):
        do(run, place, f"any/{OF}"), merge(run, place)
    assert not (place.path / "record.json").exists()


def test_shards_that_together_are_not_all_pictures_are_refused(tmp_path):
    run, place = begun(tmp_path)
    take(
        run.lock,
        [Part.of(place, setup(), batch_size=SIZE, keep_examples=KEPT)],
        Share.parse(f"any/{OF}"),
        7,
        lambda shard, folders: score(folders[0], shard.rows(IMAGES, SIZE)[:2]),
    )
    with pytest.raises(RunError, match=r"hold 18 images, and the evaluation has 20"):
        merge(run, place)


def test_the_lock_of_a_run_leaves_what_a_shard_is_writing(tmp_path):
    run, place = begun(tmp_path)
    do(run, place, f"1/{OF}")
    mine, left = place.path / "shards" / "1-of-3" / ".x.tmp", place.path / ".y.tmp"
    mine.touch(), left.touch()
    with run.lock():
        assert mine.exists()
        assert not left.exists()
