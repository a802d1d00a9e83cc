"""What every trained method must keep, run over every file of `ironclip.defenses`: a new method is tested by existing."""

import copy

import pytest
import torch
from torch.testing import assert_close

from ironclip.attacks.pgd import PGD
from ironclip.backbones import assemble
from ironclip.backbones.tiny import tiny_backbone
from ironclip.core.errors import AdaptationClash, UsageError
from ironclip.core.types import Batch, Defense
from ironclip.defenses import NAMES, Stack, build, method, options
from ironclip.loops.training import Schedule, fit

CLASSES = ("cat", "golden_retriever", "school bus", "tram")
OTHERS = ("dog", "oak tree", "house", "boat", "trout")
SMALL = {"length": 4}  # options that keep a method small where it has them
RATES = {"avp_pixel": 1.0}  # a frame starts with unit variance; its published learning rate is 40
ATTACK = PGD(eps=4 / 255, step_size=2 / 255, steps=2, keep="last", seed=3)


@pytest.fixture(scope="module")
def backbone():
    return tiny_backbone()


@pytest.fixture(scope="module")
def batch():
    draw = torch.Generator().manual_seed(1)
    return Batch(torch.rand(6, 3, 32, 32, generator=draw), torch.arange(6) % 4, torch.arange(6), CLASSES)


def make(name: str, backbone, classes=CLASSES, seed: int = 0) -> Defense:
    given = {key: value for key, value in SMALL.items() if key in options(name)}
    return build(name, backbone, classes, generator=torch.Generator().manual_seed(seed), given=given)


def logits(defense, backbone, batch, classes=CLASSES):
    with torch.no_grad():
        return assemble(backbone, classes, defense.adaptation(backbone, classes))(batch.images)


def train(defense, backbone, batch, epochs: int = 2) -> None:
    defense.prepare(backbone, [batch])
    fit(
        defense, backbone, lambda epoch: [batch], ATTACK, schedule=Schedule(epochs=epochs, batch_size=6, lr=0.01, warmup_epochs=0)
    )


every_method = pytest.mark.parametrize("name", NAMES)


@every_method
def test_the_file_declares_one_method_with_documented_options(name):
    assert issubclass(method(name), Defense)
    assert method(name).__doc__
    assert not getattr(method(name), "__abstractmethods__", None)


@every_method
def test_state_is_exactly_what_was_learned(backbone, name):
    defense = make(name, backbone)
    learned = dict(defense.named_parameters())
    assert set(defense.state_dict()) == set(learned)
    assert defense.learns == bool(learned)
    assert all(parameter.requires_grad for parameter in learned.values())
    frozen = {id(p) for p in backbone.parameters()}
    assert not frozen & {id(p) for p in learned.values()}
    grouped = [id(p) for group in defense.parameter_groups(1.0) for p in group["params"]]
    assert sorted(grouped) == sorted(id(p) for p in learned.values())


@every_method
def test_training_leaves_the_backbone_bitwise_alone_and_moves_the_rest(backbone, batch, name):
    before = {key: value.clone() for key, value in backbone.state_dict().items()}
    defense = make(name, backbone)
    start = copy.deepcopy(defense.state_dict())
    train(defense, backbone, batch)
    assert all(torch.equal(value, before[key]) for key, value in backbone.state_dict().items())
    assert all(parameter.grad is None and not parameter.requires_grad for parameter in backbone.parameters())
    assert not start or any(not torch.equal(value, start[key]) for key, value in defense.state_dict().items())


@every_method
def test_the_inner_attack_leaves_gradients_modes_and_randomness_alone(backbone, batch, name):
    defense = make(name, backbone)
    for parameter in defense.parameters():
        parameter.grad = torch.full_like(parameter, 7.0)
    defense.train()
    modes = [module.training for module in defense.modules()]
    state = torch.random.get_rng_state()
    terms = defense.loss(backbone, batch, ATTACK)
    assert torch.equal(torch.random.get_rng_state(), state)
    assert [module.training for module in defense.modules()] == modes
    assert all(bool((parameter.grad == 7.0).all()) for parameter in defense.parameters())
    assert all(parameter.requires_grad for parameter in defense.parameters())
    assert all(term.ndim == 0 and bool(term.isfinite()) for term in terms.values())
    assert bool(terms) == any(True for _ in defense.parameters())


@every_method
def test_attacked_images_stay_in_the_ball_and_in_the_box(backbone, batch, name):
    found = []

    def watch(function, images, labels, **given):
        found.append((images, ATTACK(function, images, labels, **given)))
        return found[-1][1]

    make(name, backbone).loss(backbone, batch, watch)
    for images, adv in found:
        assert (adv - images).abs().max() <= ATTACK.eps + 1e-7
        assert adv.min() >= 0
        assert adv.max() <= 1


@every_method
def test_the_same_generator_gives_the_same_training(backbone, batch, name):
    first, second = make(name, backbone), make(name, backbone)
    for defense in (first, second):
        train(defense, backbone, batch)
    for key, value in first.state_dict().items():
        assert torch.equal(value, second.state_dict()[key])
    assert torch.equal(logits(first, backbone, batch), logits(second, backbone, batch))


@every_method
def test_saved_and_loaded_it_gives_equal_logits_also_for_other_classes(backbone, batch, name):
    defense, fresh = make(name, backbone), make(name, backbone, seed=1)
    train(defense, backbone, batch)
    fresh.load_state_dict(defense.state_dict())
    assert torch.equal(logits(defense, backbone, batch), logits(fresh, backbone, batch))
    if not defense.transfers:
        with pytest.raises(UsageError, match="alone"):
            defense.adaptation(backbone, OTHERS)
        return
    elsewhere = make(name, backbone, OTHERS, seed=2)
    elsewhere.load_state_dict(defense.state_dict())
    assert logits(elsewhere, backbone, batch, OTHERS).shape == (6, 5)
    assert torch.equal(logits(elsewhere, backbone, batch, OTHERS), logits(defense, backbone, batch, OTHERS))


@every_method
def test_a_prediction_is_independent_of_its_company(backbone, batch, name):
    defense = make(name, backbone)
    train(defense, backbone, batch, epochs=1)
    with torch.no_grad():
        classifier = assemble(backbone, CLASSES, defense.adaptation(backbone, CLASSES))
        whole = classifier(batch.images)
        for i in (0, 3):
            assert_close(classifier(batch.images[i : i + 1])[0], whole[i], atol=1e-4, rtol=1e-4)
        assert_close(classifier(batch.images.flip(0)).flip(0), whole, atol=1e-4, rtol=1e-4)
        assert torch.equal(classifier(batch.images), whole)


@every_method
def test_training_lowers_its_loss(backbone, batch, name):
    defense, losses = make(name, backbone), []
    if not any(True for _ in defense.parameters()):
        assert defense.loss(backbone, batch, ATTACK) == {}
        return
    fit(
        defense, backbone, lambda epoch: [batch], ATTACK,
        schedule=Schedule(epochs=8, batch_size=6, lr=RATES.get(name, 0.02), warmup_epochs=0, clip_norm=1.0),
        callback=lambda event: losses.append(sum(event["terms"].values())) if event["event"] == "epoch" else None,
    )  # fmt: skip
    assert losses[-1] < losses[0]


@every_method
def test_it_stacks_on_another_method_or_says_why_not(backbone, batch, name):
    stood = 0
    for other in NAMES:
        if other == name:
            continue
        parts = {part: make(part, backbone) for part in (name, other)}
        try:
            merged = Stack(parts).adaptation(backbone, CLASSES)
        except AdaptationClash:
            continue
        stack = Stack(parts)
        terms = stack.loss(backbone, batch, ATTACK, adaptation=merged)
        assert all(bool(term.isfinite()) for term in terms.values())
        assert logits(stack, backbone, batch).shape == (6, 4)
        stood += 1
    assert stood


@every_method
def test_parts_of_a_batch_teach_what_the_whole_teaches_where_the_method_says_so(name, backbone, batch):
    if not method(name).divisible or not list(make(name, backbone).parameters()):
        return

    def taught(rows: slice) -> tuple[dict[str, float], list[torch.Tensor]]:
        defense = make(name, backbone)
        defense.prepare(backbone, [batch])
        defense.train()
        part = Batch(batch.images[rows], batch.labels[rows], batch.indices[rows], CLASSES)
        terms = defense.loss(backbone, part, ATTACK)
        torch.stack(list(terms.values())).sum().backward()
        slopes = [torch.zeros_like(p) if p.grad is None else p.grad for p in defense.parameters()]
        return {key: float(value.detach()) for key, value in terms.items()}, slopes

    (terms, slopes), (first, ours), (second, theirs) = (taught(slice(*rows)) for rows in ((None,), (0, None, 2), (1, None, 2)))
    for key, value in terms.items():
        assert (first[key] + second[key]) / 2 == pytest.approx(value, rel=1e-3, abs=1e-5)
    for whole, a, b in zip(slopes, ours, theirs, strict=True):
        assert_close((a + b) / 2, whole, rtol=1e-3, atol=1e-3 * float(whole.abs().max()) + 1e-9)
