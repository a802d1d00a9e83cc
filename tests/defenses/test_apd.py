"""APD: its limits in the weight, the teacher's view, what is learned, and the tuned teacher."""

import pytest
import torch
from torch.nn.functional import cross_entropy
from torch.testing import assert_close

from ironclip.backbones import assemble
from ironclip.backbones.tiny import tiny_backbone
from ironclip.core.errors import UsageError
from ironclip.core.types import Adaptation
from ironclip.defenses import _frozen
from ironclip.defenses.advvlp import AdvVLP
from ironclip.defenses.apd import APD


def make(backbone, classes, seed: int = 0, **options) -> APD:
    return APD(backbone, classes, generator=torch.Generator().manual_seed(seed), **options)


def stirred(backbone, classes, **options) -> APD:
    """An APD whose prompts are far from their start."""
    defense = make(backbone, classes, **options)
    for parameter in defense.parameters():
        parameter.data += 0.3 * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(parameter.numel()))
    return defense


def still(function, images, labels, **options):
    """An attack of radius zero."""
    return images


def student(defense, backbone, batch):
    return assemble(backbone, batch.classes, defense.adaptation(backbone, batch.classes))


def test_counts(vit_b, vit_l):
    assert sum(p.numel() for p in APD(vit_b, ["a", "b"]).parameters()) == 23_040
    assert sum(p.numel() for p in APD(vit_l, ["a", "b"]).parameters()) == 32_256


def test_without_the_teacher_it_is_advvlp(backbone, batch, attack):
    mine = make(backbone, batch.classes, weight=0.0)
    theirs = AdvVLP(backbone, batch.classes, generator=torch.Generator().manual_seed(0))
    losses = [d.loss(backbone, batch, attack) for d in (mine, theirs)]
    assert list(losses[0]) == list(losses[1]) == ["adv_ce"]
    grads = [torch.autograd.grad(terms["adv_ce"], list(d.parameters())) for terms, d in zip(losses, (mine, theirs), strict=True)]
    assert torch.equal(losses[0]["adv_ce"], losses[1]["adv_ce"])
    assert all(torch.equal(a, b) for a, b in zip(*grads, strict=True))


def test_a_student_that_is_its_teacher_has_nothing_to_learn(backbone, batch):
    defense = make(backbone, batch.classes, sides="text", depth=1, weight=1.0)
    terms = defense.loss(backbone, batch, still)
    assert list(terms) == ["distillation"]
    assert terms["distillation"].abs() < 1e-6


@pytest.mark.parametrize("temperature", [1.0, 2.5])
def test_the_loss_is_the_stated_formula(backbone, batch, attack, temperature):
    defense = stirred(backbone, batch.classes, weight=0.3, temperature=temperature, ce_on="clean", clean_weight=0.7)
    terms = defense.loss(backbone, batch, attack)
    classifier = student(defense, backbone, batch)
    adv = attack(classifier.detached(), batch.images, batch.labels, indices=batch.indices)
    target = (assemble(backbone, batch.classes)(batch.images) / temperature).softmax(1)

    def divergence(images):
        return (target * (target.log() - (classifier(images) / temperature).log_softmax(1))).sum(1).mean()

    assert_close(terms["clean_ce"], 0.7 * cross_entropy(classifier(batch.images), batch.labels))
    assert_close(terms["distillation"], 0.3 * temperature**2 * divergence(adv))
    assert_close(terms["clean_distillation"], 0.7 * temperature**2 * divergence(batch.images))


def test_the_teacher_sees_clean_images_and_no_gradient(backbone, batch, attack):
    defense, seen = make(backbone, batch.classes), []
    teacher = defense.distillation.teacher
    plain = teacher.logits

    def watch(backbone, images, classes):
        seen.append((images, plain(backbone, images, classes)))
        return seen[-1][1]

    teacher.logits = watch
    defense.loss(backbone, batch, attack)
    ((images, logits),) = seen
    assert torch.equal(images, batch.images)
    assert not logits.requires_grad


def test_which_images_the_cross_entropy_is_on(backbone, batch, attack):
    found = {on: stirred(backbone, batch.classes, ce_on=on).loss(backbone, batch, attack) for on in ("adv", "clean", "none")}
    assert list(found["none"]) == ["distillation"]
    assert found["clean"]["clean_ce"] < found["adv"]["adv_ce"]


def test_another_backbone_teaches_where_it_is_named(backbone, batch, monkeypatch):
    other = tiny_backbone(seed=5)
    monkeypatch.setattr(_frozen, "load", lambda name, **options: other)
    defense = make(backbone, batch.classes, teacher="another", weight=1.0)
    terms = defense.loss(backbone, batch, still)
    target = assemble(other, batch.classes, Adaptation())(batch.images).softmax(1)
    logits = student(defense, backbone, batch)(batch.images)
    assert_close(terms["distillation"], (target * (target.log() - logits.log_softmax(1))).sum(1).mean())


def test_a_tuned_teacher_has_learned_the_clean_images_and_stays_out_of_what_is_learned(backbone, batch, attack):
    defense = make(backbone, batch.classes, teacher_epochs=20)
    with pytest.raises(UsageError, match="not tuned yet"):
        defense.loss(backbone, batch, attack)
    teacher = defense.distillation.teacher
    before = cross_entropy(teacher.logits(backbone, batch.images, batch.classes), batch.labels)
    start = {name: tensor.clone() for name, tensor in defense.state_dict().items()}
    defense.prepare(backbone, iter([batch]))
    tuned = teacher.logits(backbone, batch.images, batch.classes)
    assert cross_entropy(tuned, batch.labels) < 0.95 * before
    assert not tuned.requires_grad
    assert list(defense.state_dict()) == list(start)
    assert all(torch.equal(value, start[name]) for name, value in defense.state_dict().items())
    defense.prepare(backbone, [batch])  # a run that goes on tunes the same teacher again
    assert torch.equal(teacher.logits(backbone, batch.images, batch.classes), tuned)


REFUSED = [
    ({"weight": 1.5}, "weight must be a number of at least 0 and at most 1"),
    ({"temperature": 0.0}, "temperature must be a number of above 0"),
    ({"ce_on": "both"}, "ce_on must be one of adv, clean, none"),
    ({"ce_on": "none", "weight": 0.0}, "leave no loss"),
    ({"clean_weight": -1.0}, "clean_weight"),
    ({"sides": "image"}, "sides must be one of both, text"),
    ({"teacher_epochs": 1.5}, "teacher_epochs must be a whole number"),
    ({"teacher": ""}, "name of a backbone"),
    ({"length": 80}, "holds at most"),
    ({"depth": 3}, "prompt depth must be 1 to 2"),
]


@pytest.mark.parametrize(("options", "message"), REFUSED, ids=str)
def test_options_that_cannot_be_right_are_refused_in_one_line(backbone, batch, options, message):
    with pytest.raises(UsageError, match=message) as caught:
        make(backbone, batch.classes, **options)
    assert "\n" not in str(caught.value)
