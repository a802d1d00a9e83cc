"""FARE against values of the released code: embedding loss, momentum-sign attack, gradients, and TeCoA's loss in that code."""

import pytest
import torch
from parity import assert_attack_matches, assert_matches, load_case, template
from reference import reference_backbone
from torch.nn.functional import cross_entropy, normalize

from ironclip.core.losses import cross_entropy_each, squared_distance_each
from ironclip.core.tensors import ascend, value_and_slope
from ironclip.core.types import Batch
from ironclip.defenses.fare import FARE

DTYPES = {"float64": torch.float64, "float32": torch.float32}


@pytest.fixture(scope="module", params=DTYPES, ids=DTYPES)
def world(request):
    """(backbone, case, batch, a FARE whose projection is shifted) in one precision."""
    dtype = DTYPES[request.param]
    case = load_case("fare", dtype)
    tensors, notes = case
    backbone = reference_backbone(dtype)
    batch = Batch(
        tensors["images"], tensors["labels"], torch.arange(len(tensors["labels"])), tuple(notes["constants"]["classes"])
    )
    defense = FARE(backbone, batch.classes, templates=(template(tensors["tokens"], batch.classes),))
    with torch.no_grad():
        defense.image.proj += tensors["proj_shift"]
    return backbone, case, batch, defense


def released_attack(case, calls=None):
    """The released ascent: starts at eps * noise outside the box, and is clipped to it from the first step on.

    Its momentum on signs changes nothing (see `test_momentum_on_signs_is_plain_sign`), so plain sign steps must do.
    """
    tensors, notes = case
    sizes = {key: notes["constants"][key] for key in ("eps", "step_size", "steps")}

    def run(function, images, labels, *, indices=None, loss=cross_entropy_each):
        start = images + sizes["eps"] * tensors["noise"]
        found = ascend(function, lambda outputs: loss(outputs, labels), start, images, **sizes)
        if calls is not None:
            calls.append((value_and_slope(function, lambda outputs: loss(outputs, labels), start), found))
        return found

    return run


def test_the_embedding_loss(world):
    _, case, _, _ = world
    each = squared_distance_each(case[0]["given.embedding"], case[0]["given.target"])
    assert_matches(case, "given.loss_per_sample", each)
    assert_matches(case, "given.loss", each.mean())


def test_inner_attack_loss_and_gradients(world):
    backbone, case, batch, defense = world
    assert_matches(case, "embedding_original", defense.original(backbone, batch.classes).encode_image(batch.images))
    calls: list = []
    loss = defense.loss(backbone, batch, released_attack(case, calls))["adv_features"]
    ((_, values, slope), adv) = calls[0]
    assert_matches(case, "inner_objective_at_start", values.mean())
    assert_matches(case, "inner_pixel_gradient_at_start", slope / len(batch))
    assert_attack_matches(case, "adversarial_images", adv)
    assert_matches(case, "loss", loss)
    defense.zero_grad()
    loss.backward()
    assert_matches(case, "grad.visual.proj", defense.image.proj.grad)
    assert_matches(case, "grad.visual.class_embedding", defense.image.class_embedding.grad)


def test_tecoas_loss_in_the_code_of_fare(world):
    backbone, case, batch, defense = world
    tuned = defense.classifier(backbone, batch.classes, None).detached()
    scale = case[1]["constants"]["ce_logit_scale"]
    prompts = [defense.templates[0].replace("{}", name.replace("_", " ")) for name in batch.classes]
    assert torch.equal(backbone.tokenize(prompts), case[0]["tokens"])

    def logits(images):
        return scale * normalize(tuned.encode_image(images), dim=1) @ tuned.text_features.T

    adv = released_attack(case)(logits, batch.images, batch.labels)
    assert_attack_matches(case, "tecoa.adversarial_images", adv)
    assert_matches(case, "tecoa.loss", cross_entropy(logits(adv), batch.labels))


def test_momentum_on_signs_is_plain_sign():
    """sign(0.9 v + sign(g)) with v a sign is sign(g) unless g is exactly zero, where it goes on as before."""
    signs = torch.tensor([-1.0, 0.0, 1.0])
    velocity, slope = (grid.flatten() for grid in torch.meshgrid(signs, signs, indexing="ij"))
    assert torch.equal((0.9 * velocity + slope).sign(), torch.where(slope == 0, velocity, slope))
