"""Captions name what was set: the table of defaults is that of the attacks, and every constant that differs is said."""

from dataclasses import fields

import pytest

from ironclip import attacks
from ironclip.records.record import BackboneFacts, DataFacts, Sample, Setup, describe
from ironclip.records.summary import summarise
from ironclip.records.usual import unusual, words


@pytest.mark.parametrize("name", sorted(attacks.CATALOGUE))
def test_the_table_holds_the_defaults_of_the_attacks(name):
    kind = attacks.kind(name)
    assert attacks.usual(name) == {field.name: field.default for field in fields(kind) if field.name not in attacks.FREE}
    assert unusual(name, describe(attacks.build(name, eps=0.1))) == {}


@pytest.mark.parametrize("name", ["autoattack", "standard-fast"])
def test_the_members_as_they_are_made_are_usual(name):
    members = attacks.build(name, eps=0.1).members
    assert {member: words(member, describe(attack)) for member, attack in members.items()} == {each: each for each in members}


def caption(name, attack, **data):
    facts = DataFacts(name="toy", classes=("a", "b"), **data)
    sample = Sample(index=0, label=0, clean=0, adversarial={name: 0}, clean_margin=-1, margin=-1, distance=0.1)
    return summarise(Setup(method="m", backbone=BackboneFacts(name="b"), data=facts), [sample], {name: describe(attack)})


SET = {
    "pgd": {"steps": 1, "step_size": 1e-4, "restarts": 2, "keep": "last", "loss": "kl", "start": "one_sided", "box": "forward"},
    "apgd": {"steps": 1, "rho": 0.1, "first_loss": "zero", "targets": 2, "eot": 2, "search_dtype": "bfloat16", "loss": "dlr"},
    "fab": {"steps": 1, "alpha_max": 0.01, "eta": 1.0, "beta": 0.1, "targets": 1},
    "square": {"queries": 1, "p_init": 0.01, "restarts": 2, "search_dtype": "bfloat16"},
    "cw": {"hinge": 0.5, "keep": "last"},
    "mim": {"decay": 0.5, "steps": 1},
    "di": {"probability": 1.0, "resize": 0.2},
    "transfer": {"source": "mini-robust", "inner": "pgd", "steps": 1},
    "feature": {"distance": "cosine"},
    "fgsm": {"random_start": True},
}


@pytest.mark.parametrize(("name", "key"), [(name, key) for name in SET for key in SET[name]])
def test_whatever_is_set_stands_in_the_caption(name, key):
    from ironclip.report.tables import attack_words

    record = caption(name, attacks.build(name, eps=0.1, **{key: SET[name][key]}))
    assert f"; {name} ({key} {SET[name][key]}); n=1" in str(record)
    assert str(SET[name][key]) in attack_words(record.attacks[0])


def test_a_weakened_autoattack_does_not_look_like_autoattack():
    weak = attacks.build("autoattack", eps=0.1, steps=2, queries=3).members
    assert [words(name, describe(attack)) for name, attack in weak.items()] == [
        "apgd-ce (steps 2)", "apgd-t (steps 2)", "fab-t (steps 2)", "square (queries 3)",
    ]  # fmt: skip


def test_what_a_wrapper_holds_is_named():
    from ironclip.attacks.eot import Averaged

    assert words("pgd", describe(Averaged(attacks.build("pgd", eps=0.1, steps=3)))) == "pgd (steps 3)"


def test_the_split_stands_in_the_caption_and_is_flagged():
    for split, level in (("train", "warn"), ("val", "note"), ("test", None)):
        record = caption("pgd", attacks.build("pgd", eps=0.1), split=split)
        assert (f"m on toy ({split} split): clean" in str(record)) == (split != "test")
        assert {flag.id: flag.level for flag in record.flags}.get("split") == level


def test_a_white_box_that_no_attack_looked_into_is_flagged():
    for name, blind in (("square", True), ("transfer", True), ("fab", False)):
        record = caption(name, attacks.build(name, eps=0.1))
        assert any(flag.id == "no_gradients" for flag in record.flags) == blind
