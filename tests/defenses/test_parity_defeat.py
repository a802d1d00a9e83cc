"""DEFEAT against values of the released code (cheny02/DEFEAT-ICLR2026): forward pass, fusion, loss terms and gradients."""

from functools import partial

import pytest
import torch
import torch.nn.functional as F
from parity import assert_attack_matches, assert_matches, load_case, template
from reference import reference_backbone

from ironclip.attacks.pgd import PGD
from ironclip.backbones import assemble, splice
from ironclip.core.tensors import value_and_slope
from ironclip.core.types import Batch, ImageOutput
from ironclip.defenses._shield import as_map
from ironclip.defenses.defeat import DEFEAT

DTYPES = {"float64": torch.float64, "float32": torch.float32}
TERMS = {
    "adv_ce": ("cross_entropy", None), "reconstruction": ("reconstruction", "reconstruction"),
    "codebook": ("codebook", "codebook"), "commitment": ("commitment", "commitment"),
    "image_alignment": ("image_alignment", "image_alignment"), "text_alignment": ("text_alignment", "text_alignment"),
}  # fmt: skip


@pytest.fixture(scope="module", params=DTYPES, ids=DTYPES)
def world(request):
    """(backbone, case, batch) in one precision."""
    dtype = DTYPES[request.param]
    case = load_case("defeat", dtype)
    tensors, notes = case
    classes = tuple(notes["constants"]["classes"])
    batch = Batch(tensors["images"].to(dtype), tensors["labels"], torch.arange(len(tensors["labels"])), classes)
    return reference_backbone(dtype), case, batch


def ours(name: str) -> str:
    """Our name of a stored tensor."""
    if name == "ctx":
        return "context"
    name = name.replace("vq_embedding.weight", "quantiser.codebook")
    return f"branch.{name}" if name.startswith("pool.") else f"branch.shield.{name}"


def learned(world, **options) -> DEFEAT:
    """The released defence with the stored tensors."""
    backbone, (tensors, notes), batch = world
    sizes = notes["constants"]
    weights = sizes["weights"]
    hand = template(tensors["tokens_hand"], batch.classes)
    official = {"pre_norm": "none", "decay": 0.0, "start": "uniform", "revive_below": 0.0, "decay_all": True}
    defense = DEFEAT(
        backbone, batch.classes, length=sizes["context_tokens"], codes=sizes["codes"], latent_width=sizes["latent_channels"],
        fusion_weight=sizes["fusion_weight"],
        templates=(hand,), reconstruction=weights["reconstruction"], code_weight=weights["codebook"],
        commitment=weights["commitment"], image_alignment=weights["image_alignment"], text_alignment=weights["text_alignment"],
        **{**official, **options},
    )  # fmt: skip
    state = {ours(name.removeprefix("p.")): tensors[name] for name in tensors if name.startswith("p.")}
    defense.load_state_dict({**state, "context": tensors["ctx"]})
    return defense


def looked(world, defense: DEFEAT, images):
    """(classifier, what the head sees, both branches)."""
    backbone, _, batch = world
    classifier = assemble(backbone, batch.classes, defense.adaptation(backbone, batch.classes))
    trace = defense.branch.observer()
    output = ImageOutput(classifier.encode_image(images, trace=trace), trace)
    return classifier, output, defense.branch.branches(output, classifier.text_features)


def test_text_features_of_context_and_hand_prompts(world):
    backbone, case, batch = world
    defense = learned(world)
    context = defense.adaptation(backbone, batch.classes).context
    ids = splice(backbone, batch.classes, context).ids
    assert torch.equal(ids, case[0]["tokens"][:, : ids.shape[1]])
    assert_matches(case, "text_features", looked(world, defense, batch.images)[0].text_features)
    assert_matches(case, "hand_text_features", defense._hand_features(backbone, batch.classes))


def test_grid_latent_codes_and_reconstruction(world):
    _, case, batch = world
    defense = learned(world)
    _, output, found = looked(world, defense, batch.images)
    side = case[1]["constants"]["grid"]
    assert_matches(case, "grid_tokens", found.made.grid)
    assert_matches(case, "class_features", F.normalize(output.features, dim=-1))
    assert_matches(case, "latent", as_map(found.made.latent))
    chosen = defense.shield.quantiser.nearest(found.made.latent)
    assert_matches(case, "code_indices", chosen.unflatten(1, (side, side)))
    assert_matches(case, "quantised", as_map(defense.shield.quantiser.look_up(chosen)))
    assert_matches(case, "reconstruction", as_map(found.made.rebuilt))
    assert_matches(case, "pooled_features", F.normalize(found.pooled, dim=-1))


def test_logits_of_both_branches_and_of_either_fusion(world):
    _, case, batch = world
    defense = learned(world)
    classifier, _, found = looked(world, defense, batch.images)
    assert_matches(case, "logits_class", found.of_class)
    assert_matches(case, "logits_pooled", found.of_shield)
    assert_matches(case, "logits_fused", classifier(batch.images))
    mixed, _, _ = looked(world, learned(world, fusion="probs"), batch.images)
    assert_matches(case, "log_probabilities_probs_fusion", mixed(batch.images))


def test_pixel_gradient(world):
    _, case, batch = world
    classifier, _, _ = looked(world, learned(world), batch.images)
    loss = F.cross_entropy(classifier(batch.images), batch.labels)
    assert_matches(case, "cross_entropy_clean", loss)
    _, _, slope = value_and_slope(classifier.detached(), lambda out: F.cross_entropy(out, batch.labels)[None], batch.images)
    assert_matches(case, "pixel_gradient", slope)


def test_inner_attack_reaches_the_stored_images(world):
    backbone, case, batch = world
    tensors, notes = case
    sizes, found = notes["constants"], []
    attack = PGD(eps=sizes["eps"], step_size=sizes["step_size"], steps=sizes["steps"], keep="last", box="forward")

    def record(*given, **options):
        found.append(partial(attack, noise=tensors["noise"])(*given, **options))
        return found[0]

    learned(world).loss(backbone, batch, record)
    assert_attack_matches(case, "train.adversarial_images", found[0])


def test_loss_terms_and_gradients_at_the_stored_images(world):
    backbone, case, batch = world
    tensors, notes = case
    stored = tensors["train.adversarial_images"].to(batch.images.dtype)
    defense = learned(world)
    terms = defense.loss(backbone, batch, lambda *given, **options: stored)
    assert terms.keys() == TERMS.keys()
    for ours_, (name, weight) in TERMS.items():
        assert_matches(case, f"train.{name}", terms[ours_] / (notes["constants"]["weights"][weight] if weight else 1.0))
    total = torch.stack(list(terms.values())).sum()
    assert_matches(case, "train.loss", total)
    total.backward()
    slopes = {name: parameter.grad for name, parameter in defense.named_parameters()}
    stored_slopes = [name for name in tensors if name.startswith("train.grad.")]
    assert len(stored_slopes) in (0, len(slopes))  # a case may leave them out
    for name in stored_slopes:
        assert_matches(case, name, slopes[ours(name.removeprefix("train.grad."))])


def test_logits_and_codes_at_the_stored_images(world):
    _, case, batch = world
    defense = learned(world)
    _, _, found = looked(world, defense, case[0]["train.adversarial_images"].to(batch.images.dtype))
    assert_matches(case, "train.logits_fused", defense.branch.fuse(found.of_class, found.of_shield, found.weight))
    side = case[1]["constants"]["grid"]
    assert_matches(case, "train.code_indices", defense.shield.quantiser.nearest(found.made.latent).unflatten(1, (side, side)))
