"""A named attack on a random classifier takes every step: one success on a noisy mean ends nothing."""

import pytest
import torch
from torch import nn

from ironclip.attacks.eot import Averaged
from ironclip.core.permits import inside
from ironclip.core.threat import Threat
from ironclip.core.types import Batch
from ironclip.loops.evaluation import evaluate
from ironclip.protocols.audit_bench import expanded
from ironclip.protocols.resolve import named_attacks

EPS, MANY, DRAWS = 0.1, 48, 2


class Unsteady(nn.Module):
    """Two classes by the mean of the image against 1/2, with fresh noise on each image in every call."""

    classes = ("dark", "light")

    def __init__(self):
        super().__init__()
        self.generator = torch.Generator().manual_seed(0)

    def forward(self, images):
        light = 40 * (images.mean((1, 2, 3)) - 0.5) + torch.randn(len(images), generator=self.generator)
        return torch.stack([-light, light], 1)


def robust(attacks):
    images = torch.full((MANY, 3, 4, 4), 0.52)
    batch = Batch(images, torch.ones(MANY, dtype=torch.long), torch.arange(MANY), Unsteady.classes)
    found = evaluate(Unsteady(), attacks, [batch], Threat(eps=EPS), stop_early=False)
    return sum(sample.label == next(iter(sample.adversarial.values())) for sample in found.samples)


@pytest.mark.parametrize(("name", "changes"), [("apgd-ce", ["steps=15"]), ("square", ["queries=15", "mode=compact"])])
def test_a_named_attack_that_stops_at_the_first_success_flatters_a_random_classifier(name, changes):
    short = named_attacks([name], EPS, 0, changes)
    early = {}
    for each, attack in short.items():  # what an audit ran before the mode was changed inside the mean
        early[each] = Averaged(attack, DRAWS)
        object.__setattr__(early[each], "inner", attack)
    whole = expanded(short, DRAWS)
    assert {part.mode for attack in whole.values() for part in inside(attack) if hasattr(part, "mode")} == {"full"}
    assert robust(whole) + 4 < robust(early)


def test_every_member_of_autoattack_is_whole_on_a_random_classifier():
    for names in (["autoattack"], ["standard-fast"], ["apgd-t", "fab", "square", "pgd"]):
        for attack in expanded(named_attacks(names, EPS, 0), DRAWS).values():
            assert {part.mode for part in inside(attack) if hasattr(part, "mode")} == {"full"}
