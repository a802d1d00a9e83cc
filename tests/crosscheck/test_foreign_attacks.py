"""A trained classifier is attacked unchanged by foolbox, ART and torchattacks; image by image, ours breaks all that they break.

`make crosscheck` runs it in an environment of its own; the lines that it prints stand in docs/results/other-libraries.csv.
"""

import warnings
from typing import NamedTuple

import pytest
import torch
from torch import Tensor

import ironclip
from ironclip.attacks import build
from ironclip.core.tensors import evaluating, frozen, norm

foolbox = pytest.importorskip("foolbox", reason="other libraries are not installed; `make crosscheck` installs them")

STEPS, IMAGES, SIZE = 10, 64, 64
BUDGETS = [("linf", eps / 255) for eps in (2, 4)] + [("l2", eps) for eps in (0.5, 1.0)]
LIBRARIES = ("foolbox", "art", "torchattacks")


class Scene(NamedTuple):
    """A trained defence with the test images that it labels rightly."""

    classifier: ironclip.Model
    images: Tensor
    labels: Tensor


@pytest.fixture(scope="module")
def scene(tmp_path_factory):
    """NAP on `mini-robust`, trained for some epochs on generated shapes."""
    data = ironclip.dataset("shapes", shots=2)
    options = {"epochs": 2, "attack.steps": 2}
    model = ironclip.fit("nap", ironclip.load("mini-robust"), data, root=tmp_path_factory.mktemp("runs"), eps="4/255", **options)
    batch = data.batch("test", IMAGES, resolution=SIZE)
    with torch.no_grad():
        right = model(batch.images).argmax(1) == batch.labels
    print(f"\nNAP on mini-robust, shapes: {int(right.sum())} of {IMAGES} test images are right without an attack")
    with evaluating(model), frozen(model):
        yield Scene(model, batch.images[right], batch.labels[right])


@pytest.fixture(autouse=True)
def quiet():
    """Other people's warnings are not ours."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


def by_foolbox(scene, kind, eps, step, random):
    attack = {"linf": foolbox.attacks.LinfPGD, "l2": foolbox.attacks.L2PGD}[kind]
    model = foolbox.PyTorchModel(scene.classifier, bounds=(0, 1))
    made = attack(abs_stepsize=step, steps=STEPS, random_start=random)
    return made(model, scene.images, scene.labels, epsilons=eps)[1].detach()


def art_classifier(scene):
    from art.estimators.classification import PyTorchClassifier

    shape, loss = (3, SIZE, SIZE), torch.nn.CrossEntropyLoss(reduction="sum")
    classes = len(scene.classifier.classes)
    return PyTorchClassifier(scene.classifier, loss, shape, classes, clip_values=(0, 1), device_type="cpu")


def by_art(scene, kind, eps, step, random):
    pytest.importorskip("art")
    from art.attacks.evasion import ProjectedGradientDescent

    made = ProjectedGradientDescent(
        art_classifier(scene), norm={"linf": "inf", "l2": 2}[kind], eps=eps, eps_step=step, max_iter=STEPS,
        num_random_init=int(random), batch_size=IMAGES, verbose=False,
    )  # fmt: skip
    return torch.from_numpy(made.generate(scene.images.numpy(), scene.labels.numpy()))


def by_torchattacks(scene, kind, eps, step, random):
    torchattacks = pytest.importorskip("torchattacks")
    made = {"linf": torchattacks.PGD, "l2": torchattacks.PGDL2}[kind]
    return made(scene.classifier, eps=eps, alpha=step, steps=STEPS, random_start=random)(scene.images, scene.labels)


THEIRS = {"foolbox": by_foolbox, "art": by_art, "torchattacks": by_torchattacks}


def broken(scene, adv, kind, eps):
    """[B] which images are wrong; the images are in the ball and in [0, 1]."""
    assert norm(adv - scene.images, kind).max() <= eps * (1 + 1e-5) + 1e-6
    assert adv.min() >= 0
    assert adv.max() <= 1
    with torch.no_grad():
        return scene.classifier(adv).argmax(1) != scene.labels


@pytest.mark.parametrize("random", [False, True], ids=["from the image", "from a random start"])
@pytest.mark.parametrize(("kind", "eps"), BUDGETS)
@pytest.mark.parametrize("library", LIBRARIES)
def test_ours_breaks_every_image_that_theirs_breaks_with_the_same_budget(scene, library, kind, eps, random):
    step = eps / 4
    torch.manual_seed(0)
    adv = THEIRS[library](scene, kind, eps, step, random)
    ours = build("pgd", eps=eps, steps=STEPS, step_size=step, norm=kind, start="uniform" if random else "zero")
    theirs, mine = (broken(scene, found, kind, eps) for found in (adv, ours(scene.classifier, scene.images, scene.labels)))
    size = f"{255 * eps:g}/255" if kind == "linf" else f"{eps:g}"
    only_theirs, only_ours = int((theirs & ~mine).sum()), int((mine & ~theirs).sum())
    start, of = "random" if random else "image", len(mine)
    print(
        f"| {library} | {kind} {size} | {start} | {int(theirs.sum())} of {of} | {int(mine.sum())} | {only_theirs} | {only_ours} |"
    )
    assert only_theirs == 0


def test_fgsm_is_the_same_image_in_all_of_them(scene):
    torchattacks = pytest.importorskip("torchattacks")
    pytest.importorskip("art")
    from art.attacks.evasion import FastGradientMethod

    eps = 4 / 255
    classifier, images, labels = scene
    mine = build("fgsm", eps=eps)(classifier, images, labels)
    model = foolbox.PyTorchModel(classifier, bounds=(0, 1))
    others = {
        "foolbox": foolbox.attacks.FGSM(random_start=False)(model, images, labels, epsilons=eps)[1],
        "art": torch.from_numpy(FastGradientMethod(art_classifier(scene), eps=eps).generate(images.numpy(), labels.numpy())),
        "torchattacks": torchattacks.FGSM(classifier, eps=eps)(images, labels),
    }
    for name, other in others.items():
        same = ((mine - other).abs() < 1e-6).double().mean()
        print(f"FGSM, share of equal pixels, {name}: {same:.5f}")
        assert same > 0.999
