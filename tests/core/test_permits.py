"""The threat model binds every attack, through every wrapper; what is targeted or cannot move is refused."""

from dataclasses import dataclass, replace
from functools import partial
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from toys import pgd

from ironclip import attacks
from ironclip.attacks import APGD, CATALOGUE, DI, FGSM, MIM, PGD, AutoAttack, Square, Transfer
from ironclip.attacks._hyperplane import onto_hyperplane
from ironclip.attacks.apgd import start
from ironclip.attacks.eot import Averaged
from ironclip.attacks.mim import accumulated, begin
from ironclip.attacks.square import search
from ironclip.core.errors import UsageError
from ironclip.core.permits import check, full, inside
from ironclip.core.tensors import dual, norm, project, steepest
from ironclip.core.threat import Threat
from ironclip.core.types import Batch
from ironclip.loops.evaluation import evaluate, settings
from ironclip.loops.scoring import check_budget, quantised
from ironclip.records.record import BackboneFacts, DataFacts, Setup, canonical_hash

EPS = 4 / 255


@dataclass(frozen=True)
class Wrapper:
    """Somebody else's dataclass around attacks."""

    several: tuple[Any, ...]

    def __call__(self, function, images, labels, *, indices=None, loss=None):
        return self.several[0](function, images, labels, indices=indices)


class Plain:
    """Somebody else's object around an attack."""

    def __init__(self, inner: Any) -> None:
        self.inner = inner

    def __call__(self, function, images, labels, *, indices=None, loss=None):
        return self.inner(function, images, labels, indices=indices)


def enclosed(attack):
    def run(function, images, labels, *, indices=None, loss=None):
        return attack(function, images, labels, indices=indices)

    return run


WRAPPERS = {
    "itself": lambda attack: attack,
    "mean of draws": Averaged,
    "dataclass": lambda attack: Wrapper((FGSM(EPS), attack)),
    "object": Plain,
    "closure": enclosed,
    "partial": lambda attack: partial(enclosed(attack), loss=None),
    "two deep": lambda attack: Averaged(Wrapper((Plain(attack),))),
}
WRONG = {
    "norm": (PGD(EPS, norm="l2"), "is an attack in l2; the threat model says linf"),
    "radius": (PGD(2 * EPS), "has the radius 8/255; the threat model says 4/255"),
    "smaller radius": (APGD(EPS / 2), "has the radius 2/255; the threat model says 4/255"),
    "partial": (partial(pgd, eps=EPS, norm="l2"), "is an attack in l2"),
    "target": (MIM(EPS, targeted=True), "is targeted: its success is another measure"),
    "no step": (DI(EPS, steps=0), "with steps=0 cannot move a pixel"),
    "members": (AutoAttack(EPS, steps=0), "with steps=0 cannot move a pixel"),
    "short step": (PGD(EPS, step_size=1e-12, steps=5), "cannot move a pixel"),
}


class Rows(torch.nn.Module):
    classes = ("a", "b")

    def forward(self, images):
        return torch.stack([images.mean((1, 2, 3)), 1 - images.mean((1, 2, 3))], 1)


def batches():
    return [Batch(torch.rand(2, 3, 4, 4), torch.tensor([0, 1]), torch.tensor([0, 1]), ("a", "b"))]


@pytest.mark.parametrize("wrapper", WRAPPERS)
@pytest.mark.parametrize("wrong", WRONG)
def test_no_wrapper_hides_an_attack_from_the_threat(wrapper, wrong):
    attack, reason = WRONG[wrong]
    with pytest.raises(UsageError, match=reason):
        evaluate(Rows(), {"any": WRAPPERS[wrapper](attack)}, batches(), Threat(eps=EPS))


@pytest.mark.parametrize("wrapper", WRAPPERS)
def test_what_keeps_to_the_threat_runs(wrapper):
    evaluate(Rows(), {"any": WRAPPERS[wrapper](PGD(EPS, steps=1))}, batches(), Threat(eps=EPS))
    if wrapper != "dataclass":  # it holds an attack in linf
        evaluate(Rows(), {"any": WRAPPERS[wrapper](PGD(0.5, steps=1, norm="l2"))}, batches(), Threat("l2", 0.5))


def test_radius_zero_and_a_radius_below_a_grey_level_are_refused():
    with pytest.raises(UsageError, match="cannot move a pixel at radius 0"):
        check(FGSM(0.0), Threat(eps=0.0))
    with pytest.raises(UsageError, match="8-bit images cannot hold a radius below 1/255"):
        check(FGSM(0.5 / 255), Threat(eps=0.5 / 255, quantised=True))


def test_attacks_of_one_norm_refuse_the_other():
    check(Transfer(EPS), Threat(eps=EPS))
    with pytest.raises(UsageError, match="is an attack in linf, the only one it has; the threat model says l2"):
        check(Transfer(0.5), Threat("l2", 0.5))


def test_a_black_box_permits_attacks_on_scores_alone():
    threat = Threat(eps=EPS, knowledge="black-box")
    check(Square(EPS), threat)
    check(Transfer(EPS), threat)
    for attack in (PGD(EPS), Averaged(APGD(EPS)), AutoAttack(EPS)):
        with pytest.raises(UsageError, match="needs gradients, but the threat is black-box"):
            check(attack, threat)


@pytest.mark.parametrize("wrapper", WRAPPERS)
def test_full_reaches_through_every_wrapper_or_refuses_it(wrapper):
    held = WRAPPERS[wrapper](APGD(EPS, mode="compact"))
    if wrapper in ("closure", "partial"):
        with pytest.raises(UsageError, match=r'attack .APGD. stops early inside attack .*; give it mode="full"'):
            full(held)
        return
    assert {part.mode for part in inside(full(held)) if hasattr(part, "mode")} == {"full"}


def test_the_mean_of_draws_never_stops_early():
    for attack in (APGD(EPS, mode="compact"), AutoAttack(EPS, mode="compact"), Plain(PGD(EPS, mode="compact"))):
        held = Averaged(attack)
        assert {part.mode for part in inside(held) if hasattr(part, "mode")} == {"full"}
    assert {member.mode for member in AutoAttack(EPS, version="rand", mode="compact").members.values()} == {"full"}  # type: ignore[attr-defined]


@pytest.mark.parametrize("kind", ["l3", "L2", "linf ", "", "inf"])
def test_an_unknown_norm_is_not_taken_for_l2(kind):
    images = torch.rand(2, 3, 4, 4)
    for call in (lambda: norm(images, kind), lambda: project(images, images, 0.1, kind), lambda: steepest(images, kind)):
        with pytest.raises(UsageError, match="norm must be one of linf, l2"):
            call()


LOOSE = {
    "hyperplane": lambda x, kind: onto_hyperplane(x.flatten(1), x.flatten(1), x.flatten(1).sum(1), kind),
    "dual": dual,
    "square's search": lambda x, kind: search(Rows(), x, torch.arange(2), torch.arange(2), None, [1], 0.1, norm=kind, early=True),
    "apgd's start": lambda x, kind: start(x, 0.1, kind, None, 0, torch.arange(2), 0),
    "mim's start": lambda x, kind: begin(x, 0.1, kind, None, 0, torch.arange(2)),
    "mim's steps": lambda x, kind: accumulated(1.0, kind)(x),
    "audit": lambda x, kind: check_budget("a", x, x, torch.arange(2), SimpleNamespace(norm=kind, eps=0.1)),
    "rounding": lambda x, kind: quantised(x, x, SimpleNamespace(norm=kind, eps=0.1), "round"),
}  # fmt: skip


@pytest.mark.parametrize("part", LOOSE)
def test_no_part_of_an_attack_or_of_the_scores_takes_an_unknown_norm_for_one_it_knows(part):
    with pytest.raises(UsageError, match=r"norm must be one of linf, l2.*; got 'l3'"):
        LOOSE[part](torch.rand(2, 3, 4, 4), "l3")


@pytest.mark.parametrize("name", sorted(CATALOGUE))
def test_every_attack_refuses_an_unknown_norm(name):
    kind = attacks.kind(name)
    for wrong in ("l3", "L2", "", None, 2):
        with pytest.raises((UsageError, TypeError), match="norm"):
            kind(0.1, norm=wrong)


def stored(threat, surrogates=0):
    from ironclip.protocols.resolve import named_attacks

    data = DataFacts(name="shapes", classes=("a", "b"), available=9)
    setup = Setup(method="apt", backbone=BackboneFacts(name="mini", sha256="ab"), data=data, threat=threat)
    named = named_attacks(["pgd", "apgd-t", "transfer", "square"], EPS, 0, ["steps=7"])
    return canonical_hash(settings(setup, named, surrogates, images=9))


FROZEN = {
    "white-box": ("e4748c08f076079a73c58e28506664c63196978a2b1621f0c2ece99c4e92bbc8", 0),
    "static": ("dbe0eefb684af43f42df893085a8a1a766644a46fce3df4f19f43cd2751448e3", 1),
    "adaptive": ("739dbd52bb48f7924ecf511d83c306337a1623d9adeedb4f23baeabd4e6829a6", 1),
}
"""Hashes of settings as they were before a norm could be chosen and a source be named."""


@pytest.mark.parametrize("knowledge", FROZEN)
def test_stored_evaluations_are_found_again(knowledge):
    expected, surrogates = FROZEN[knowledge]
    threat = Threat(eps=EPS, knowledge=knowledge, resolution=64)
    assert stored(threat, surrogates) == expected
    if knowledge == "static":
        assert stored(replace(threat, source="zero_shot on mini"), surrogates) == expected
    assert stored(replace(threat, knowledge="transfer", source="a"), 1) != stored(
        replace(threat, knowledge="transfer", source="b"), 1
    )


def test_stored_runs_and_grid_cells_are_found_again():
    from ironclip.grid.file import Measure
    from ironclip.protocols.resolve import resolve

    run = resolve("apt", "shapes", given={"backbone": "mini"}).as_dict()
    assert canonical_hash(run) == "3fb13f3455e0d839f488d406d15585bbb67baa7ac3ee1de37805a44eb52d6da8"
    measure = Measure.model_validate({"attacks": "pgd,autoattack", "set": {"steps": 3}, "eps": "4/255", "limit": 10})
    kept = measure.model_dump(mode="json", exclude={"only", *measure.unused})
    assert canonical_hash([kept]) == "9456426d3eea5073604685dbf8098d128a11e508c07ed140e39dfa62a00af8af"


def test_what_only_looks_like_an_attack_is_left_alone():
    check(SimpleNamespace(eps=EPS, note="eps=8/255"), Threat(eps=EPS))
