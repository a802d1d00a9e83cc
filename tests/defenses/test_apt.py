"""APT: counts, equality with hand-written prompts, the three inner attacks, and refusals."""

import pytest
import torch
from torch.nn.functional import cross_entropy
from torch.testing import assert_close

from ironclip.attacks.pgd import PGD
from ironclip.backbones import assemble, splice
from ironclip.core.errors import UsageError
from ironclip.core.types import Adaptation, Batch, Context
from ironclip.defenses import build
from ironclip.defenses.apt import APT


def count(defense) -> int:
    return sum(p.numel() for p in defense.parameters())


def classifier(defense, backbone, classes):
    return assemble(backbone, classes, defense.adaptation(backbone, classes))


@pytest.mark.parametrize(("length", "expected"), [(1, 512), (4, 2048), (16, 8192)])
def test_counts_of_the_unified_context(vit_b, length, expected):
    assert count(APT(vit_b, ["a", "b"], length=length)) == expected


def test_counts_of_the_class_specific_context(vit_b, vit_l):
    classes = [f"class {i}" for i in range(102)]
    assert count(APT(vit_b, classes, class_specific=True)) == 835_584
    assert count(APT(vit_l, classes)) == 16 * 768


def test_starting_values_are_drawn_from_the_generator(backbone, batch):
    draws = [APT(backbone, batch.classes, length=64, generator=torch.Generator().manual_seed(s)).context for s in (0, 0, 1)]
    assert torch.equal(draws[0], draws[1])
    assert not torch.equal(draws[0], draws[2])
    assert_close(draws[0].std(), torch.tensor(0.02), atol=1e-3, rtol=0)


def test_words_of_a_hand_written_prompt_give_its_logits(backbone, batch):
    defense = APT(backbone, batch.classes, init="a photo of a")
    assert defense.context.shape == (4, backbone.spec.text_width)
    hand = assemble(backbone, batch.classes, Adaptation(templates=("a photo of a {}.",)))
    assert_close(classifier(defense, backbone, batch.classes)(batch.images), hand(batch.images), atol=1e-5, rtol=0)


def test_positions_share_tokens_and_ends_and_differ_in_features(backbone, batch):
    made = [APT(backbone, batch.classes, init="a photo of a", position=place) for place in ("end", "middle", "front")]
    tokens = [splice(backbone, batch.classes, d.adaptation(backbone, batch.classes).context) for d in made]
    features = [backbone.encode_text(t) for t in tokens]
    for other, changed in zip(tokens[1:], features[1:]):
        assert torch.equal(other.eot, tokens[0].eot)
        for a, b in zip(other.embeddings, tokens[0].embeddings):
            assert_close(a[a[:, 0].argsort()], b[b[:, 0].argsort()], atol=0, rtol=0)
        assert (changed - features[0]).abs().max() > 1e-2


def test_a_unified_context_serves_other_classes_and_a_class_specific_one_refuses(backbone, batch):
    others = ("dog", "tree", "house", "boat", "fish")
    unified, specific = APT(backbone, batch.classes), APT(backbone, batch.classes, class_specific=True)
    fresh = APT(backbone, others)
    fresh.load_state_dict(unified.state_dict())
    assert torch.equal(classifier(unified, backbone, others)(batch.images), classifier(fresh, backbone, others)(batch.images))
    for classes in (others, others[:4], batch.classes[::-1]):
        with pytest.raises(UsageError, match="class-specific context fits the classes it was learned for"):
            specific.adaptation(backbone, classes)
    with pytest.raises(RuntimeError, match="size mismatch"):
        APT(backbone, others, class_specific=True).load_state_dict(specific.state_dict())


def test_onfly_attacks_the_current_prompt_as_if_it_were_computed_anew(backbone, batch, attack, spy):
    defense = APT(backbone, batch.classes, length=4)
    defense.loss(backbone, batch, spy)
    (call,) = spy.calls
    assert not call.function.text_features.requires_grad

    def anew(images):
        return classifier(defense, backbone, batch.classes)(images)

    cached = attack(call.function, batch.images, batch.labels, indices=batch.indices)
    assert_close(cached, attack(anew, batch.images, batch.labels, indices=batch.indices), atol=1e-6, rtol=0)


def test_constant_attacks_a_fixed_prompt_whatever_was_learned(backbone, batch, spy):
    defense = APT(backbone, batch.classes, length=4, strategy="constant")
    loss = defense.loss(backbone, batch, spy)["adv_ce"]
    with torch.no_grad():
        defense.context.add_(torch.randn(defense.context.shape, generator=torch.Generator().manual_seed(2)))
    moved = defense.loss(backbone, batch, spy)["adv_ce"]
    first, second = (call.function.text_features for call in spy.calls)
    hand = assemble(backbone, batch.classes, Adaptation(templates=("a photo of a {}",)))
    assert torch.equal(first, second)
    assert_close(first, hand.text_features)
    assert (loss - moved).abs() > 1e-3


def test_the_constant_prompt_may_join_the_words_of_a_name_by_underscores(backbone, batch, spy):
    classes = ("tabby cat", "dog", "school bus", "oak tree")
    other = Batch(batch.images, batch.labels, batch.indices, classes)
    for names in ("spaces", "underscores"):
        APT(backbone, classes, length=4, strategy="constant", constant_names=names).loss(backbone, other, spy)
    plain, joined = (call.function.text_features for call in spy.calls)
    texts = [f"a photo of a {name.replace(' ', '_')}" for name in classes]
    expected = torch.nn.functional.normalize(backbone.encode_text(backbone.embed_text(texts)), dim=-1)
    assert_close(joined, expected)
    assert_close(joined[1], plain[1])
    assert not torch.allclose(joined[0], plain[0], atol=1e-3)
    with pytest.raises(UsageError, match="constant_names is for strategy='constant'"):
        APT(backbone, classes, constant_names="underscores")


def caught_images(defense, backbone, batch, attack):
    found = []

    def record(*args, **options):
        found.append(attack(*args, **options))
        return found[0]

    loss = defense.loss(backbone, batch, record)["adv_ce"]
    return found[0], loss


def test_perturbed_without_a_step_is_onfly(backbone, batch, attack):
    pair = [APT(backbone, batch.classes, init="a photo of a", strategy=s) for s in ("onfly", "perturbed")]
    (plain, loss), (moved, other) = (caught_images(d, backbone, batch, attack) for d in pair)
    assert_close(plain, moved, atol=1e-6, rtol=0)
    assert_close(loss, other, atol=1e-5, rtol=0)


def test_perturbed_moves_its_own_copy_uphill_and_leaves_the_learned_words_bitwise(backbone, batch):
    defense = APT(backbone, batch.classes, init="a photo of a", strategy="perturbed", prompt_step=0.05)
    before, found = defense.context.detach().clone(), []

    def watch(function, images, labels, *, indices, loss):
        words = [function.words.clone()]
        noted = lambda logits, labels: (loss(logits, labels), words.append(function.words.clone()))[0]  # noqa: E731
        adv = PGD(eps=4 / 255, step_size=2 / 255, steps=3, keep="last")(function, images, labels, indices=indices, loss=noted)
        found.append((words, adv))
        return adv

    loss = defense.loss(backbone, batch, watch)["adv_ce"]
    words, adv = found[0]
    assert torch.equal(defense.context, before)
    assert defense.context.grad is None
    assert len(words) == 4
    assert_close(words[0], before)
    leaf = words[0].clone().requires_grad_()
    start = PGD(eps=4 / 255, steps=0, keep="last")(lambda x: x, batch.images, batch.labels, indices=batch.indices)
    logits = assemble(backbone, batch.classes, Adaptation(context=Context(leaf)))(start)
    (slope,) = torch.autograd.grad(cross_entropy(logits, batch.labels), leaf)
    assert_close(words[1], leaf.detach() + 0.05 * slope, atol=1e-6, rtol=0)
    restored = classifier(defense, backbone, batch.classes)
    assert_close(loss, cross_entropy(restored(adv), batch.labels))


def test_the_loss_is_the_mean_cross_entropy_of_adversarial_images_alone(backbone, batch, attack):
    defense = APT(backbone, batch.classes, length=4)
    adv, loss = caught_images(defense, backbone, batch, attack)
    made = classifier(defense, backbone, batch.classes)
    by_hand = sum(-made(adv)[i].log_softmax(0)[label] for i, label in enumerate(batch.labels)) / len(batch)
    assert_close(loss, by_hand)
    clean, plain = caught_images(defense, backbone, batch, PGD(eps=0.0, steps=2, keep="last"))
    assert torch.equal(clean, batch.images)
    assert_close(plain, cross_entropy(made(batch.images), batch.labels))


REFUSED = [
    ({"length": 0}, "length must be a whole number of at least 1; got 0"),
    ({"length": 2.5}, "length must be a whole number"),
    ({"length": 80}, "holds at most 75"),
    ({"length": 73}, "holds at most 75"),
    ({"position": "start"}, "position must be one of end, middle, front; got 'start'"),
    ({"strategy": "fly"}, "strategy must be one of onfly"),
    ({"init": "a photo", "class_specific": True}, "unified context"),
    ({"init": " "}, "at least one word"),
    ({"prompt_step": -1.0, "strategy": "perturbed"}, "prompt_step must be a number of at least 0"),
    ({"prompt_step": float("nan"), "strategy": "perturbed"}, "prompt_step must be a number"),
    ({"prompt_step": 0.1}, "prompt_step is for strategy='perturbed'"),
    ({"lenght": 4}, "did you mean 'length'"),
]


@pytest.mark.parametrize(("options", "message"), REFUSED)
def test_options_that_cannot_be_fail_at_construction(backbone, batch, options, message):
    with pytest.raises(UsageError, match=message) as caught:
        build("apt", backbone, batch.classes, given=options)
    assert "\n" not in str(caught.value)
