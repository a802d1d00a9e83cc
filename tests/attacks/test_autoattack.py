"""AutoAttack: its members agree with the whole, and the worst case over them is what counts."""

import pytest
import torch
from toys import Named, convnet, linear, pictures, predicted, right, rowwise, scene

from ironclip.attacks import APGD, FAB, MEMBERS, AutoAttack, Square, describe
from ironclip.core.errors import UsageError
from ironclip.core.threat import Threat
from ironclip.core.types import Batch
from ironclip.loops.evaluation import constants, evaluate
from ironclip.protocols.resolve import named_attacks

FEW = {"steps": 10, "queries": 60}


def test_the_versions_are_those_of_the_released_code():
    named = {version: AutoAttack(4 / 255, version=version).members for version in ("standard", "plus", "rand")}
    assert list(named["standard"]) == ["apgd-ce", "apgd-t", "fab-t", "square"]
    assert list(named["plus"]) == ["apgd-ce", "apgd-dlr", "fab", "square", "apgd-t", "fab-t"]
    assert list(named["rand"]) == ["apgd-ce", "apgd-dlr"]
    options = {"mode": "compact"}
    assert named["standard"] == {
        "apgd-ce": APGD(4 / 255, steps=100, restarts=1, loss="ce", **options),
        "apgd-t": APGD(4 / 255, steps=100, restarts=1, loss="dlr", targets=9, **options),
        "fab-t": FAB(4 / 255, steps=100, restarts=1, targets=9, **options),
        "square": Square(4 / 255, queries=5000, restarts=1, **options),
    }
    assert [attack.restarts for attack in named["plus"].values()] == [5, 5, 5, 1, 1, 1]
    assert named["plus"]["fab"].targets == 0
    assert [attack.eot for attack in named["rand"].values()] == [20, 20]


def test_members_are_described_in_the_record_of_the_whole():
    derived = describe(AutoAttack(4 / 255, **FEW))["derived"]["members"]
    assert derived["apgd-t"]["targets"] == 9
    assert derived["square"]["queries"] == 60
    assert derived["fab-t"]["steps"] == 10


@pytest.mark.parametrize("eps", [0.005, 0.02, 0.05])
def test_an_evaluation_by_members_breaks_the_images_that_the_whole_breaks(eps):
    model, images, labels = scene()
    attack = AutoAttack(eps, seed=3, **FEW)
    whole = right(model, attack(model, images, labels), labels)
    named = named_attacks(["autoattack"], eps, 3, ["steps=10", "queries=60"])
    assert named == attack.members
    batch = Batch(images, labels, torch.arange(len(images)), Named(model).classes)
    found = evaluate(Named(model), named, [batch], Threat(eps=eps))
    assert [sample.robust for sample in found.samples] == whole.tolist()
    assert {sample.broken_by for sample in found.samples} <= {None, "clean", *MEMBERS}
    assert 0 < whole.sum() < len(images)


def test_the_robust_set_shrinks_along_the_list_and_ends_below_every_member():
    model, images, labels = scene(40)
    standing = right(model, images, labels)
    clean = standing.clone()
    attack = AutoAttack(0.02, **FEW)
    for name, member in attack.members.items():
        alone = right(model, member(model, images, labels), labels)
        assert (alone <= clean).all(), name
        standing &= alone
    # A member that goes first leaves the others as they are: every image has its own draws.
    assert right(model, attack(model, images, labels), labels).equal(standing)


def test_members_keep_their_names_and_can_be_run_alone():
    named = named_attacks(["apgd-t", "fab-t", "fab", "pgd"], 4 / 255, 1, ["steps=7"])
    assert list(named) == ["apgd-t", "fab-t", "fab", "pgd"]
    assert named["apgd-t"] == APGD(4 / 255, steps=7, loss="dlr", targets=9, mode="compact", seed=1)
    assert named["fab"] == FAB(4 / 255, steps=7, seed=1)
    assert list(named_attacks(["autoattack"], 4 / 255, 0, ["version=rand"])) == ["apgd-ce", "apgd-dlr"]
    with pytest.raises(UsageError, match="unknown attack 'apgd-s'; did you mean 'apgd-t'"):
        named_attacks(["apgd-s"], 4 / 255, 0)


@pytest.mark.parametrize("version", ["standard", "plus", "rand"])
@pytest.mark.parametrize("classes", [2, 3, 4, 12])
def test_any_number_of_classes_from_two(version, classes):
    model, images, labels = scene(12, classes)
    adv = AutoAttack(0.05, version=version, **FEW)(model, images, labels)
    assert right(model, adv, labels).sum() < right(model, images, labels).sum()


def test_full_perturbs_every_image_and_breaks_no_fewer():
    model, images, labels = scene(20)
    full = AutoAttack(0.02, mode="full", **FEW)(model, images, labels)
    compact = AutoAttack(0.02, **FEW)(model, images, labels)
    assert (full != images).flatten(1).any(1).all()
    assert right(model, full, labels).equal(right(model, compact, labels))
    wrong = ~right(model, images, labels)
    assert compact[wrong].equal(images[wrong])


def test_pictures_for_another_classifier_are_made_without_early_stop():
    model, images, labels = scene(12)
    other = Named(convnet(seed=5))
    named = AutoAttack(0.02, **FEW).members
    threat = Threat(eps=0.02, knowledge="static")
    described = constants(Named(model), named, threat, [other])
    assert {about["mode"] for about in described.values()} == {"full"}
    assert {about["mode"] for about in constants(Named(model), named, Threat(eps=0.02)).values()} == {"compact"}
    rounded = Threat(eps=0.02, quantised=True)
    assert {about["mode"] for about in constants(Named(model), named, rounded).values()} == {"full"}
    batch = Batch(images, labels, torch.arange(len(images)), other.classes)
    found = evaluate(Named(model), named, [batch], threat, surrogates=[other], stop_early=False)
    assert all(sample.distance > 0 for sample in found.samples)


def test_no_image_is_robust_at_a_large_radius_and_none_is_broken_in_a_half_space_before_its_distance():
    model, images = linear(2, dtype=torch.float64), 0.4 + 0.2 * pictures(dtype=torch.float64)
    labels = predicted(model, images)
    logits, weight = model(images).detach(), model[1].weight.detach()
    distance = (logits[:, 0] - logits[:, 1]).abs() / (weight[0] - weight[1]).abs().sum()
    eps = distance.sort().values
    between = ((eps[5] + eps[6]) / 2).item()
    robust = right(model, AutoAttack(between, **FEW)(model, images, labels), labels)
    assert robust.equal(distance > between)


def test_the_outcome_of_an_image_does_not_depend_on_its_company():
    model, images = rowwise(), pictures(20)
    labels, positions = predicted(model, images), torch.arange(50, 70)
    attack = AutoAttack(0.03, **FEW)
    whole = attack(model, images, labels, indices=positions)
    order = torch.randperm(20, generator=torch.Generator().manual_seed(1))
    halves = [attack(model, images[part], labels[part], indices=positions[part]) for part in order.split(7)]
    assert torch.cat(halves).equal(whole[order])
    assert 0 < right(model, whole, labels).sum() < 20
