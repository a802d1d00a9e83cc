"""Sim-CLIP, AGFT, Comp-TGA, SAFT, ADAPT and AdvCLIP-LoRA: losses written out, closed cases, and what they refuse."""

import json
import math

import pytest
import torch
import torch.nn.functional as F
from finetuned import stirred
from torch.testing import assert_close

from ironclip.attacks.pgd import PGD
from ironclip.backbones import assemble
from ironclip.core.errors import UsageError
from ironclip.core.types import Adaptation, Batch
from ironclip.defenses import advclip_lora, build
from ironclip.defenses._lora import LowRank
from ironclip.defenses.tga_zsr import logits_and_map

STILL = PGD(eps=0, step_size=1 / 255, steps=2, start="zero", keep="last")


def made(name, backbone, batch, **given):
    return build(name, backbone, batch.classes, generator=torch.Generator().manual_seed(0), given=given)


def fixed(images):
    """An inner attack that returns these images whatever it is handed."""
    return lambda function, seen, labels, **given: images


@pytest.fixture(scope="module")
def adv(batch):
    return (batch.images + 8 / 255 * torch.randn(batch.images.shape, generator=torch.Generator().manual_seed(2)).sign()).clamp(
        0, 1
    )


# ---- Sim-CLIP


@pytest.mark.parametrize("target", ["frozen", "siamese"])
def test_simclips_loss_written_out(backbone, batch, adv, target):
    defense = stirred(made("simclip", backbone, batch, target=target))
    tuned = defense.classifier(backbone, batch.classes, None)
    total = 0.0
    for clean, moved in zip(batch.images, adv, strict=True):
        c = (tuned if target == "siamese" else backbone).encode_image(clean[None])[0]
        z = tuned.encode_image(moved[None])[0]
        total -= float((z @ c / (z.norm() * c.norm())).detach())
    terms = defense.loss(backbone, batch, fixed(adv))
    assert float(sum(terms.values()).detach()) == pytest.approx(total / len(batch), abs=1e-4)


def test_simclip_before_training_and_without_a_radius(backbone, batch, adv):
    """The loss is at its least, -1, and the Siamese form has no slope there; the released form has half of the cosine's."""
    defense = made("simclip", backbone, batch)
    assert float(sum(defense.loss(backbone, batch, STILL).values()).detach()) == pytest.approx(-1, abs=1e-5)
    siamese = made("simclip", backbone, batch, target="siamese")
    slopes = torch.autograd.grad(sum(siamese.loss(backbone, batch, STILL).values()), list(siamese.parameters()))
    assert max(float(slope.abs().max()) for slope in slopes) < 1e-5
    terms, weight = defense.loss(backbone, batch, fixed(adv)), defense.image.proj
    (half,) = torch.autograd.grad(sum(terms.values()), weight)
    cosine = F.cosine_similarity(
        defense.classifier(backbone, batch.classes, None).encode_image(adv), backbone.encode_image(batch.images), dim=-1
    )
    (whole,) = torch.autograd.grad(-cosine.mean(), weight)
    assert_close(2 * half, whole, atol=1e-6, rtol=1e-4)


# ---- AGFT


def test_agfts_loss_written_out_and_labels_unused(backbone, batch, adv):
    defense = stirred(made("agft", backbone, batch, train_scale=60.0, target_ratio=0.3), 0.01)
    tuned, original = defense.classifier(backbone, batch.classes, None), defense.original(backbone, batch.classes)
    text, total = original.text_features, 0.0
    for clean, moved in zip(batch.images, adv, strict=True):
        before, after = original.encode_image(clean[None])[0], tuned.encode_image(moved[None])[0].detach()
        p = [math.exp(0.3 * 60 * float(before @ t / before.norm())) for t in text]
        q = [math.exp(60 * float(after @ t / after.norm())) for t in text]
        total -= sum(a / sum(p) * math.log(b / sum(q)) for a, b in zip(p, q, strict=True))
    found = defense.loss(backbone, batch, fixed(adv))["adv_alignment"]
    assert float(found.detach()) == pytest.approx(total / len(batch), rel=1e-3)
    other = Batch(batch.images, (batch.labels + 1) % 4, batch.indices, batch.classes)
    assert torch.equal(defense.loss(backbone, other, fixed(adv))["adv_alignment"], found)


def test_agft_at_ratio_one_starts_at_the_entropy_of_its_target_and_stays_there(backbone, batch):
    defense = made("agft", backbone, batch, target_ratio=1.0)
    loss = defense.loss(backbone, batch, STILL)["adv_alignment"]
    logits = 180 / backbone.spec.logit_scale * defense.original(backbone, batch.classes)(batch.images)
    p = logits.softmax(1)
    assert_close(loss, -(p * logits.log_softmax(1)).sum(1).mean())
    slopes = torch.autograd.grad(loss, list(defense.parameters()))
    assert max(float(slope.abs().max()) for slope in slopes) < 1e-3
    classifier = assemble(backbone, batch.classes, defense.adaptation(backbone, batch.classes))
    assert_close(classifier(batch.images), defense.original(backbone, batch.classes)(batch.images), atol=1e-4, rtol=1e-4)


# ---- Comp-TGA


def test_the_complementary_map_written_out(backbone, batch):
    defense = made("comp_tga", backbone, batch)
    classifier = defense.original(backbone, batch.classes)
    negated = assemble(backbone, batch.classes, Adaptation(templates=("This is not a photo of a {}",)))
    mixed = defense.original(backbone, batch.classes)
    a = logits_and_map(mixed, batch.images, batch.labels, "token_axis")[1]
    b = logits_and_map(negated, batch.images, batch.labels, "token_axis")[1]
    logits, found = defense.seen(classifier, batch.images, batch.labels)
    assert_close(found, a * (1 - b), atol=1e-5, rtol=1e-4)
    assert_close(logits, classifier(batch.images))
    assert not torch.allclose(found, a, atol=1e-2)


def test_a_prompt_without_a_place_for_the_class_is_refused(backbone, batch):
    with pytest.raises(UsageError, match="class name"):
        made("comp_tga", backbone, batch, negation="not a photo")


# ---- SAFT


def test_saft_without_descriptions_is_tga_zsr_and_says_so(backbone, batch, adv):
    assert made("saft", backbone, batch).notes == (
        "saft without descriptions: every class has its template alone, which is TGA-ZSR",
    )
    ours = stirred(made("saft", backbone, batch)).loss(backbone, batch, fixed(adv))
    theirs = stirred(made("tga_zsr", backbone, batch)).loss(backbone, batch, fixed(adv))
    assert ours.keys() == theirs.keys()
    for term, value in theirs.items():
        assert_close(ours[term], value, atol=1e-5, rtol=1e-5)


def test_safts_choice_and_cross_entropy_written_out(backbone, batch, adv, tmp_path):
    pool = {"Golden-Retriever": ["a yellow dog", "a large dog of a hunter", "golden fur"], "cat": ["a pet that purrs"]}
    file = tmp_path / "descriptions.json"
    file.write_text(json.dumps(pool))
    defense = stirred(made("saft", backbone, batch, descriptions=str(file), kept=2))
    texts = defense.texts(backbone, batch.classes)
    unit = lambda text: F.normalize(backbone.encode_text(backbone.embed_text([text])), dim=-1)[0]  # noqa: E731
    name, template = unit("golden retriever"), lambda of: unit(f"This is a photo of a {of}")
    ranked = sorted(pool["Golden-Retriever"], key=lambda text: -float(unit(text) @ name))
    assert_close(texts[:, 1], torch.stack([unit(text) for text in ranked[:2]]))
    assert_close(texts[:, 0], torch.stack([unit("a pet that purrs"), template("cat")]))
    assert_close(texts[:, 3], template("tram").expand(2, -1))
    assert defense.notes == ("saft: 2 of 4 classes have descriptions",)
    tuned, total = defense.classifier(backbone, batch.classes, None), 0.0
    for image, label in zip(adv, batch.labels, strict=True):
        f = F.normalize(tuned.encode_image(image[None])[0].detach(), dim=-1)
        for each in texts:
            total -= float((backbone.spec.logit_scale * each @ f).log_softmax(0)[label])
    assert float(defense.loss(backbone, batch, fixed(adv))["adv_ce"].detach()) == pytest.approx(
        total / (2 * len(batch)), rel=1e-4
    )


@pytest.mark.parametrize(
    "given", [{"descriptions": {"zebra": ["striped"]}}, {"descriptions": {"cat": []}}, {"descriptions": "no.json"}]
)
def test_descriptions_that_cannot_be_used_are_refused(backbone, batch, given):
    with pytest.raises(UsageError, match="descriptions"):
        made("saft", backbone, batch, **given)


# ---- ADAPT


def test_tokens_behind_the_image_are_the_function_of_tokens_in_front_of_the_class_token(backbone, batch):
    """The released order: L tokens before the class token behind ln_pre, the first L renewed in each block, read at index L."""
    defense = stirred(made("adapt", backbone, batch, length=3), 0.1)
    tokens, layers = defense.prompts.tokens.detach(), backbone.spec.image_layers

    def in_front(layer, sequence):
        if layer == layers:
            return sequence[:, 3:]
        if layer < 0 or layer >= len(tokens):
            return sequence
        kept = sequence if layer == 0 else sequence[:, 3:]
        return torch.cat([tokens[layer].expand(len(sequence), -1, -1), kept], dim=1)

    words = Adaptation(templates=defense.templates)
    with torch.no_grad():
        ours = assemble(backbone, batch.classes, defense.adaptation(backbone, batch.classes))(batch.images)
        theirs = assemble(backbone, batch.classes, Adaptation(image_edits=(in_front,), templates=defense.templates))(batch.images)
        assert_close(ours, theirs, atol=1e-4, rtol=1e-4)
        assert not torch.allclose(ours, assemble(backbone, batch.classes, words)(batch.images), atol=1e-2)


@pytest.mark.parametrize("objective", ["ce", "kl"])
def test_adapts_loss_written_out(backbone, batch, adv, objective):
    defense = stirred(made("adapt", backbone, batch, length=2, objective=objective, beta=3.0), 0.1)
    classifier, total = assemble(backbone, batch.classes, defense.adaptation(backbone, batch.classes)), 0.0
    with torch.no_grad():
        for clean, moved, label in zip(batch.images, adv, batch.labels, strict=True):
            o, m = (classifier(x[None])[0].log_softmax(0) for x in (clean, moved))
            total -= float(o[label])
            total += -3 * float(m[label]) if objective == "ce" else 3 * float((o.exp() * (o - m)).sum())
    terms = defense.loss(backbone, batch, fixed(adv))
    assert float(sum(terms.values()).detach()) == pytest.approx(total / len(batch), rel=1e-4)


def test_adapts_start_is_xaviers(backbone, batch):
    tokens = made("adapt", backbone, batch, length=50).prompts.tokens
    bound = math.sqrt(6 / (51 * tokens.shape[2] * tokens.shape[0]))
    assert 0.95 * bound < tokens.abs().max() <= bound


# ---- AdvCLIP-LoRA


def test_each_of_query_key_and_value_has_a_pair_of_its_own():
    base = {"attn.in_proj_weight": torch.randn(12, 4), "attn.out_proj.weight": torch.randn(4, 4)}
    low = stirred(LowRank(base, rank=1, scale=0.5, apart=True, generator=torch.Generator().manual_seed(0)), 1.0)
    change = low.values(base)["attn.in_proj_weight"] - base["attn.in_proj_weight"]
    up, down = low.state_dict()["attn.in_proj_weight.up"], low.state_dict()["attn.in_proj_weight.down"]
    for part in range(3):
        assert_close(change[4 * part : 4 * part + 4], 0.5 * up[part] @ down[part], atol=1e-5, rtol=1e-4)
    assert torch.linalg.matrix_rank(change, atol=1e-4) == 3
    assert low.state_dict()["attn.out_proj.weight.up"].shape == (4, 1)


def test_the_number_of_learned_values_is_the_published_formula(backbone, batch):
    spec = backbone.spec
    for encoder, widths in (("both", (spec.image_width, spec.text_width)), ("image", (spec.image_width,))):
        count = sum(p.numel() for p in made("advclip_lora", backbone, batch, encoder=encoder).parameters())
        layers = {spec.image_width: spec.image_layers, spec.text_width: spec.text_layers}
        assert count == sum(3 * layers[width] * 2 * 2 * width for width in widths)


def test_one_perturbation_of_an_epoch_written_out(backbone, batch):
    """Three batches, then another epoch's attack: plain ascent at the released rate, clipped; zero where the epoch begins."""
    defense = stirred(made("advclip_lora", backbone, batch), 0.2)
    classifier = assemble(backbone, batch.classes, defense.adaptation(backbone, batch.classes))
    attack, delta = PGD(eps=2 / 255, step_size=1 / 255, steps=1), torch.zeros(3, 32, 32)
    defense.train()
    for n in range(3):
        leaf = delta.clone().requires_grad_()
        (slope,) = torch.autograd.grad(F.cross_entropy(classifier((batch.images + leaf).clamp(0, 1)), batch.labels), leaf)
        u = 1 / (float(delta.norm()) + 1e-30)
        delta = (delta + 0.05 * (u + (1 - u) / (300 - n)) * slope).clamp(-2 / 255, 2 / 255)
        loss = defense.loss(backbone, batch, attack)["universal_ce"]
        off = (defense._universal.delta - delta).abs() > 1e-5  # at delta = 0 the step is endless, so a slope near zero decides
        assert off.double().mean() < 5e-3
        delta = defense._universal.delta
        assert_close(loss, F.cross_entropy(classifier((batch.images + delta).clamp(0, 1)), batch.labels), atol=1e-4, rtol=1e-4)
    defense.loss(backbone, batch, PGD(eps=2 / 255, step_size=1 / 255, steps=1, seed=9))
    assert defense._universal.steps == 1


def test_the_rate_after_the_warm_steps():
    found = advclip_lora.ascended(lambda delta: 2 * delta.sum(), torch.ones(3, 2, 2), 300)
    assert_close(found, torch.full((3, 2, 2), 1 + 0.05 * 2))


def test_a_record_says_that_one_perturbation_was_trained_on(backbone, batch):
    assert "only the radius" in made("advclip_lora", backbone, batch).notes[0]
    assert made("advclip_lora", backbone, batch, inner="image").notes == ()


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("simclip", {"target": "x"}), ("agft", {"train_scale": 0}), ("agft", {"target_ratio": 0}),
        ("comp_tga", {"distance": "x"}),
        ("saft", {"kept": 0}),
        ("adapt", {"length": 0}), ("adapt", {"objective": "x"}), ("adapt", {"beta": -1}), ("advclip_lora", {"rank": 0}),
        ("advclip_lora", {"ascents": 0}), ("advclip_lora", {"encoder": "x"}), ("advclip_lora", {"inner": "x"}),
        ("advclip_lora", {"units": "x"}), ("advclip_lora", {"normalise": 1}), ("advclip_lora", {"alpha": 0}),
    ],
)  # fmt: skip
def test_bad_options_fail_at_construction(backbone, batch, name, options):
    with pytest.raises(UsageError, match=next(iter(options))):
        made(name, backbone, batch, **options)
