"""TGA-ZSR against values of the released code: maps in both normalisations, loss terms in three distances, gradient."""

import pytest
import torch
from parity import assert_matches, load_case, notes_of, template
from reference import reference_backbone

from ironclip.core.types import Batch
from ironclip.defenses.tga_zsr import TGA, logits_and_map

DTYPES = {"float64": torch.float64, "float32": torch.float32}
DISTANCES = [name.split(".")[0] for name in notes_of("tga")["tensors"] if name.endswith(".adversarial_term")]


@pytest.fixture(scope="module", params=DTYPES, ids=DTYPES)
def world(request):
    """(backbone, case, batch, adversarial images) in one precision."""
    dtype = DTYPES[request.param]
    case = load_case("tga", dtype)
    tensors, notes = case
    batch = Batch(
        tensors["images"], tensors["labels"], torch.arange(len(tensors["labels"])), tuple(notes["constants"]["classes"])
    )
    return reference_backbone(dtype), case, batch, (tensors["images"] + tensors["delta"]).clamp(0, 1)


def shifted(world, **options) -> TGA:
    backbone, (tensors, notes), batch, _ = world
    weights = {key: notes["constants"][key] for key in ("alpha", "beta")}
    words = template(tensors["tokens"], batch.classes)
    defense = TGA(backbone, batch.classes, templates=(words,), **weights, **options)
    with torch.no_grad():
        defense.image.proj += tensors["proj_shift"]
    return defense


def test_maps_and_logits_from_one_pass(world):
    backbone, case, batch, adv = world
    defense = shifted(world)
    tuned, original = defense.classifier(backbone, batch.classes, None), defense.original(backbone, batch.classes)
    logits, found = logits_and_map(tuned, adv, batch.labels, "token_axis")
    assert_matches(case, "logits_adversarial", logits)
    assert_matches(case, "map_adversarial", found)
    assert_matches(case, "map_clean_frozen", logits_and_map(original, batch.images, batch.labels, "token_axis")[1])
    assert_matches(case, "map_clean_tuned", logits_and_map(tuned, batch.images, batch.labels, "token_axis")[1])
    assert_matches(case, "feature_norm.map_adversarial", logits_and_map(tuned, adv, batch.labels, "feature")[1])


@pytest.mark.parametrize("distance", DISTANCES)
def test_loss_terms_and_gradient(world, distance):
    backbone, case, batch, adv = world
    defense = shifted(world, distance=distance)
    terms = defense.loss(backbone, batch, lambda function, images, labels, **options: adv)
    assert_matches(case, f"{distance}.cross_entropy", terms["adv_ce"])
    assert_matches(case, f"{distance}.adversarial_term", terms["adv_map"])
    assert_matches(case, f"{distance}.clean_term", terms["clean_map"])
    if distance == "l2":
        sum(terms.values()).backward()
        assert_matches(case, "l2.grad.visual.proj", defense.image.proj.grad)
