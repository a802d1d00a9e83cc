"""AdvFLYP and QT-AFT against values of their released codes: inner attack, terms, gradients, one step of the learned scale."""

import pytest
import torch
from finetuned import assert_gradients_match, assert_start_matches, recorded
from parity import assert_attack_matches, assert_matches, load_case, notes_of, template
from reference import reference_backbone
from torch.nn.functional import normalize

from ironclip.core.losses import kl_each
from ironclip.core.types import Batch
from ironclip.defenses import build
from ironclip.defenses._pairs import encoded

DTYPES = {"float64": torch.float64, "float32": torch.float32}


@pytest.fixture(params=DTYPES, ids=DTYPES)
def dtype(request):
    return DTYPES[request.param]


def world(name, dtype, *, box, method=None, **options):
    """(case, backbone, batch with captions, defence with its projection shifted, inner attack, its calls)."""
    case = tensors, notes = load_case(name, dtype)
    constants, backbone = notes["constants"], reference_backbone(dtype)
    classes = tuple(notes_of("agft")["constants"]["classes"])  # their scores are never looked at
    images, count = tensors["images"], len(tensors["images"])
    batch = Batch(images, torch.arange(count), torch.arange(count), classes, tuple(constants["captions"]))
    words = template(load_case("agft", dtype)[0]["tokens"], classes)
    defense = build(method or name, backbone, classes, given={"templates": (words,), **options})
    with torch.no_grad():
        defense.image.proj += tensors["proj_shift"]
    attack, calls = recorded(case, box=box)
    return case, backbone, batch, defense, attack, calls


def test_advflyp(dtype):
    case, backbone, batch, defense, attack, calls = world("advflyp", dtype, box=True)
    terms = defense.loss(backbone, batch, attack)
    u = encoded(backbone, batch.texts)
    assert_matches(case, "text_features", u)
    assert_start_matches(case, calls)
    assert_attack_matches(case, "adversarial_images", calls[1])
    tuned, original = defense.classifier(backbone, batch.classes, None), defense.original(backbone, batch.classes)
    unit = lambda tower, images: normalize(tower.encode_image(images), dim=-1)  # noqa: E731
    z, z0, zc = unit(tuned, calls[1]), unit(original, calls[1]), unit(tuned, batch.images)
    p, p0, pc = (backbone.spec.logit_scale * each @ u.T for each in (z, z0, zc))
    assert_matches(case, "logits_per_image", p)
    assert_matches(case, "contrastive", terms["adv_contrast"])
    assert_matches(case, "feature_term_original_adversarial", (z - z0).norm(dim=1).mean())
    assert_matches(case, "feature_term_tuned_clean", (z - zc).norm(dim=1).mean())
    assert_matches(case, "logit_term_original_adversarial", kl_each(p0, p).mean())
    assert_matches(case, "logit_term_tuned_clean", kl_each(pc, p).mean())
    assert_matches(case, "loss", sum(terms.values()))
    assert_gradients_match(case, defense, sum(terms.values()))


def test_advflyp_without_regularisers(dtype):
    case, backbone, batch, defense, attack, _ = world("advflyp", dtype, box=True, feature_weight=0.0, logit_weight=0.0)
    (term,) = defense.loss(backbone, batch, attack).values()
    assert_matches(case, "plain.loss", term)
    assert_gradients_match(case, defense, term, "plain.")


def test_qtaft(dtype):
    case, backbone, batch, defense, attack, calls = world("qtaft", dtype, box=False, method="qt_aft")
    constants = case[1]["constants"]
    assert float(defense.tau.detach()) == pytest.approx(constants["logit_scale_log_at_start"], abs=1e-6)
    terms = defense.loss(backbone, batch, attack)
    assert_start_matches(case, calls)
    assert_attack_matches(case, "adversarial_images", calls[1])
    assert_matches(case, "distance_term", terms["adv_features"])
    assert_matches(case, "caption_term", terms["caption"])
    assert_matches(case, "loss", sum(terms.values()))
    assert_gradients_match(case, defense, sum(terms.values()))
    assert_matches(case, "grad.logit_scale", defense.tau.grad)
    sizes = constants["optimiser"]
    step = {"lr": sizes["lr"], "betas": tuple(sizes["betas"]), "weight_decay": sizes["weight_decay"]}
    torch.optim.AdamW(defense.parameters(), **step).step()
    assert_matches(case, "after_step.visual.class_embedding", defense.image.class_embedding)
    assert_matches(case, "after_step.logit_scale", defense.tau)
