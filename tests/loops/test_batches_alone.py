"""A batch gives the same samples to the last bit whatever was scored before it: what shards and resumed evaluations rest on."""

import random

import numpy as np
import pytest
import torch
from torch import nn

from ironclip import testtime
from ironclip.attacks.eot import Averaged
from ironclip.attacks.pgd import PGD
from ironclip.backbones import assemble
from ironclip.backbones.tiny import tiny_backbone
from ironclip.core.threat import Threat
from ironclip.core.types import Batch
from ironclip.loops.evaluation import evaluate
from ironclip.protocols.resolve import named_attacks
from ironclip.records.share import Shard

CLASSES = ("cat", "golden retriever", "school bus", "tram")
IMAGES, SIZE, OF, EPS = 10, 4, 3, 1 / 255


class Noisy(nn.Module):
    """A classifier behind noise of all three global generators."""

    classes = CLASSES

    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner = inner

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        by = 1 + 0.1 * random.random() + 0.1 * np.random.random()  # noqa: NPY002
        return by * self.inner(images + 0.02 * torch.randn_like(images))


@pytest.fixture(scope="module")
def scene():
    """(classifier, images with the labels that it gives)."""
    with torch.no_grad():
        base = assemble(tiny_backbone(), CLASSES)
        images = torch.randint(256, (IMAGES, 3, 32, 32), generator=torch.Generator().manual_seed(1)) / 255
        return base, images, base(images).argmax(1)


def samples(classifier, attacks, scene, rows):
    """Samples of the batches of these rows, in an order that none of our runs has."""
    _, images, labels = scene
    batches = [Batch(images[r.start : r.stop], labels[r.start : r.stop], torch.tensor(list(r)), CLASSES) for r in rows]
    return evaluate(classifier, attacks, batches, Threat(eps=EPS)).samples


def after_draws(*given):
    """`samples` where the global generators have moved on since the last call."""
    random.random(), np.random.random(), torch.rand(1)  # noqa: NPY002
    return samples(*given)


@pytest.mark.parametrize(
    ("names", "changes", "above"),
    [
        (["pgd"], ["steps=3", "restarts=2"], None),
        (["standard-fast"], [], None),
        (["autoattack"], ["mode=compact", "steps=3", "queries=8"], None),
        (["pgd"], ["steps=2"], "noisy"),
        (["eot"], [], "noisy"),
        (["pgd"], ["steps=2"], "rtpt"),
        (["pgd"], ["steps=2"], "ttc"),
    ],
)
def test_shards_together_are_the_whole_to_the_last_bit(scene, names, changes, above):
    base = scene[0]
    attacks = {"eot": Averaged(PGD(EPS, steps=2), 3)} if names == ["eot"] else named_attacks(names, EPS, 0, changes)
    classifier = base if above is None else Noisy(base) if above == "noisy" else testtime.build(above, SMALL.get(above))(base)
    whole = after_draws(classifier, attacks, scene, Shard(1, 1).rows(IMAGES, SIZE))
    parts = [after_draws(classifier, attacks, scene, Shard(number, OF).rows(IMAGES, SIZE)) for number in (3, 1, 2)]
    assert sorted((sample for part in parts for sample in part), key=lambda sample: sample.index) == list(whole)


SMALL = {"rtpt": {"views": 4}, "ttc": {"steps": 1}}


def test_the_global_generators_are_left_as_they_were(scene):
    states = torch.get_rng_state(), random.getstate(), np.random.get_state()[1].tolist()  # noqa: NPY002
    samples(Noisy(scene[0]), named_attacks(["fgsm"], EPS, 0), scene, Shard(1, 1).rows(IMAGES, SIZE))
    assert torch.equal(torch.get_rng_state(), states[0])
    assert (random.getstate(), np.random.get_state()[1].tolist()) == states[1:]  # noqa: NPY002
