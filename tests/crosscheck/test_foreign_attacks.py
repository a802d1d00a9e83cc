"""Our classifiers are attacked unchanged by foolbox and ART, and our PGD breaks as much as theirs; `make crosscheck`."""

import warnings

import pytest
import torch

from ironclip.attacks import build
from ironclip.backbones import assemble, load
from ironclip.tensors import evaluating, frozen

CLASSES = ("a red circle", "a blue square", "a green star", "a yellow cross")
EPS, STEPS, SIZE = 16 / 255, 10, 64


def scene(count=8):
    classifier = assemble(load("mini-robust"), CLASSES)
    images = torch.rand(count, 3, SIZE, SIZE, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        return classifier, images, classifier(images).argmax(1)


def robust(classifier, adv, images, labels):
    assert (adv - images).abs().max() <= EPS + 1e-6
    assert adv.min() >= 0
    assert adv.max() <= 1
    with torch.no_grad():
        return int((classifier(adv).argmax(1) == labels).sum())


def ours(classifier, images, labels):
    attack = build("pgd", eps=EPS, steps=STEPS, step_size=EPS / 4, keep="last")
    return robust(classifier, attack(classifier, images, labels), images, labels)


@pytest.fixture
def quiet():
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


def test_foolbox_attacks_the_classifier_as_it_is(quiet):
    foolbox = pytest.importorskip("foolbox")
    classifier, images, labels = scene()
    with evaluating(classifier), frozen(classifier):
        model = foolbox.PyTorchModel(classifier.eval(), bounds=(0, 1))
        attack = foolbox.attacks.LinfPGD(abs_stepsize=EPS / 4, steps=STEPS, random_start=True)
        torch.manual_seed(0)
        _, adv, _ = attack(model, images, labels, epsilons=EPS)
    theirs = robust(classifier, adv.detach(), images, labels)
    print(f"foolbox {foolbox.__version__}: {theirs} of {len(images)} right; ironclip: {ours(classifier, images, labels)}")
    assert abs(theirs - ours(classifier, images, labels)) <= 1


def test_art_attacks_the_classifier_as_it_is(quiet):
    pytest.importorskip("art")
    from art import __version__
    from art.attacks.evasion import ProjectedGradientDescent
    from art.estimators.classification import PyTorchClassifier

    classifier, images, labels = scene()
    with evaluating(classifier), frozen(classifier):
        model = PyTorchClassifier(
            classifier,
            torch.nn.CrossEntropyLoss(reduction="sum"),
            (3, SIZE, SIZE),
            len(CLASSES),
            clip_values=(0, 1),
            device_type="cpu",
        )
        attack = ProjectedGradientDescent(
            model, eps=EPS, eps_step=EPS / 4, max_iter=STEPS, num_random_init=1, batch_size=8, verbose=False
        )
        adv = torch.from_numpy(attack.generate(images.numpy(), labels.numpy()))
    theirs = robust(classifier, adv, images, labels)
    print(f"ART {__version__}: {theirs} of {len(images)} right; ironclip: {ours(classifier, images, labels)}")
    assert abs(theirs - ours(classifier, images, labels)) <= 1


def test_fgsm_is_the_same_picture_in_all_three(quiet):
    foolbox = pytest.importorskip("foolbox")
    pytest.importorskip("art")
    from art.attacks.evasion import FastGradientMethod
    from art.estimators.classification import PyTorchClassifier

    classifier, images, labels = scene()
    with evaluating(classifier), frozen(classifier):
        mine = build("fgsm", eps=EPS)(classifier, images, labels)
        model = foolbox.PyTorchModel(classifier.eval(), bounds=(0, 1))
        _, adv, _ = foolbox.attacks.FGSM(random_start=False)(model, images, labels, epsilons=EPS)
        wrapped = PyTorchClassifier(
            classifier,
            torch.nn.CrossEntropyLoss(reduction="sum"),
            (3, SIZE, SIZE),
            len(CLASSES),
            clip_values=(0, 1),
            device_type="cpu",
        )
        art = torch.from_numpy(FastGradientMethod(wrapped, eps=EPS).generate(images.numpy(), labels.numpy()))
    for name, other in (("foolbox", adv), ("ART", art)):
        same = ((mine - other).abs() < 1e-6).double().mean()
        print(f"FGSM, share of equal pixels, {name}: {same:.5f}")
        assert same > 0.999
