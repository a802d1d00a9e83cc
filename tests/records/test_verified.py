"""What is read of an evaluation follows from its samples: whatever else was edited, cut or left out is refused in one line."""

import json
import math
import shutil
from pathlib import Path

import pytest
from measured import ATTACKS, CONFIG, SAMPLES, SETUP

from ironclip.core.errors import RunError
from ironclip.loops.evaluation import settings
from ironclip.records.folder import EvaluationFolder, RunFolder
from ironclip.records.record import Flag, Sample, canonical_hash, digest
from ironclip.records.sealing import seal
from ironclip.records.summary import summarise


def written(root: Path, samples: list[Sample] = SAMPLES) -> EvaluationFolder:
    run = RunFolder.create(CONFIG, out=root / "run")
    place = run.evaluation(settings(SETUP, {}, images=len(samples)))
    place.append(samples)
    place.save_record(summarise(SETUP, samples, ATTACKS))
    return place


def edit(place: EvaluationFolder, change, seal: bool | None = False) -> None:
    """Change the values of record.json; `seal`: None leaves the checksum out, True makes it fit."""
    path = place.path / "record.json"
    value = json.loads(path.read_text())
    change(value)
    old = value.pop("sha256")
    if seal is not None:
        value["sha256"] = canonical_hash(value) if seal else old
    path.write_text(json.dumps(value))


def refused(place: EvaluationFolder, *words: str) -> None:
    with pytest.raises(RunError) as caught:
        place.record()
    line = str(caught.value)
    assert "\n" not in line
    assert str(place.path) in line
    for word in words:
        assert word in line


def test_what_was_written_is_read_and_the_samples_with_it(tmp_path):
    place = written(tmp_path)
    assert place.record() == summarise(SETUP, SAMPLES, ATTACKS)
    assert place.measured() == (place.record(), SAMPLES)


def test_a_record_whose_checksum_was_taken_away_is_refused_until_its_owner_seals_it(tmp_path):
    place = written(tmp_path)
    assert seal(place.path) == []
    edit(place, lambda value: None, seal=None)
    refused(place, "no sha256", "`ironclip verify --seal RUN`")
    assert seal(place.path) == [place.path / "record.json"]
    assert place.record() == summarise(SETUP, SAMPLES, ATTACKS)


def test_what_the_samples_contradict_is_never_sealed(tmp_path):
    place = written(tmp_path)
    edit(place, lambda v: v["robust"].update(count=4), seal=None)
    before = (place.path / "record.json").read_bytes()
    with pytest.raises(RunError, match="robust accuracy is count 4 in the record, and count 1 by its samples"):
        seal(place.path)
    assert (place.path / "record.json").read_bytes() == before


def everything(value, path=()):
    """Every path to a leaf of nested values."""
    pairs = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    leaves = [found for key, inner in pairs for found in everything(inner, (*path, key))]
    return leaves or [path]


def put(value, path, leaf):
    for key in path[:-1]:
        value = value[key]
    value[path[-1]] = leaf


LEAVES = everything(summarise(SETUP, SAMPLES, ATTACKS).model_dump(mode="json"))


@pytest.mark.parametrize("path", LEAVES, ids=lambda path: ".".join(map(str, path)))
def test_no_value_of_a_record_can_be_edited_unseen(tmp_path, path):
    place = written(tmp_path)
    edit(place, lambda value: put(value, path, "edited"))
    refused(place, "record.json")


FORGED = {
    "clean is 100 %": lambda v: v["clean"].update(count=4, value=1.0, low=0.5, high=1.0),
    "only the shown value": lambda v: v["robust"].update(value=1.0),
    "minus 50 %": lambda v: v["robust"].update(value=-0.5),
    "the interval": lambda v: v["robust"].update(low=0.24),
    "NaN": lambda v: v["clean"].update(value=math.nan),
    "infinity": lambda v: v["timing"].update(train_seconds=math.inf),
    "images": lambda v: v.update(images=400),
    "survivors": lambda v: v["attacks"][0].update(survivors=3),
    "broken": lambda v: v["attacks"][1].update(broken=0),
    "an attack left out": lambda v: v["attacks"].pop(),
    "attacks swapped": lambda v: v["attacks"].reverse(),
    "an attack added": lambda v: v["attacks"].append({**v["attacks"][0], "name": "autoattack"}),
    "a class": lambda v: v["per_class"][0].update(robust=1),
    "classes left out": lambda v: v.update(per_class=[]),
    "the hash": lambda v: v.update(samples_sha256="0" * 64),
    "a smaller radius": lambda v: v["threat"].update(eps=1 / 255),
    "a larger radius": lambda v: v["threat"].update(eps=8 / 255),
    "another norm": lambda v: v["threat"].update(norm="l2"),
    "another knowledge": lambda v: v["threat"].update(knowledge="adaptive"),
    "another data set": lambda v: v["data"].update(name="imagenet"),
}  # fmt: skip


@pytest.mark.parametrize(
    ("change", "fits"),
    [
        pytest.param(change, fits, id=f"{name}, {'sealed again' if fits else 'no checksum'}")
        for name, change in FORGED.items()
        for fits in (True, None)
        if not (fits and name in ("NaN", "infinity"))  # what is no JSON has no checksum
    ],
)
def test_numbers_that_do_not_follow_from_the_samples_are_refused_whatever_the_checksum_says(tmp_path, change, fits):
    place = written(tmp_path)
    edit(place, change, fits)
    refused(place, "record.json")


def test_the_line_says_which_numbers_disagree(tmp_path):
    place = written(tmp_path)
    edit(place, lambda v: v["robust"].update(count=4), seal=True)
    refused(place, "robust accuracy is count 4 in the record, and count 1 by its samples", "measure again")


def forge(**changes):
    """A sample file that fits the record's hash and counts as far as can be."""
    return [SAMPLES[0].model_copy(update=changes), *SAMPLES[1:]]


IMPOSSIBLE = {
    "a label out of range": forge(label=3, adversarial={"pgd": 1}, clean=3),
    "a negative prediction": forge(adversarial={"pgd": -1}),
    "outside the ball": forge(distance=8 / 255),
    "a negative distance": forge(distance=-0.01),
    "not finite": forge(margin=math.inf),
    "broken and called robust": forge(broken_by=None),
    "robust and called broken": forge(adversarial={"pgd": 0}),
    "broken by what it never met": forge(broken_by="cw"),
    "broken by nothing known": forge(adversarial={"pgd": 1, "fab": 1}),
    "wrong and called right": forge(clean=1),
    "twice": [*SAMPLES, SAMPLES[0]],
    "none": [],
}


@pytest.mark.parametrize("samples", IMPOSSIBLE.values(), ids=IMPOSSIBLE)
def test_samples_that_cannot_have_been_measured_are_refused_even_with_the_right_hash(tmp_path, samples):
    place = written(tmp_path)
    honest = summarise(SETUP, samples or SAMPLES, ATTACKS)
    lines = [json.dumps(sample.model_dump()) for sample in samples]
    (place.path / "samples.jsonl").write_text("".join(f"{line}\n" for line in lines))
    place.save_record(honest.model_copy(update={"samples_sha256": digest(samples)}))
    refused(place)


DAMAGE = {
    "a prediction": lambda text: text.replace('"clean":0', '"clean":1', 1),
    "a margin": lambda text: text.replace("-0.1", "-0.2"),
    "a line less": lambda text: text.partition("\n")[2],
    "a line twice": lambda text: text + text.partition("\n")[0] + "\n",
    "a cut line more": lambda text: text + '{"index": 9',
    "nothing": lambda text: "",
    "no JSON": lambda text: "[" * 100_000 + "\n",
    "NaN": lambda text: text.replace("-0.1", "NaN"),
}


@pytest.mark.parametrize("change", DAMAGE.values(), ids=DAMAGE)
def test_edited_samples_are_refused(tmp_path, change):
    place = written(tmp_path)
    path = place.path / "samples.jsonl"
    path.write_text(change(path.read_text()))
    refused(place)


def test_samples_that_are_gone_or_no_text_are_one_line(tmp_path):
    place = written(tmp_path)
    (place.path / "samples.jsonl").write_bytes(b"\xff\xfe\n")
    refused(place, "samples.jsonl is no text")
    (place.path / "samples.jsonl").unlink()
    refused(place, "stands without its samples.jsonl", "measure again")


FLAGS = ["one_loss", "resolution", "subset"]


def test_a_flag_that_was_struck_out_comes_back(tmp_path):
    place = written(tmp_path)
    assert [flag.id for flag in place.record().flags] == FLAGS
    edit(place, lambda value: value.update(flags=[]), seal=True)
    assert [flag.id for flag in place.record().flags] == FLAGS


def test_a_flag_that_only_the_file_knows_is_kept(tmp_path):
    place = written(tmp_path)
    own = Flag(id="by_hand", level="warn", text="looked at")
    place.save_record(place.record().model_copy(update={"flags": (own,)}))
    assert [flag.id for flag in place.record().flags] == [*FLAGS, "by_hand"]


def test_samples_of_another_evaluation_are_refused(tmp_path):
    place = written(tmp_path)
    other = written(tmp_path / "other", SAMPLES[1:])
    shutil.copy(other.path / "samples.jsonl", place.path / "samples.jsonl")
    refused(place, "images is 4 in the record, and 3 by its samples")
