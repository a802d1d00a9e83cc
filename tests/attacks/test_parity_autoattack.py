"""The attacks of AutoAttack against the released implementation, in float64, from the same draws."""

import pytest
import torch
from parity import assert_matches, load_case
from torch import nn

from ironclip.attacks import AutoAttack
from ironclip.attacks._climb import climb
from ironclip.attacks._goal import Part, ranked_targets
from ironclip.attacks.apgd import start
from ironclip.attacks.fab import approach
from ironclip.attacks.square import Draws, search, side
from ironclip.losses import cross_entropy_each, dlr_each, targeted_dlr_each


class Network(nn.Module):
    """The network of the cases: two convolutions and two linear layers."""

    def __init__(self, tensors, activation):
        super().__init__()
        self.weights = {name.removeprefix("w."): value for name, value in tensors.items() if name.startswith("w.")}
        self.activation = {"silu": nn.functional.silu, "relu": nn.functional.relu}[activation]

    def forward(self, images):
        x, w = 2 * images - 1, self.weights
        x = self.activation(nn.functional.conv2d(x, w["c1.weight"], w["c1.bias"], padding=1))
        x = self.activation(nn.functional.conv2d(x, w["c2.weight"], w["c2.bias"], padding=1, stride=2))
        x = self.activation(nn.functional.linear(x.flatten(1), w["f1.weight"], w["f1.bias"]))
        return nn.functional.linear(x, w["f2.weight"], w["f2.bias"])


@pytest.fixture(params=["autoattack_a", "autoattack_b"])
def case(request):
    tensors, notes = load_case(request.param)
    return tensors, notes, Network(tensors, notes["constants"]["activation"])


class Path:
    """Everything that a climb looks at, written down."""

    def __init__(self, images, labels):
        self.points, self.values, self.wrong = [], [], []
        self.labels = labels

    def __call__(self, rows, points, outputs, values):
        self.points.append(points)
        self.values.append(values)
        self.wrong.append(outputs.argmax(1) != self.labels)

    @property
    def best(self):
        values = torch.stack(self.values)
        at = values.argmax(0)
        return torch.stack(self.points)[at, torch.arange(len(at))], values.amax(0)

    @property
    def latest_wrong(self):
        adv = self.points[0].clone()
        for points, wrong in zip(self.points, self.wrong, strict=True):
            adv[wrong] = points[wrong]
        return adv

    @property
    def robust(self):
        return ~torch.stack(self.wrong).any(0)


def path(case, loss, steps):
    tensors, notes, network = case
    images, labels = tensors["x"], tensors["y"]
    first = start(images, notes["constants"]["eps"], "linf", tensors["noise"], 0, torch.arange(len(images)), 0)
    seen = Path(images, labels)
    climb(network, loss, first, images, eps=notes["constants"]["eps"], steps=steps, kind="linf", observe=seen, first_loss="zero")
    return seen


def test_losses_and_start(case):
    tensors, notes, network = case
    logits, labels = network(tensors["x"]), tensors["y"]
    assert_matches(case[:2], "clean_logits", logits)
    assert_matches(case[:2], "dlr", dlr_each(logits, labels))
    wanted = ranked_targets(logits, labels, 99)
    ranked = logits.argsort(dim=1, descending=True)
    targeted = torch.stack([targeted_dlr_each(logits, labels, target) for target in ranked.T[1:]], dim=1)
    assert_matches(case[:2], "dlr_targeted", targeted)
    right = logits.argmax(1) == labels
    assert wanted[:, right].equal(ranked.T[1:, right])
    noise = tensors["noise"]
    assert_matches(case[:2], "start", start(tensors["x"], notes["constants"]["eps"], "linf", noise, 0, torch.arange(9), 0))


@pytest.mark.parametrize("name", ["ce", "dlr"])
@pytest.mark.parametrize("steps", [10, 50, 100])
def test_apgd(case, name, steps):
    loss = {"ce": cross_entropy_each, "dlr": dlr_each}[name]
    tensors = case[0]
    seen = path(case, lambda outputs, rows: loss(outputs, tensors["y"][rows]), steps)
    matches = lambda what, value: assert_matches(case[:2], f"apgd_{name}_{steps}_{what}", value)  # noqa: E731
    matches("loss", torch.stack(seen.values[1:]))
    best, value = seen.best
    matches("best_loss", value)
    matches("best", best)
    matches("robust", seen.robust)
    if f"apgd_{name}_{steps}_iterates" in tensors:
        matches("adv", seen.latest_wrong)
        matches("iterates", torch.stack(seen.points[1:]))


def test_apgd_towards_targets(case):
    tensors, _, network = case
    labels = tensors["y"]
    wanted = network(tensors["x"]).argsort(dim=1, descending=True).T[1:4]
    assert_matches(case[:2], "apgd_t_targets", wanted)
    paths = []
    for target in wanted:
        loss = lambda outputs, rows, target=target: targeted_dlr_each(outputs, labels[rows], target[rows])  # noqa: E731
        paths.append(path(case, loss, 30))
    assert_matches(case[:2], "apgd_t_loss", torch.stack([torch.stack(seen.values[1:]) for seen in paths]))
    assert_matches(case[:2], "apgd_t_best_loss", torch.stack([seen.best[1] for seen in paths]))
    assert_matches(case[:2], "apgd_t_best", torch.stack([seen.best[0] for seen in paths]))
    assert_matches(case[:2], "apgd_t_robust", torch.stack([seen.robust for seen in paths]))


def test_fab(case):
    tensors, notes, network = case
    images, labels, eps = tensors["x"], tensors["y"], notes["constants"]["eps"]
    right = network(images).argmax(1) == labels
    logits, everyone = network(images), torch.arange(len(images))
    for name, wanted, steps in (("fab_t", ranked_targets(logits, labels, 3), 100), ("fab", None, 30)):
        part = Part(images, labels, everyone, logits, wanted, "margin")
        near = approach(network, part, part.images, eps=eps, steps=steps, kind="linf")
        found = near.distance.isfinite().view(-1, len(images)) & right
        adv = torch.where(found[..., None, None, None], near.points.view(-1, *images.shape), images)
        shaped = adv if wanted is not None else adv[0]
        if wanted is not None:
            assert_matches(case[:2], f"{name}_adv", shaped)
        assert_matches(case[:2], f"{name}_distance", (shaped - images).abs().amax((-3, -2, -1)))


def test_square(case):
    tensors, notes, network = case
    images, labels = tensors["x"], tensors["y"]
    right = network(images).argmax(1) == labels
    images, labels = images[right], labels[right]
    queries = notes["constants"]["square"]["queries"]
    corners = torch.stack([tensors["square_row"], tensors["square_col"]], dim=1).long()
    draws = Draws(
        tensors["square_stripes"].to(images),
        corners.expand(len(images), -1, -1),
        tensors["square_sign"].to(images).expand(len(images), -1, -1),
    )
    sides = [side(query, 0.8, *images.shape[-2:]) for query in range(queries)]
    best, spent = search(network, images, labels, labels, draws, sides, notes["constants"]["eps"], early=True)
    assert_matches(case[:2], "square_robust", ~best.fooled)
    assert_matches(case[:2], "square_best", best.adv)
    assert_matches(case[:2], "square_margin", -best.values)
    assert_matches(case[:2], "square_queries", spent.double())


def broken(network, adv, labels):
    return network(adv).argmax(1) != labels


def agrees(case, name, robust, spare=1):
    """At most `spare` images more or less than the spread over the three seeds of the released code."""
    stored = case[0][name].sum(1)
    assert stored.min() - spare <= robust.sum() <= stored.max() + spare


@pytest.mark.parametrize("name", ["apgd-ce", "apgd-t", "fab-t", pytest.param("square", marks=pytest.mark.slow)])
def test_each_member_alone_breaks_as_many_images(case, name):
    tensors, notes, network = case
    images, labels = tensors["X"], tensors["Y"]
    attack = AutoAttack(notes["constants"]["eps"]).members[name]
    agrees(case, f"alone_{name.replace('-', '_')}_robust", ~broken(network, attack(network, images, labels), labels))


@pytest.mark.slow
def test_the_standard_attack_leaves_the_same_images(case):
    tensors, notes, network = case
    images, labels = tensors["X"], tensors["Y"]
    robust = ~broken(network, AutoAttack(notes["constants"]["eps"])(network, images, labels), labels)
    stored = tensors["aa_standard_robust"].bool()
    agrees(case, "aa_standard_robust", robust)
    assert (robust != stored[0]).sum() <= 1
