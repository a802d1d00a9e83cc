"""Which attacks climb one loss alone, and how a record says so."""

import pytest
from reporting import record

from ironclip.attacks import FIXED, STANDARD_FAST, build, describe
from ironclip.attacks.eot import Averaged
from ironclip.protocols.resolve import named_attacks
from ironclip.records import record as records
from ironclip.records.bounds import losses, one_loss
from ironclip.records.record import AttackResult, Sample
from ironclip.records.summary import flags, resolution

EPS = 4 / 255
ALONE = [
    [("pgd", {})], [("pgd", {"steps": 1000, "restarts": 9})], [("pgd", {"loss": "margin"})], [("fgsm", {})], [("mim", {})],
    [("cw", {})], [("apgd", {})], [("apgd", {"targets": 9, "loss": "dlr"})], [("di", {})], [("fab", {})], [("square", {})],
    [("feature", {})], [("fgsm", {}), ("pgd", {}), ("mim", {}), ("apgd", {})], [("cw", {}), ("square", {})],
    [("pgd", {"loss": "kl"})], [("pgd", {}), ("pgd", {"loss": "kl"})],
]  # fmt: skip
TOGETHER = [
    [("pgd", {}), ("cw", {})], [("pgd", {}), ("pgd", {"loss": "dlr"})], [("apgd", {}), ("apgd", {"targets": 3, "loss": "dlr"})],
    [("autoattack", {})], [("autoattack", {"version": "rand"})], [("standard-fast", {})], [("pgd", {}), ("fab", {})],
]  # fmt: skip


def described(pairs):
    return [describe(build(name, eps=EPS, **options)) for name, options in pairs]


@pytest.mark.parametrize("pairs", ALONE, ids=str)
def test_one_loss_is_one_loss_with_any_steps(pairs):
    assert one_loss(described(pairs))


@pytest.mark.parametrize("pairs", TOGETHER, ids=str)
def test_cross_entropy_and_a_margin_together_are_a_worst_case(pairs):
    assert not one_loss(described(pairs))


@pytest.mark.parametrize("name", ["autoattack", *FIXED])
def test_members_count_one_by_one_on_the_mean_of_draws_and_for_all_together(name):
    members = named_attacks([name], EPS, 0)
    assert not one_loss(records.describe(member) for member in members.values())
    assert not one_loss(records.describe(Averaged(member, 3)) for member in members.values())
    assert losses(describe(build(name, eps=EPS))) == {"ce", "targets"} | ({"margin"} & losses(describe(build(name, eps=EPS))))
    first = next(iter(members.values()))
    assert one_loss([records.describe(Averaged(first, 3))])


def test_no_attack_is_no_bound():
    assert not one_loss([])
    assert not record(attacks=()).one_loss
    assert not record(eps=0.0).one_loss


def worst_case():
    return tuple(
        AttackResult(name=name, constants=about, attacked=4, broken=1, survivors=3)
        for name, about in zip(STANDARD_FAST, map(describe, named_attacks(["standard-fast"], EPS, 0).values()), strict=True)
    )


def flagged(made):
    sample = Sample(index=0, label=0, clean=0, adversarial={"pgd": 1}, clean_margin=-1.0, margin=0.1, distance=0.1)
    return {flag.id: flag.text for flag in flags(made, [sample])}


def test_a_record_of_one_loss_is_marked_and_flagged():
    made = record()
    assert flagged(made)["one_loss"].startswith("one loss: upper bound")
    assert f"robust ≤ {made.robust}" in str(made)
    whole = record(attacks=worst_case())
    assert "one_loss" not in flagged(whole)
    assert "≤" not in str(whole)


def test_few_pictures_say_how_much_one_of_them_weighs():
    assert resolution(20) == "20 images: one image is 5 points"
    assert resolution(1) == "1 image: one image is 100 points"
    assert flagged(record(images=20, clean=10, robust=5))["resolution"] == resolution(20)
    assert "resolution" in flagged(record(images=49, clean=10, robust=5))
    assert "resolution" not in flagged(record(images=50, clean=10, robust=5))
