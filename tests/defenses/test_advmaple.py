"""AdvMaPLe: counts, its cross-entropy, and where it meets FAP."""

import torch
from torch.nn.functional import cross_entropy
from torch.testing import assert_close

from ironclip.attacks.pgd import PGD
from ironclip.backbones import assemble
from ironclip.defenses.advmaple import AdvMaPLe
from ironclip.defenses.fap import FAP


def test_counts(vit_b):
    count = lambda defense: sum(p.numel() for p in defense.parameters())  # noqa: E731
    assert count(AdvMaPLe(vit_b, ["a", "b"])) == 3_555_072
    assert count(AdvMaPLe(vit_b, ["a", "b"], direction="fap_code")) == 3_557_120


def test_the_loss_is_cross_entropy_on_the_images_the_attack_hands_back(backbone, batch):
    defense = AdvMaPLe(backbone, batch.classes, weight=2.0)
    terms = defense.loss(backbone, batch, lambda function, images, labels, **given: 1 - images)
    logits = assemble(backbone, batch.classes, defense.adaptation(backbone, batch.classes))(1 - batch.images)
    assert terms.keys() == {"adv_ce"}
    assert_close(terms["adv_ce"], 2 * cross_entropy(logits, batch.labels))


def test_in_faps_direction_and_with_its_term_it_is_fap(backbone, batch):
    fap = FAP(backbone, batch.classes, generator=torch.Generator().manual_seed(0))
    same = AdvMaPLe(backbone, batch.classes, direction="fap_code", term="cos", weight=1.5)
    same.load_state_dict(fap.state_dict())
    attack = PGD(4 / 255, steps=2, keep="last")
    found, expected = (defense.loss(backbone, batch, attack) for defense in (same, fap))
    for name, term in expected.items():
        assert torch.equal(found[name], term)
