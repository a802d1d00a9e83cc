"""AVP against values of the released code (TeCoA): the frame, the logits, the inner attack and the training loss."""

from functools import partial

import pytest
import torch
from parity import assert_attack_matches, assert_matches, load_case
from reference import reference_backbone

from ironclip.attacks.pgd import PGD
from ironclip.backbones import assemble
from ironclip.core.types import Batch
from ironclip.defenses.avp_pixel import AVPPixel

STRIPS = ("up", "down", "left", "right")


def through(defense, backbone, classes):
    return assemble(backbone, classes, defense.adaptation(backbone, classes))


@pytest.fixture(scope="module", params=[torch.float64, torch.float32], ids=str)
def world(request):
    """(backbone, case, batch, defence with the stored frame and tokens) in one precision."""
    dtype = request.param
    case = tensors, notes = load_case("tecoa", dtype)
    sizes = notes["constants"]
    batch = Batch(tensors["images"].to(dtype), tensors["labels"], torch.arange(len(tensors["labels"])), tuple(sizes["classes"]))
    backbone = reference_backbone(dtype)
    defense = AVPPixel(backbone, batch.classes, pad=sizes["pad"], tokens=sizes["prompt_tokens"], templates=(sizes["template"],))
    state = {f"frame.{name}": tensors[f"frame.pad_{name}"] for name in STRIPS}
    defense.load_state_dict({**state, "tokens.tokens": tensors["prompt_tokens"]})
    return backbone, case, batch, defense


def test_normalised_input_and_logits_are_those_of_the_released_code(world):
    backbone, case, batch, defense = world
    assert_matches(case, "prompted.normalised_input", (defense.frame(batch.images) - backbone.mean) / backbone.std)
    assert_matches(case, "prompted.logits", through(defense, backbone, batch.classes)(batch.images))


def test_inner_attack_and_training_loss_are_those_of_the_released_code(world):
    backbone, case, batch, defense = world
    tensors, notes = case
    kept = {key: notes["constants"]["pgd"][key] for key in ("eps", "step_size", "steps")}
    attack = partial(PGD(**kept, keep="last"), noise=tensors["noise"].to(batch.images.dtype))
    classifier = through(defense, backbone, batch.classes)
    adv = attack(classifier.detached(), batch.images, batch.labels)
    assert_attack_matches(case, "prompted.pgd.delta", adv, batch.images)
    assert_matches(case, "prompted.pgd.logits", classifier(adv))
    assert_matches(case, "prompted.pgd.loss", defense.loss(backbone, batch, attack)["adv_ce"])
