"""The default worst case: its constants are fixed, its members run in turn, and one loss alone breaks no more."""

import inspect
from typing import get_args

import pytest
import torch
from toys import Named, right, scene

import ironclip
from ironclip.attacks import APGD, DEFAULT, PGD, STANDARD_FAST, StandardFast, describe, rebuild
from ironclip.attacks._catalogue import default
from ironclip.catalogue import attacks
from ironclip.core.errors import UsageError
from ironclip.core.threat import Knowledge, Threat
from ironclip.core.types import Batch
from ironclip.grid.file import Measure
from ironclip.loops.evaluation import constants, evaluate
from ironclip.protocols.resolve import named_attacks

EPS = 0.02


@pytest.mark.parametrize("norm", ["linf", "l2"])
def test_members_order_and_constants_are_these_and_no_others(norm):
    options = {"norm": norm, "mode": "compact", "seed": 3}
    members = StandardFast(4 / 255, norm=norm, seed=3).members
    assert list(members) == ["pgd-ce", "pgd-margin", "apgd-t3"] == list(STANDARD_FAST)
    assert members == {
        "pgd-ce": PGD(4 / 255, steps=20, loss="ce", start="uniform", keep="best", restarts=1, step_size=None, **options),
        "pgd-margin": PGD(4 / 255, steps=20, loss="margin", start="uniform", keep="best", restarts=1, step_size=None, **options),
        "apgd-t3": APGD(4 / 255, steps=20, loss="dlr", targets=3, restarts=1, rho=0.75, **options),
    }


def test_it_is_the_default_of_every_verb_and_listed():
    assert DEFAULT == "standard-fast"
    assert DEFAULT in attacks()
    assert inspect.signature(ironclip.evaluate).parameters["attack"].default is None
    for knowledge in get_args(Knowledge):
        for test_time in (False, True):
            adaptive = knowledge == "adaptive" and test_time
            assert default(knowledge, test_time=test_time) == ("adaptive" if adaptive else DEFAULT)
    assert Measure().attacks == (DEFAULT,)


def test_a_name_stands_for_the_members_and_goes_beside_others():
    named = named_attacks([DEFAULT], EPS, 3)
    assert named == StandardFast(EPS, seed=3).members
    beside = named_attacks(["autoattack", DEFAULT, "pgd"], EPS, 3, ["steps=7"])
    assert list(beside) == ["apgd-ce", "apgd-t", "fab-t", "square", *named, "pgd"]
    assert {name: beside[name] for name in named} == named  # what is set is set on the others
    assert beside["pgd"].steps == 7


@pytest.mark.parametrize("change", ["steps=5", "targets=9", "mode=full", "seed=4", "loss=ce", "nonsense=1"])
def test_nothing_of_it_can_be_set(change):
    with pytest.raises(UsageError, match=f"nothing of standard-fast can be set; got {change.split('=')[0]}, "):
        named_attacks([DEFAULT], EPS, 0, [change])


def test_it_can_be_stored_and_rebuilt_with_its_members_described():
    attack = StandardFast(EPS, norm="l2", seed=2)
    assert rebuild(describe(attack)) == attack
    assert describe(attack)["derived"]["members"]["apgd-t3"]["targets"] == 3


@pytest.mark.parametrize("norm", ["linf", "l2"])
def test_an_evaluation_by_members_breaks_the_images_that_the_whole_breaks_and_later_members_meet_survivors(norm):
    model, images, labels = scene(30)
    eps = EPS if norm == "linf" else 0.25
    whole = right(model, StandardFast(eps, norm=norm)(model, images, labels), labels)
    batch = Batch(images, labels, torch.arange(len(images)), Named(model).classes)
    members = StandardFast(eps, norm=norm).members
    found = evaluate(Named(model), members, [batch], Threat(eps=eps, norm=norm))
    assert [sample.robust for sample in found.samples] == whole.tolist()
    assert 0 < whole.sum() < len(images)
    order = list(members)
    for sample in found.samples:
        if sample.broken_by == "clean":
            assert not sample.adversarial
        else:  # an image meets the members in turn up to the one that breaks it
            last = order.index(sample.broken_by) if sample.broken_by else len(order) - 1
            assert list(sample.adversarial) == order[: last + 1]


@pytest.mark.parametrize("classes", [2, 3, 4])
def test_any_number_of_classes_from_two(classes):
    model, images, labels = scene(12, classes)
    adv = StandardFast(0.05)(model, images, labels)
    assert right(model, adv, labels).sum() < right(model, images, labels).sum()


def test_no_member_breaks_an_image_that_the_whole_leaves():
    model, images, labels = scene(30)
    whole = right(model, StandardFast(EPS)(model, images, labels), labels)
    for member in StandardFast(EPS).members.values():
        assert (whole <= right(model, member(model, images, labels), labels)).all()


def test_pictures_for_another_classifier_are_made_without_early_stop():
    model, other = Named(scene(4)[0]), Named(scene(4, seed=5)[0])
    members = StandardFast(EPS).members
    for knowledge in ("static", "adaptive"):
        described = constants(model, members, Threat(eps=EPS, knowledge=knowledge), [other])
        made_elsewhere = {name: about["mode"] for name, about in described.items() if "/" in name}
        assert set(made_elsewhere.values()) == {"full"}
        assert len(made_elsewhere) == len(members)


def test_scores_alone_are_not_enough_for_it():
    model, images, labels = scene(4)
    batch = Batch(images, labels, torch.arange(4), Named(model).classes)
    with pytest.raises(UsageError, match="needs gradients, but the threat is black-box"):
        evaluate(Named(model), StandardFast(EPS).members, [batch], Threat(eps=EPS, knowledge="black-box"))
