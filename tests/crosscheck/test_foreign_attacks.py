"""Our classifiers are attacked unchanged by foolbox and ART, and our PGD breaks as much as theirs; `make crosscheck`."""

import warnings

import pytest
import torch

import ironclip
from ironclip.attacks import build
from ironclip.backbones import assemble, load
from ironclip.tensors import evaluating, frozen

RADII = [eps / 255 for eps in (1, 2, 4, 16)]
STEPS, SIZE = 10, 64


def scene(count=24):
    data = ironclip.dataset("shapes")
    batch = data.batch("test", count, resolution=SIZE)
    return assemble(load("mini-robust"), data.classes), batch.images, batch.labels


def robust(classifier, adv, images, labels, eps):
    assert (adv - images).abs().max() <= eps + 1e-6
    assert adv.min() >= 0
    assert adv.max() <= 1
    with torch.no_grad():
        return int((classifier(adv).argmax(1) == labels).sum())


def ours(classifier, images, labels, eps):
    attack = build("pgd", eps=eps, steps=STEPS, step_size=eps / 4, keep="last")
    return robust(classifier, attack(classifier, images, labels), images, labels, eps)


@pytest.fixture
def quiet():
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


@pytest.mark.parametrize("eps", RADII)
def test_foolbox_attacks_the_classifier_as_it_is(quiet, eps):
    foolbox = pytest.importorskip("foolbox")
    classifier, images, labels = scene()
    with evaluating(classifier), frozen(classifier):
        model = foolbox.PyTorchModel(classifier.eval(), bounds=(0, 1))
        attack = foolbox.attacks.LinfPGD(abs_stepsize=eps / 4, steps=STEPS, random_start=True)
        torch.manual_seed(0)
        _, adv, _ = attack(model, images, labels, epsilons=eps)
    theirs = robust(classifier, adv.detach(), images, labels, eps)
    mine = ours(classifier, images, labels, eps)
    print(f"{255 * eps:g}/255: foolbox {foolbox.__version__} leaves {theirs} of {len(images)}, ironclip {mine}")
    assert abs(theirs - mine) <= 1


@pytest.mark.parametrize("eps", RADII)
def test_art_attacks_the_classifier_as_it_is(quiet, eps):
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
            len(classifier.classes),
            clip_values=(0, 1),
            device_type="cpu",
        )
        attack = ProjectedGradientDescent(
            model, eps=eps, eps_step=eps / 4, max_iter=STEPS, num_random_init=1, batch_size=8, verbose=False
        )
        adv = torch.from_numpy(attack.generate(images.numpy(), labels.numpy()))
    theirs = robust(classifier, adv, images, labels, eps)
    mine = ours(classifier, images, labels, eps)
    print(f"{255 * eps:g}/255: ART {__version__} leaves {theirs} of {len(images)}, ironclip {mine}")
    assert abs(theirs - mine) <= 1


def test_fgsm_is_the_same_picture_in_all_three(quiet):
    foolbox = pytest.importorskip("foolbox")
    pytest.importorskip("art")
    from art.attacks.evasion import FastGradientMethod
    from art.estimators.classification import PyTorchClassifier

    eps = RADII[-1]
    classifier, images, labels = scene()
    with evaluating(classifier), frozen(classifier):
        mine = build("fgsm", eps=eps)(classifier, images, labels)
        model = foolbox.PyTorchModel(classifier.eval(), bounds=(0, 1))
        _, adv, _ = foolbox.attacks.FGSM(random_start=False)(model, images, labels, epsilons=eps)
        wrapped = PyTorchClassifier(
            classifier,
            torch.nn.CrossEntropyLoss(reduction="sum"),
            (3, SIZE, SIZE),
            len(classifier.classes),
            clip_values=(0, 1),
            device_type="cpu",
        )
        art = torch.from_numpy(FastGradientMethod(wrapped, eps=eps).generate(images.numpy(), labels.numpy()))
    for name, other in (("foolbox", adv), ("ART", art)):
        same = ((mine - other).abs() < 1e-6).double().mean()
        print(f"FGSM, share of equal pixels, {name}: {same:.5f}")
        assert same > 0.999
