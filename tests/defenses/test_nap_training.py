"""NAP in training: its loss, its surrogates, its steps, and what it learns."""

from dataclasses import dataclass
from functools import partial

import pytest
import torch
from stirred_nap import classifier, count, drawn, stirred
from torch import nn
from torch.nn.functional import cross_entropy
from torch.testing import assert_close

from ironclip.attacks.pgd import PGD
from ironclip.core.errors import UsageError
from ironclip.core.types import Trace
from ironclip.defenses.nap import NAP
from ironclip.loops.training import Schedule, fit


def test_gradients_reach_the_last_layers_first_and_the_first_after_a_step(backbone, batch, attack):
    defense = NAP(backbone, batch.classes, generator=drawn())
    optimizer = torch.optim.SGD(defense.parameters(), lr=0.1)
    for step in range(2):
        optimizer.zero_grad()
        defense.loss(backbone, batch, attack)["adv_ce"].backward()
        for side in (defense.image_refiners, defense.text_refiners):
            for refiner in side.refiners:
                first, last = refiner.net[0], refiner.net[-1]
                assert last.weight.grad.abs().max() > 0
                assert last.bias.grad.abs().max() > 0
                assert (first.weight.grad.abs().max() > 0) == (step > 0)
                assert (first.bias.grad.abs().max() > 0) == (step > 0)
        for prompts in (defense.context, defense.image_prompts.tokens, defense.text_prompts.tokens):
            assert prompts.grad.abs().flatten(1).amax(1).min() > 0
        optimizer.step()
    assert all(parameter.grad is None for parameter in backbone.parameters())


@pytest.mark.parametrize("weight", [1.0, 0.5, 0.25])
def test_the_loss_mixes_clean_and_adversarial_cross_entropy(backbone, batch, spy, weight):
    defense = stirred(backbone, batch.classes, adv_weight=weight)
    made, labels = classifier(defense, backbone, batch.classes), batch.labels
    terms = defense.loss(backbone, batch, lambda function, images, labels, **options: images.flip(0))
    expected = weight * cross_entropy(made(batch.images.flip(0)), labels) + (1 - weight) * cross_entropy(
        made(batch.images), labels
    )
    assert_close(sum(terms.values()), expected)
    assert set(terms) == ({"adv_ce"} if weight == 1 else {"adv_ce", "clean_ce"})


def test_half_a_batch_is_attacked_with_its_own_indices(backbone, batch, spy):
    defense = stirred(backbone, batch.classes, mix="half_batch")
    terms = defense.loss(backbone, batch, spy)
    (call,) = spy.calls
    assert torch.equal(call.images, batch.images[4:])
    assert torch.equal(call.indices, batch.indices[4:])
    assert_close(terms["half_ce"], cross_entropy(classifier(defense, backbone, batch.classes)(batch.images), batch.labels))


def test_refiners_have_a_learning_rate_of_their_own(backbone, batch):
    defense = NAP(backbone, batch.classes, refiner_lr_mult=0.1)
    groups = defense.parameter_groups(2.0)
    assert [group["lr"] for group in groups] == [2.0, pytest.approx(0.2)]
    assert {id(p) for group in groups for p in group["params"]} == {id(p) for p in defense.parameters()}
    assert len(NAP(backbone, batch.classes, refiner_layers=0).parameter_groups(1.0)) == 1


def test_the_surrogates_bypass_the_refiners_their_gradient_and_push_their_tokens(backbone, batch):
    defense = stirred(backbone, batch.classes)
    full = classifier(defense, backbone, batch.classes).detached()
    bypassed, straight, tokens = defense.surrogates(full)
    assert [one.name for one in (bypassed, straight, tokens)] == ["refiners-bypassed", "straight-through", "refined-tokens"]
    bare = NAP(backbone, batch.classes, refiner_layers=0)
    bare.load_state_dict({n: t for n, t in defense.state_dict().items() if "refiners" not in n})
    plain = classifier(bare, backbone, batch.classes).detached()
    plain.text_features = full.text_features
    with torch.no_grad():
        assert_close(bypassed(batch.images), plain(batch.images))
        assert_close(straight(batch.images), full(batch.images), atol=1e-4, rtol=1e-4)
        assert not torch.allclose(bypassed(batch.images), full(batch.images), atol=1e-2)
    leaf = batch.images.clone().requires_grad_()
    slopes = [torch.autograd.grad(one(leaf).logsumexp(1).sum(), leaf)[0] for one in (full, straight, tokens)]
    assert not torch.allclose(slopes[0], slopes[1], rtol=0.1)
    assert slopes[2].abs().max() > 0
    found = tokens.encode_image(batch.images)
    trace = Trace()
    full.encode_image(batch.images, trace=trace)
    assert_close(found[:, : 17 * 32], trace.inputs[0][:, :17].flatten(1))
    assert defense.surrogates(full)[0].classes == batch.classes
    assert NAP(backbone, batch.classes, sides="text").surrogates(full) == ()


def test_the_strength_is_one_at_the_start_and_then_follows_the_tokens(backbone, batch):
    fixed, gated = (NAP(backbone, batch.classes, generator=drawn(), strength=how) for how in ("fixed", "tokens"))
    assert count(gated) == count(fixed) + 2 * (32 + 1)
    one, other = (classifier(d, backbone, batch.classes) for d in (fixed, gated))
    assert torch.equal(one(batch.images), other(batch.images))
    refiner = gated.image_refiners.refiners[0]
    tokens = torch.randn(3, 5, 32, generator=drawn())
    assert_close(refiner.strength(tokens), torch.ones(3, 1, 1))
    refiner.gate.weight.data.normal_(generator=drawn())
    found = refiner.strength(tokens)
    mean = nn.functional.layer_norm(tokens.mean(1), (32,))
    assert_close(found.flatten(), 2 / (1 + (-(mean @ refiner.gate.weight[0])).exp()))
    assert len(set(found.flatten().tolist())) == 3
    assert all(refiner.gate is None for refiner in gated.text_refiners.refiners)


def test_parts_of_a_batch_are_attacked_at_shares_of_the_radius(backbone, batch):
    seen = {}

    @dataclass(frozen=True)
    class Noting:
        eps: float = 0.1
        step_size: float = 0.05

        def __call__(self, function, images, labels, *, indices=None, **options):
            seen[self.eps, self.step_size] = indices.tolist()
            return images + self.eps

    defense = NAP(backbone, batch.classes, generator=drawn(), radii=(0.0, 0.5, 1.0))
    terms = defense.loss(backbone, batch, Noting())
    assert seen == {(0.05, 0.025): [3, 4, 5], (0.1, 0.05): [6, 7]}
    moved = torch.cat([batch.images[:3], batch.images[3:6] + 0.05, batch.images[6:] + 0.1])
    assert_close(terms["adv_ce"], cross_entropy(classifier(defense, backbone, batch.classes)(moved), batch.labels))
    with pytest.raises(UsageError, match="need a training attack with a field eps"):
        defense.loss(backbone, batch, lambda function, images, labels, **options: images)


def test_dropout_leaves_out_hidden_units_in_training_alone_and_always_the_same_for_a_batch(backbone, batch, attack):
    options = {"dropout": 0.5}
    defense, plain = stirred(backbone, batch.classes, **options), stirred(backbone, batch.classes)
    first, again = (defense.train().loss(backbone, batch, attack)["adv_ce"] for _ in range(2))
    assert torch.equal(first, again)
    assert not torch.equal(first, plain.train().loss(backbone, batch, attack)["adv_ce"])
    assert torch.equal(
        defense.eval().loss(backbone, batch, attack)["adv_ce"], plain.eval().loss(backbone, batch, attack)["adv_ce"]
    )
    assert all(refiner.kept is None for refiner in defense.image_refiners.refiners)


def test_refiners_may_decay_alone(backbone, batch):
    prompts, refiners = NAP(backbone, batch.classes, refiner_decay=0.1).parameter_groups(1.0)
    assert refiners["weight_decay"] == 0.1
    assert "weight_decay" not in prompts


def robust(function, batch, eps: float, steps: int = 20) -> float:
    adv = PGD(eps=eps, steps=steps)(function, batch.images, batch.labels, indices=batch.indices)
    return float((function(adv).argmax(1) == batch.labels).double().mean())


@pytest.fixture(scope="module")
def trained(backbone, batch):
    """(defence, its classifier before training) fitted to eight images with random labels, eps 1/255."""
    defense = NAP(backbone, batch.classes, generator=drawn())
    start = NAP(backbone, batch.classes, generator=drawn())
    start.load_state_dict(defense.state_dict())
    attack = PGD(eps=1 / 255, step_size=1 / 255, steps=2, keep="last")
    fit(
        defense, backbone, lambda epoch: [batch], attack,
        schedule=Schedule(epochs=150, batch_size=8, optimizer="adamw", lr=0.01, weight_decay=0.0, clip_norm=1.0),
    )  # fmt: skip
    return defense, start


def test_eight_images_are_learned_robustly_and_their_distortion_falls(backbone, batch, trained):
    defense, start = trained
    after, before = (classifier(d, backbone, batch.classes).detached() for d in (defense, start))
    with torch.no_grad():
        assert robust(before, batch, 1 / 255) < 0.8
        assert robust(after, batch, 1 / 255) == 1.0

        def distortion(function):
            adv = PGD(eps=1 / 255)(function, batch.images, batch.labels, indices=batch.indices)
            unit = [nn.functional.normalize(function.encode_image(x), dim=-1) for x in (adv, batch.images)]
            return float((unit[0] - unit[1]).norm(dim=1).mean())

        assert distortion(after) < distortion(before)


def test_attacks_through_the_refiners_beat_transfer_and_grow_with_the_radius(backbone, batch, trained):
    defense, _ = trained
    full = classifier(defense, backbone, batch.classes).detached()
    bare = NAP(backbone, batch.classes, refiner_layers=0)
    bare.load_state_dict({n: t for n, t in defense.state_dict().items() if "refiners" not in n})
    unrefined = classifier(bare, backbone, batch.classes).detached()
    with torch.no_grad():
        for eps in (4 / 255, 16 / 255):
            attack = partial(PGD(eps=eps, steps=20), indices=batch.indices)
            through = full(attack(full, batch.images, batch.labels))
            transferred = full(attack(unrefined, batch.images, batch.labels))
            right = [(out.argmax(1) == batch.labels).sum() for out in (through, transferred)]
            assert right[0] <= right[1]
            assert cross_entropy(through, batch.labels) > cross_entropy(transferred, batch.labels)
        losses = []
        for eps in (0.0, 1 / 255, 4 / 255, 16 / 255, 64 / 255):
            adv = PGD(eps=eps, steps=20)(full, batch.images, batch.labels, indices=batch.indices)
            losses.append(float(cross_entropy(full(adv), batch.labels)))
        assert losses == sorted(losses)
        assert robust(full, batch, 64 / 255) == 0.0


def test_longer_attacks_are_no_weaker(backbone, batch, trained):
    full = classifier(trained[0], backbone, batch.classes).detached()
    with torch.no_grad():
        values = [robust(full, batch, 8 / 255, steps) for steps in (0, 1, 10, 50)]
        assert values == sorted(values, reverse=True)
        assert robust(full, batch, 0.0) == float((full(batch.images).argmax(1) == batch.labels).double().mean())
