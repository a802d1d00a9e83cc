"""AdvPT: count, what is banked and when, the order of labels, CoOp at radius zero, and what it is worth under attack."""

import pytest
import torch
from torch.nn.functional import cross_entropy
from torch.testing import assert_close

from ironclip.attacks.pgd import PGD
from ironclip.backbones import assemble
from ironclip.backbones.tiny import tiny_backbone
from ironclip.core.errors import UsageError
from ironclip.core.losses import kl_each
from ironclip.core.types import Batch
from ironclip.defenses.advpt import AdvPT
from ironclip.defenses.apt import APT
from ironclip.loops.training import Schedule, fit

ATTACK = PGD(eps=8 / 255, step_size=1 / 255, steps=10, start="one_sided", keep="last")


def make(backbone, classes, seed: int = 0, **options) -> AdvPT:
    return AdvPT(backbone, classes, generator=torch.Generator().manual_seed(seed), **({"length": 4} | options))


def reordered(batch: Batch, order: list[int]) -> Batch:
    return Batch(batch.images[order], batch.labels[order], batch.indices[order], batch.classes)


class Counting:
    """An attack that hands images back and writes down what it was asked for."""

    def __init__(self) -> None:
        self.asked: list[list[int]] = []
        self.losses = []

    def __call__(self, function, images, labels, *, indices=None, loss=None):
        self.asked.append(indices.tolist())
        self.losses.append((function, loss))
        return images


def test_count(vit_b, vit_l):
    assert AdvPT(vit_b, ["a", "b"]).context.numel() == 16_384
    assert AdvPT(vit_l, ["a", "b"]).context.numel() == 24_576


def test_each_image_is_attacked_once_and_tuning_touches_none(backbone, batch):
    defense, attack, passes = make(backbone, batch.classes), Counting(), []
    hook = backbone.image.register_forward_hook(lambda module, args, out: passes.append(len(out)))
    fit(
        defense, backbone, lambda epoch: [reordered(batch, [0, 1, 2]), reordered(batch, [2, 4, 1, 5])], attack,
        schedule=Schedule(epochs=4, warmup_epochs=0, lr=0.01),
    )  # fmt: skip
    hook.remove()
    assert attack.asked == [[0, 1, 2], [4, 5]]
    assert passes == [3, 3, 2, 2]  # each image clean and attacked, in the first epoch alone


def test_the_bank_is_the_features_of_images_in_the_ball(backbone, batch):
    defense, found = make(backbone, batch.classes), []

    def watch(function, images, labels, **given):
        found.append(ATTACK(function, images, labels, **given))
        return found[-1]

    features = defense._bank.features(backbone, batch, watch)
    assert (found[0] - batch.images).abs().max() <= ATTACK.eps + 1e-7
    assert torch.equal(features, backbone.encode_image(found[0]))
    clean = backbone.encode_image(batch.images)
    assert (kl_each(features, clean) > 10 * kl_each(backbone.encode_image(batch.images + 1e-4), clean)).all()


def test_the_attack_raises_the_divergence_of_features_without_labels_or_prompts(backbone, batch):
    attack = Counting()
    make(backbone, batch.classes).loss(backbone, batch, attack)
    ((function, loss),) = attack.losses
    clean = backbone.encode_image(batch.images)
    assert torch.equal(function(batch.images), clean)
    moved = clean.flip(0)
    probabilities, others = clean.softmax(1), moved.softmax(1)
    assert_close(loss(moved, batch.labels), (probabilities * (probabilities / others).log()).sum(1))
    assert torch.equal(loss(moved, batch.labels), loss(moved, batch.labels.flip(0)))


def test_shuffling_keeps_features_with_their_labels(backbone, batch):
    defense = make(backbone, batch.classes)
    first = defense.loss(backbone, batch, ATTACK)["adv_ce"]
    order = torch.randperm(len(batch), generator=torch.Generator().manual_seed(3)).tolist()
    assert_close(defense.loss(backbone, reordered(batch, order), ATTACK)["adv_ce"], first)


def test_radius_zero_is_coop(backbone, batch):
    """Cross-entropy of clean images through the same prompts, with the same gradient."""
    defense, attack = make(backbone, batch.classes), Counting()
    plain = APT(backbone, batch.classes, length=4, generator=torch.Generator().manual_seed(0))
    mine = defense.loss(backbone, batch, attack)["adv_ce"]
    classifier = assemble(backbone, batch.classes, plain.adaptation(backbone, batch.classes))
    theirs = cross_entropy(classifier(batch.images), batch.labels)
    assert_close(mine, theirs)
    assert_close(*(torch.autograd.grad(loss, d.context)[0] for loss, d in ((mine, defense), (theirs, plain))))


def test_the_bank_is_made_anew_for_another_attack_or_backbone_but_not_for_another_seed(backbone, batch):
    bank = make(backbone, batch.classes)._bank
    first = bank.features(backbone, batch, ATTACK)
    assert torch.equal(bank.features(backbone, batch, PGD(8 / 255, 1 / 255, 10, start="one_sided", keep="last", seed=7)), first)
    weaker = PGD(1 / 255, 1 / 255, 1, keep="last")
    assert not torch.equal(bank.features(backbone, batch, weaker), first)
    assert not torch.equal(bank.features(tiny_backbone(seed=2), batch, ATTACK), first)
    assert torch.equal(bank.features(backbone, batch, ATTACK), first)


def test_the_bank_ignores_the_order_in_which_images_come(backbone, batch):
    whole = make(backbone, batch.classes)._bank.features(backbone, batch, ATTACK)
    bank = make(backbone, batch.classes)._bank
    parts = [bank.features(backbone, reordered(batch, [place]), ATTACK) for place in reversed(range(len(batch)))]
    assert_close(torch.cat(parts[::-1]), whole, atol=1e-4, rtol=1e-3)


def test_augmented_images_are_refused(backbone, batch):
    defense = make(backbone, batch.classes)
    defense.prepare(backbone, [batch])
    defense.loss(backbone, batch, ATTACK)
    defense.prepare(backbone, [batch])
    cropped = Batch(batch.images.roll(1, 0), batch.labels, batch.indices, batch.classes)
    with pytest.raises(UsageError, match="set augment=none"):
        defense.loss(backbone, cropped, ATTACK)


def test_a_start_at_the_clean_image_is_refused(backbone, batch):
    with pytest.raises(UsageError, match="random start"):
        make(backbone, batch.classes).loss(backbone, batch, PGD(eps=0.1, steps=1, start="zero"))


def test_options_that_cannot_be_right_are_refused(backbone, batch):
    for options, message in (({"length": 0}, "length"), ({"position": "left"}, "position"), ({"length": 80}, "holds at most")):
        with pytest.raises(UsageError, match=message):
            make(backbone, batch.classes, **options)
