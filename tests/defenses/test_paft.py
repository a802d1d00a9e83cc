"""PAFT: counts, the plain linear probe at radius zero, the zero-shot start, and classes it does not know."""

from copy import copy
from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.nn.functional import cross_entropy
from torch.testing import assert_close

from ironclip.backbones import assemble
from ironclip.backbones.tiny import tiny_backbone
from ironclip.core.errors import AdaptationClash, UsageError
from ironclip.core.merging import merge
from ironclip.core.types import Adaptation, Batch
from ironclip.defenses.paft import PAFT
from ironclip.loops.training import Schedule, fit


def make(backbone, classes, seed: int = 0, **options) -> PAFT:
    return PAFT(backbone, classes, generator=torch.Generator().manual_seed(seed), **options)


def through(defense, backbone, classes):
    return assemble(backbone, classes, defense.adaptation(backbone, classes))


def still(function, images, labels, **options):
    """An attack of radius zero."""
    return images


@pytest.mark.parametrize(("classes", "numbers"), [(1000, 513_000), (102, 52_326), (10, 5_130)])
def test_counts_on_vit_b(vit_b, classes, numbers):
    backbone = copy(vit_b)
    backbone.spec = replace(backbone.spec, embed_dim=512)
    assert sum(p.numel() for p in make(backbone, [f"thing {i}" for i in range(classes)]).parameters()) == numbers


def test_the_logits_are_a_linear_map_of_features_as_they_are(backbone, batch):
    for normalize in (False, True):
        defense = make(backbone, batch.classes, normalize=normalize)
        features = backbone.encode_image(batch.images)
        features = F.normalize(features, dim=1) if normalize else features
        expected = features @ defense.head.linear.weight.T + defense.head.linear.bias
        assert_close(through(defense, backbone, batch.classes)(batch.images), expected)


def test_at_radius_zero_it_is_a_plain_linear_probe(backbone, batch):
    """Against a loop written out on features."""
    defense = make(backbone, batch.classes)
    probe = nn.Linear(backbone.spec.embed_dim, len(batch.classes))
    probe.load_state_dict(defense.head.linear.state_dict())
    optimizer = torch.optim.SGD(probe.parameters(), lr=0.1, momentum=0.9, weight_decay=5e-4)
    features = backbone.encode_image(batch.images)
    for _ in range(5):
        optimizer.zero_grad()
        cross_entropy(probe(features), batch.labels).backward()
        optimizer.step()
    schedule = Schedule(epochs=5, lr=0.1, schedule="constant", warmup_epochs=0)
    fit(defense, backbone, lambda epoch: [batch], still, schedule=schedule)
    for mine, theirs in zip(defense.parameters(), probe.parameters(), strict=True):
        assert_close(mine, theirs)


def test_it_starts_as_pytorch_does(backbone, batch):
    drawn = [p for seed in range(40) for p in make(backbone, batch.classes, seed).parameters()]
    bound = backbone.spec.embed_dim**-0.5
    for values in (torch.cat([p.flatten() for p in drawn[::2]]), torch.cat(drawn[1::2])):
        assert values.abs().max() <= bound
        assert values.std().item() == pytest.approx(bound / 3**0.5, rel=0.1)


def test_the_zero_shot_start_is_zero_shot_classification(backbone, batch):
    templates = ("a painting of a {}.", "a photo of a {}.")
    defense = make(backbone, batch.classes, normalize=True, init="zero_shot", templates=templates)
    plain = assemble(backbone, batch.classes, Adaptation(templates=templates))
    assert_close(through(defense, backbone, batch.classes)(batch.images), plain(batch.images))


def test_the_loss_is_on_attacked_images_through_the_head(backbone, batch, attack):
    defense = make(backbone, batch.classes)
    classifier = through(defense, backbone, batch.classes)
    adv = attack(classifier.detached(), batch.images, batch.labels, indices=batch.indices)
    loss = defense.loss(backbone, batch, attack)["adv_ce"]
    assert_close(loss, cross_entropy(classifier(adv), batch.labels))
    assert loss > cross_entropy(classifier(batch.images), batch.labels)


def test_a_step_encodes_no_text(backbone, batch, spy):
    defense, passes = make(backbone, batch.classes), []
    defense.loss(backbone, batch, spy)
    hook = backbone.text.register_forward_hook(lambda *args: passes.append(1))
    first = defense.loss(backbone, batch, spy)["adv_ce"]
    hook.remove()
    assert passes == []
    defense.head.linear.weight.data *= 2
    assert defense.loss(backbone, batch, spy)["adv_ce"] != first  # the head is seen as it is now
    assert defense.loss(tiny_backbone(seed=4), batch, spy)["adv_ce"] != first


def test_other_classes_are_refused(backbone, batch):
    defense = make(backbone, batch.classes)
    for classes in (("dog", "boat"), batch.classes[::-1]):
        with pytest.raises(UsageError, match="fits the classes it was trained on alone"):
            defense.adaptation(backbone, classes)
    with pytest.raises(UsageError, match="fits the classes"):
        defense.loss(backbone, Batch(batch.images, batch.labels, batch.indices, batch.classes[::-1]), still)


def test_two_heads_clash(backbone, batch):
    parts = [make(backbone, batch.classes, seed).adaptation(backbone, batch.classes) for seed in (0, 1)]
    with pytest.raises(AdaptationClash, match="head"):
        merge(*parts)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"init": "zero_shot"}, "set normalize=true"),
        ({"init": "ones"}, "init must be one of random, zero_shot"),
        ({"normalize": 1}, "normalize must be true or false"),
        ({"templates": ()}, "at least one prompt"),
    ],
    ids=str,
)
def test_options_that_cannot_be_right_are_refused_in_one_line(backbone, batch, options, message):
    with pytest.raises(UsageError, match=message) as caught:
        make(backbone, batch.classes, **options)
    assert "\n" not in str(caught.value)
