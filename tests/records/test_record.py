"""Records: strict, whole, and read back as they were written."""

import functools
import json
from dataclasses import dataclass, field

import pytest
from pydantic import ValidationError

from ironclip.core.errors import DataError
from ironclip.core.threat import Threat
from ironclip.records.record import (
    BackboneFacts,
    DataFacts,
    Proportion,
    Record,
    Sample,
    Setup,
    Timing,
    canonical_hash,
    describe,
    digest,
)
from ironclip.records.summary import summarise

SETUP = Setup(
    method="nap+advmask",
    options={"depth": 9},
    backbone=BackboneFacts(name="mini", sha256="f00"),
    data=DataFacts(name="toy", classes=("a", "b"), split_hash="ba5"),
    threat=Threat(eps=4 / 255, resolution=64),
    shots=16,
    seed=1,
)
SAMPLES = [
    Sample(index=3, label=0, clean=0, adversarial={"pgd": 1}, clean_margin=-2, margin=0.5, distance=0.015, broken_by="pgd"),
    Sample(index=1, label=1, clean=1, adversarial={"pgd": 1}, clean_margin=-3, margin=-0.1, distance=0.015),
    Sample(index=2, label=1, clean=0, clean_margin=1, margin=1, broken_by="clean"),
]


def record(samples=SAMPLES, **timing) -> Record:
    return summarise(SETUP, samples, {"pgd": {"attack": "pgd", "eps": 4 / 255}}, timing=Timing(**timing))


def test_a_record_is_the_same_after_json():
    text = json.dumps(record().model_dump(mode="json"), allow_nan=False)
    assert Record.model_validate(json.loads(text)) == record()


def test_accuracies_are_of_all_images():
    found = record()
    assert (found.clean.count, found.robust.count, found.images) == (2, 1, 3)
    assert (found.attacks[0].attacked, found.attacks[0].broken, found.attacks[0].survivors) == (2, 1, 1)
    assert str(found.clean) == "66.7 % [20.8, 93.9]"


def test_the_line_names_the_threat():
    assert str(record()).endswith("(white-box linf 4/255 at 64 px; pgd; n=3)")


def test_only_times_are_left_out_of_the_outcome():
    assert record(train_seconds=1).outcome() == record(evaluate_seconds=2, peak_memory_bytes=3).outcome()
    assert record(train_seconds=1) != record(train_seconds=2)
    assert record().outcome().keys() == Record.model_fields.keys() - {"timing"}


def test_the_digest_depends_on_what_was_found_and_not_on_the_order():
    assert digest(SAMPLES) == digest(SAMPLES[::-1])
    assert digest(SAMPLES) != digest([*SAMPLES[1:], SAMPLES[0].model_copy(update={"margin": 0.4})])


@pytest.mark.parametrize("change", [{"colour": "red"}, {"format": 2}, {"images": "many"}, {"threat": {"norm": "l7"}}])
def test_what_is_no_record_is_refused(change):
    with pytest.raises(ValidationError):
        Record.model_validate(record().model_dump(mode="json") | change)


def test_no_sample_makes_no_record():
    with pytest.raises(DataError, match="there is no image"):
        record([])


@pytest.mark.parametrize(("count", "of", "low", "high"), [(0, 10, 0, 0.2775), (10, 10, 0.7225, 1)])
def test_intervals_do_not_leave_the_unit_interval(count, of, low, high):
    share = Proportion.measured(count, of)
    assert (share.low, share.high) == (pytest.approx(low, abs=1e-4), pytest.approx(high, abs=1e-4))


def outer(value):
    return value


@dataclass(frozen=True)
class Inner:
    eps: float = 0.5


@dataclass(frozen=True)
class Outer:
    inner: Inner = field(default_factory=Inner)
    loss: object = outer
    names: tuple[str, ...] = ("a",)


def test_an_attack_is_described_with_all_it_holds():
    assert describe(Outer()) == {
        "attack": "outer",
        "inner": {"attack": "inner", "eps": 0.5, "derived": {}},
        "loss": f"{__name__}:outer",
        "names": ["a"],
        "derived": {},
    }
    assert describe(functools.partial(outer, value=3)) == {"attack": "outer", "value": 3, "derived": {}}
    assert describe(outer) == {"attack": "outer", "derived": {}}
    json.dumps(describe(Outer()))


def test_a_hash_does_not_depend_on_the_order_of_keys():
    assert canonical_hash({"a": 1, "b": [1.0, None]}) == canonical_hash({"b": [1.0, None], "a": 1})
    assert canonical_hash({"a": 1}) != canonical_hash({"a": 1.5})
    with pytest.raises(ValueError, match="not JSON compliant"):
        canonical_hash({"a": float("inf")})
