"""The attacks of AutoAttack against the released implementation, in float64 and float32, from the same draws."""

import pytest
import torch
from parity import assert_attack_matches, assert_matches, cases, comparable, load_case, notes_of
from torch import nn

from ironclip.attacks import AutoAttack, _climb
from ironclip.attacks._climb import climb
from ironclip.attacks._goal import Part, ranked_targets
from ironclip.attacks.apgd import start
from ironclip.attacks.fab import approach
from ironclip.attacks.square import Draws, search, side
from ironclip.core.losses import cross_entropy_each, dlr_each, targeted_dlr_each


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


CASES = cases("autoattack_")
DTYPES = {"float64": torch.float64, "float32": torch.float32}
LOSSES = {"ce": cross_entropy_each, "dlr": dlr_each}


@pytest.fixture(params=CASES)
def case(request):
    return opened(request.param, torch.float64)


def opened(name, dtype):
    tensors, notes = load_case(name, dtype)
    return tensors, notes, Network(tensors, notes["constants"]["activation"])


def runs():
    """(case, loss, steps) of every stored run towards no target."""
    return [
        (name, loss, steps)
        for name in CASES
        for steps in notes_of(name)["constants"]["apgd"]["iterations"]
        for loss in LOSSES
        if f"apgd_{loss}_{steps}_loss" in notes_of(name)["tensors"]
    ]


def members():
    """Attacks whose survivors are stored, each by itself; Square is slow."""
    stored = sorted({name for case in CASES for name in notes_of(case)["tensors"] if name.startswith("alone_")})
    names = [name.removeprefix("alone_").removesuffix("_robust").replace("_", "-") for name in stored]
    return [pytest.param(name, marks=pytest.mark.slow) if name == "square" else name for name in names]


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


def same(case, prefix, found):
    """Everything found equals what is stored, where it is stated for this precision; the number of comparisons.

    In float32 slopes that are zero up to rounding are met in some of very many steps: points may differ in one number of
    a hundred, losses, step sizes and survivors not at all.
    """
    dtype, compared = case[0]["x"].dtype, 0
    for what, value in found.items():
        name = f"{prefix}_{what}"
        if name not in case[0] or not (what == "robust" or comparable(case[:2], name, dtype)):
            continue
        if what in ("best", "adv", "iterates"):
            assert_attack_matches(case[:2], name, value, share=0.01)
        else:
            assert_matches(case[:2], name, value)
        compared += 1
    return compared


def path(case, loss, steps, first_loss="zero"):
    tensors, notes, network = case
    images, labels, sizes = tensors["x"], tensors["y"], notes["constants"]
    first = start(images, sizes["eps"], "linf", tensors["noise"], 0, torch.arange(len(images)), 0)
    seen = Path(images, labels)
    climb(
        network, loss, first, images, eps=sizes["eps"], steps=steps, kind="linf", observe=seen, first_loss=first_loss,
        rho=sizes["apgd"]["rho"], eot=sizes["apgd"]["eot"],
    )  # fmt: skip
    return seen


def labelled(case, name):
    return lambda outputs, rows: LOSSES[name](outputs, case[0]["y"][rows])


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", CASES)
def test_losses_and_start(name, dtype):
    case = tensors, notes, network = opened(name, DTYPES[dtype])
    logits, labels = network(tensors["x"]), tensors["y"]
    assert_matches(case[:2], "clean_logits", logits)
    assert_matches(case[:2], "dlr", dlr_each(logits, labels))
    wanted = ranked_targets(logits, labels, logits.shape[1] - 1)
    ranked = logits.argsort(dim=1, descending=True)
    targeted = torch.stack([targeted_dlr_each(logits, labels, target) for target in ranked.T[1:]], dim=1)
    assert_matches(case[:2], "dlr_targeted", targeted)
    right = logits.argmax(1) == labels
    assert wanted[:, right].equal(ranked.T[1:, right])
    everyone = torch.arange(len(labels))
    first = start(tensors["x"], notes["constants"]["eps"], "linf", tensors["noise"], 0, everyone, 0)
    assert_matches(case[:2], "start", first)


def step_sizes(monkeypatch):
    """The step sizes of a climb, written down as it takes them: the only numbers that it spreads over images."""
    seen, whole = [], _climb.per_image

    def watched(values, like):
        if values.is_floating_point():
            seen.append(values)
        return whole(values, like)

    monkeypatch.setattr(_climb, "per_image", watched)
    return seen


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(("where", "name", "steps"), runs())
def test_apgd(where, name, steps, dtype, monkeypatch):
    case = opened(where, DTYPES[dtype])
    taken = step_sizes(monkeypatch)
    assert case[1]["constants"]["apgd"]["momentum"] == _climb.MOMENTUM
    seen = path(case, labelled(case, name), steps)
    best, value = seen.best
    found = {
        "loss": torch.stack(seen.values[1:]), "best_loss": value, "best": best, "robust": seen.robust,
        "step": torch.stack(taken), "adv": seen.latest_wrong, "iterates": torch.stack(seen.points[1:]),
    }  # fmt: skip
    assert same(case, f"apgd_{name}_{steps}", found)


@pytest.mark.parametrize(("where", "name", "steps"), runs())
def test_apgd_compares_the_first_loss_with_the_starts(where, name, steps):
    """Our default. The released code compares it with an unset 0; where both say the same, so does the whole climb."""
    case = opened(where, torch.float64)
    seen = path(case, labelled(case, name), steps, first_loss="start")
    first, second = seen.values[0], seen.values[1]
    alike = (second > first) == (second > 0)
    assert alike.any() or name == "dlr"  # DLR is negative at images that are classified correctly
    for what, value in (("loss", torch.stack(seen.values[1:]).T), ("best", seen.best[0]), ("robust", seen.robust)):
        full = f"apgd_{name}_{steps}_{what}"
        stored = case[0][full].T if what == "loss" else case[0][full]
        assert_matches(({full: stored[alike]}, case[1]), full, value[alike])


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", CASES)
def test_apgd_towards_targets(name, dtype):
    case = tensors, notes, network = opened(name, DTYPES[dtype])
    labels, sizes = tensors["y"], notes["constants"]["apgd_t"]
    ranked = network(tensors["x"]).argsort(dim=1, descending=True).T
    wanted = ranked[[rank - 1 for rank in sizes["ranks_of_clean_logits"]]]
    assert_matches(case[:2], "apgd_t_targets", wanted)
    paths = []
    for target in wanted:
        loss = lambda outputs, rows, target=target: targeted_dlr_each(outputs, labels[rows], target[rows])  # noqa: E731
        paths.append(path(case, loss, sizes["iterations"]))
    found = {
        "loss": torch.stack([torch.stack(seen.values[1:]) for seen in paths]),
        "best_loss": torch.stack([seen.best[1] for seen in paths]), "best": torch.stack([seen.best[0] for seen in paths]),
        "robust": torch.stack([seen.robust for seen in paths]),
    }  # fmt: skip
    assert same(case, "apgd_t", found)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", CASES)
def test_fab(name, dtype):
    case = tensors, notes, network = opened(name, DTYPES[dtype])
    images, labels, eps, sizes = tensors["x"], tensors["y"], notes["constants"]["eps"], notes["constants"]["fab"]
    constants = {key: sizes[key] for key in ("alpha_max", "eta", "beta")}
    logits, everyone = network(images), torch.arange(len(images))
    right, ranks = logits.argmax(1) == labels, [rank - 2 for rank in sizes["ranks_of_clean_logits"]]
    targets = ranked_targets(logits, labels, max(ranks) + 1)[ranks]
    for kind, wanted, steps in (("fab_t", targets, sizes["iterations"]), ("fab", None, sizes["untargeted_iterations"])):
        part = Part(images, labels, everyone, logits, wanted, "margin")
        near = approach(network, part, part.images, eps=eps, steps=steps, kind="linf", **constants)
        found = near.distance.isfinite().view(-1, len(images)) & right
        adv = torch.where(found[..., None, None, None], near.points.view(-1, *images.shape), images)
        shaped = adv if wanted is not None else adv[0]
        if wanted is not None and comparable(case[:2], f"{kind}_adv", images.dtype):
            assert_matches(case[:2], f"{kind}_adv", shaped)
        assert_matches(case[:2], f"{kind}_distance", (shaped - images).abs().amax((-3, -2, -1)))


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", CASES)
def test_square(name, dtype):
    case = tensors, notes, network = opened(name, DTYPES[dtype])
    images, labels, sizes = tensors["x"], tensors["y"], notes["constants"]["square"]
    right = network(images).argmax(1) == labels
    images, labels = images[right], labels[right]
    corners = torch.stack([tensors["square_row"], tensors["square_col"]], dim=1).long()
    draws = Draws(
        tensors["square_stripes"].to(images),
        corners.expand(len(images), -1, -1),
        tensors["square_sign"].to(images).expand(len(images), -1, -1),
    )
    sides = [side(query, sizes["p_init"], *images.shape[-2:]) for query in range(sizes["queries"])]
    best, spent = search(network, images, labels, labels, draws, sides, notes["constants"]["eps"], early=True)
    assert_matches(case[:2], "square_robust", ~best.fooled)
    assert_matches(case[:2], "square_best", best.adv)
    assert_matches(case[:2], "square_margin", -best.values)
    assert_matches(case[:2], "square_queries", spent.to(images.dtype))


def broken(network, adv, labels):
    return network(adv).argmax(1) != labels


def agrees(case, name, robust, spare=1):
    """At most `spare` images more or less than the spread over the three seeds of the released code."""
    stored = case[0][name].sum(1)
    assert stored.min() - spare <= robust.sum() <= stored.max() + spare


@pytest.mark.parametrize("name", members())
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
