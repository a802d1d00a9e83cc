"""Sim-CLIP, AGFT, Comp-TGA, SAFT and ADAPT against values of their released codes: inner attacks, loss terms, gradients."""

import pytest
import torch
from finetuned import assert_gradients_match, assert_start_matches, recorded
from parity import assert_attack_matches, assert_matches, load_case, notes_of, template
from reference import reference_backbone
from torch.nn.functional import cross_entropy

from ironclip.backbones import assemble
from ironclip.core.types import Adaptation, Batch
from ironclip.defenses import build, saft
from ironclip.defenses.tga_zsr import logits_and_maps

DTYPES = {"float64": torch.float64, "float32": torch.float32}


@pytest.fixture(params=DTYPES, ids=DTYPES)
def dtype(request):
    return DTYPES[request.param]


def world(name, case_name, dtype, *, box=True, shift=True, given=None, **options):
    """(case, backbone, batch, defence with its projection shifted, inner attack that writes its start down)."""
    case = tensors, notes = load_case(case_name, dtype)
    constants, backbone = notes["constants"], reference_backbone(dtype)
    words = tensors if "tokens" in tensors else load_case("agft")[0]  # features alone are compared there
    classes = tuple(constants.get("classes", notes_of("agft")["constants"]["classes"]))
    images = tensors["images"]
    labels = tensors.get("labels", torch.zeros(len(images), dtype=torch.long))
    batch = Batch(images, labels, torch.arange(len(images)), classes)
    options["templates"] = given["templates"] if given else (template(words["tokens"], classes),)
    defense = build(name, backbone, classes, given=options)
    if shift:
        with torch.no_grad():
            defense.image.proj += tensors["proj_shift"]
    attack, calls = recorded(case, box=box)
    return case, backbone, batch, defense, attack, calls


@pytest.mark.parametrize("target", ["frozen", "siamese"])
def test_simclip(dtype, target):
    case, backbone, batch, defense, attack, calls = world("simclip", "simclip", dtype, box=False, target=target)
    terms = defense.loss(backbone, batch, attack)
    assert_start_matches(case, calls)
    assert_attack_matches(case, "adversarial_images", calls[1])
    if target == "frozen":
        assert_matches(case, "term_adversarial_to_original", 2 * terms["adv_cosine"])
        assert_matches(case, "term_original_to_adversarial", 2 * terms["clean_cosine"])
    prefix = "" if target == "frozen" else "siamese."
    assert_matches(case, f"{prefix}loss", sum(terms.values()))
    assert_gradients_match(case, defense, sum(terms.values()), prefix)


def test_agft(dtype):
    sizes = load_case("agft", dtype)[1]["constants"]
    given = {"train_scale": sizes["logit_scale_train"], "target_ratio": sizes["scale_ratio"]}
    case, backbone, batch, defense, attack, calls = world("agft", "agft", dtype, **given)
    terms = defense.loss(backbone, batch, attack)
    original = defense.original(backbone, batch.classes)
    target = (sizes["target_scale"] / backbone.spec.logit_scale * original(batch.images)).softmax(1)
    assert_matches(case, "text_features", original.text_features)
    assert_matches(case, "target", target)
    assert_start_matches(case, calls)
    if dtype != torch.float64:
        return  # signs of slopes are compared in float64
    assert_matches(case, "adversarial_images", calls[1])
    assert_matches(case, "loss", terms["adv_alignment"])
    logits = defense.classifier(backbone, batch.classes, None)(calls[1])
    assert_matches(case, "logits", sizes["logit_scale_train"] / backbone.spec.logit_scale * logits)
    assert_gradients_match(case, defense, terms["adv_alignment"])


@pytest.mark.parametrize("distance", ["l2", "l1", "cos"])
def test_comp_tga(dtype, distance):
    constants = load_case("comp_tga", dtype)[1]["constants"]
    given = {"alpha": constants["alpha"], "beta": constants["beta"], "distance": distance}
    tensors, notes = load_case("comp_tga", dtype)
    given["negation"] = template(tensors["tokens_non_class"], notes["constants"]["classes"])
    case, backbone, batch, defense, attack, calls = world("comp_tga", "comp_tga", dtype, **given)
    terms = defense.loss(backbone, batch, attack)
    assert_attack_matches(case, "adversarial_images", calls[1])
    tuned, original = defense.classifier(backbone, batch.classes, None), defense.original(backbone, batch.classes)
    assert_matches(case, f"{distance}.refinement", terms["adv_map"])
    assert_matches(case, f"{distance}.constraint", terms["clean_map"])
    assert_matches(case, "cross_entropy", terms["adv_ce"])
    if distance == "l2":
        adv = calls[1]
        for norm, prefix in (("token_axis", ""), ("feature", "feature_axis.")):
            defense.tga_norm = norm
            assert_matches(case, f"{prefix}map_adversarial", defense.seen(tuned, adv, batch.labels)[1])
            assert_matches(case, f"{prefix}map_clean_frozen", defense.seen(original, batch.images, batch.labels)[1])
            assert_matches(case, f"{prefix}map_clean_tuned", defense.seen(tuned, batch.images, batch.labels)[1])
        assert_matches(case, "logits", tuned(adv))
        assert_matches(case, "loss", sum(terms.values()))
        assert_gradients_match(case, defense, sum(terms.values()))


@pytest.mark.parametrize("objective", ["ce", "kl"])
def test_adapt(dtype, objective):
    constants = load_case("adapt", dtype)[1]["constants"]
    given = {"length": constants["prompt_length"], "depth": constants["prompt_depth"], "beta": constants["beta"]}
    case, backbone, batch, defense, attack, calls = world("adapt", "adapt", dtype, shift=False, objective=objective, **given)
    defense.load_state_dict({"prompts.tokens": case[0]["prompt"][0].permute(2, 0, 1)})
    classifier = assemble(backbone, batch.classes, defense.adaptation(backbone, batch.classes))
    assert_matches(case, "logits_clean", classifier(batch.images))
    terms = defense.loss(backbone, batch, attack)
    assert_start_matches(case, calls)
    assert_attack_matches(case, "ce.adversarial_images", calls[1])
    assert_matches(case, "ce.logits_adversarial", classifier(calls[1]))
    assert_matches(case, f"{objective}.loss", sum(terms.values()))
    (slope,) = torch.autograd.grad(sum(terms.values()), list(defense.parameters()))
    assert_matches(case, f"{objective}.grad.prompt", slope.permute(1, 2, 0)[None])
    assert_matches(
        case, "logits_without_prompts", assemble(backbone, batch.classes, Adaptation(templates=defense.templates))(batch.images)
    )
    assert terms["clean_ce"].detach() == cross_entropy(classifier(batch.images), batch.labels).detach()


def test_saft(dtype):
    tensors, notes = load_case("saft", dtype)
    constants = notes["constants"]
    given = {"descriptions": constants["descriptions"], "kept": constants["descriptions_per_class"]}
    given |= {"alpha": constants["alpha"], "beta": constants["beta"]}
    words = {"templates": ("{}",)}
    case, backbone, batch, defense, attack, calls = world("saft", "saft", dtype, given=words, **given)
    for name, rows in zip(batch.classes, tensors["selected"], strict=True):
        pool = saft.encoded(backbone, constants["descriptions"][name])
        assert saft.nearest(pool, saft.encoded(backbone, [name])[0], defense.kept) == rows.tolist()
    texts = defense.texts(backbone, batch.classes)
    tuned = defense.classifier(backbone, batch.classes, None)
    terms = defense.loss(backbone, batch, attack)
    assert_start_matches(case, calls)
    start = (batch.images + constants["eps"] * tensors["noise"]).clamp(0, 1)
    assert_matches(case, "logits_at_start", saft.ensemble(tuned, start, texts).transpose(0, 1))
    assert_attack_matches(case, "adversarial_images", calls[1])
    assert_matches(case, "logits", saft.ensemble(tuned, calls[1], texts).transpose(0, 1))
    own = texts.mean(0)[batch.labels][:, None]
    for name, classifier, images in (
        ("map_adversarial", tuned, calls[1]), ("map_clean_tuned", tuned, batch.images),
        ("map_clean_frozen", defense.original(backbone, batch.classes), batch.images),
    ):  # fmt: skip
        assert_matches(case, name, logits_and_maps(classifier, images, own, "token_axis")[1][:, 0])
    assert_matches(case, "cross_entropy", terms["adv_ce"])
    assert_matches(case, "refinement", terms["adv_map"])
    assert_matches(case, "constraint", terms["clean_map"])
    assert_matches(case, "loss", sum(terms.values()))
    assert_gradients_match(case, defense, sum(terms.values()))
