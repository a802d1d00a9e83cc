"""FAP: counts, the loss without perturbation or without consistency, what its inner attack raises."""

import pytest
import torch
from torch.testing import assert_close

from ironclip.attacks.pgd import PGD
from ironclip.backbones import assemble
from ironclip.core.errors import UsageError
from ironclip.core.losses import kl_each
from ironclip.core.types import Batch
from ironclip.defenses.advmaple import AdvMaPLe
from ironclip.defenses.fap import FAP

EPS = 4 / 255


def drawn(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def attacked(defense, backbone, batch, attack) -> torch.Tensor:
    found = []

    def watch(*args, **given):
        found.append(attack(*args, **given))
        return found[0]

    defense.loss(backbone, batch, watch)
    return found[0]


def test_counts(vit_b, vit_l):
    count = lambda defense: sum(p.numel() for p in defense.parameters())  # noqa: E731
    assert count(FAP(vit_b, ["a", "b"])) == 3_557_120
    assert count(FAP(vit_b, ["a", "b"], direction="vision2text")) == 9 * (2 * 768 + 769 * 512)
    assert count(FAP(vit_l, ["a", "b"])) == 7_102_976


def test_without_perturbation_the_loss_is_clean_cross_entropy(backbone, batch, spy):
    terms = FAP(backbone, batch.classes).loss(backbone, batch, spy)
    assert terms.keys() == {"clean_ce", "consistency_kl"}
    assert float(terms["consistency_kl"].detach()) == pytest.approx(0, abs=1e-5)


def test_without_weight_the_gradient_is_that_of_clean_prompt_tuning(backbone, batch):
    fap = FAP(backbone, batch.classes, weight=0, generator=drawn())
    clean = AdvMaPLe(backbone, batch.classes, direction="fap_code", mix="clean")
    clean.load_state_dict(fap.state_dict())
    attack = PGD(EPS, steps=2, keep="last")
    found, expected = (
        torch.autograd.grad(sum(d.loss(backbone, batch, attack).values()), list(d.parameters())) for d in (fap, clean)
    )
    assert all(part.abs().max() > 0 for part in expected)
    for mine, theirs in zip(found, expected, strict=True):
        assert_close(mine, theirs, atol=1e-6, rtol=1e-5)


def test_the_inner_attack_raises_kl_and_reads_no_labels(backbone, batch):
    defense = FAP(backbone, batch.classes, generator=drawn())
    relabelled = Batch(batch.images, batch.labels.flip(0), batch.indices, batch.classes)
    adv = {steps: attacked(defense, backbone, batch, PGD(EPS, EPS / 4, steps=steps, keep="last")) for steps in (0, 1, 2, 4, 8)}
    assert torch.equal(adv[4], attacked(defense, backbone, relabelled, PGD(EPS, EPS / 4, steps=4, keep="last")))
    with torch.no_grad():
        classifier = assemble(backbone, batch.classes, defense.adaptation(backbone, batch.classes))
        reached = [float(kl_each(classifier(x), classifier(batch.images)).mean()) for x in adv.values()]
    assert reached == sorted(reached)
    assert reached[-1] > 2 * reached[0]


def test_kl_has_no_gradient_at_the_clean_image_so_a_start_there_is_refused(backbone, batch):
    defense = FAP(backbone, batch.classes, generator=drawn())
    classifier = assemble(backbone, batch.classes, defense.adaptation(backbone, batch.classes)).detached()
    seen = batch.images.clone().requires_grad_()
    logits = classifier(seen)
    (slope,) = torch.autograd.grad(kl_each(logits, logits.detach()).sum(), seen, retain_graph=True)
    (other,) = torch.autograd.grad(logits.square().sum(), seen)
    assert slope.abs().max() < 1e-5 * other.abs().max()
    with pytest.raises(UsageError, match="random start"):
        defense.loss(backbone, batch, PGD(EPS, steps=2, start="zero"))


def test_the_objective_of_advmaple_is_refused(backbone):
    with pytest.raises(UsageError, match="term must be one of cos, kl, mae, mse"):
        FAP(backbone, ["a", "b"], term="ce")
