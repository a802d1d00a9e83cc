"""TeCoA against values of the released code: loss, weight gradients, PGD and CW attacks, and the frame + token prompt."""

import pytest
import torch
import torch.nn.functional as F
from parity import assert_matches, load_case
from reference import reference_backbone
from torch import nn
from torch.testing import assert_close

from ironclip.attacks.pgd import PGD
from ironclip.backbones import assemble
from ironclip.defenses._blocks import ImagePrompts
from ironclip.defenses.tecoa import TeCoA
from ironclip.merging import merge
from ironclip.types import Adaptation, Batch

DTYPES = {"float64": torch.float64, "float32": torch.float32}


@pytest.fixture(scope="module", params=DTYPES, ids=DTYPES)
def world(request):
    """(backbone, case, batch) in one precision."""
    dtype = DTYPES[request.param]
    case = load_case("tecoa", dtype)
    tensors, notes = case
    classes = tuple(notes["constants"]["classes"])
    batch = Batch(tensors["images"], tensors["labels"], torch.arange(4), classes)
    return reference_backbone(dtype), case, batch


def official_attack(case, name: str, found: list):
    """The released attack's constants and its stored start; images are written down."""
    sizes = case[1]["constants"]["pgd" if name == "prompted.pgd" else name]
    loss = "margin" if name == "cw10" else "ce"
    attack = PGD(eps=sizes["eps"], step_size=sizes["step_size"], steps=sizes["steps"], keep="last", loss=loss)

    def run(function, images, labels, **options):
        found.append(attack(function, images, labels, noise=case[0]["noise"], **options))
        return found[-1]

    return run


def same_delta(case, name: str, adv, images) -> None:
    """In float32 within the spacing of numbers below 1: we keep images where the released code keeps the perturbation."""
    if images.dtype == torch.float64:
        assert_matches(case, f"{name}.delta", adv - images)
    elif case[1]["tensors"][f"{name}.delta"]["atol_float32"] is not None:
        assert_close((adv - images).double(), case[0][f"{name}.delta"].double(), atol=6e-8, rtol=0)


def test_the_prompts_have_the_stored_tokens(world):
    backbone, (tensors, _), batch = world
    (template,) = TeCoA(backbone, batch.classes).adaptation(backbone, batch.classes).templates
    ids = backbone.tokenize([template.replace("{}", name.replace("_", " ")) for name in batch.classes])
    assert torch.equal(ids, tensors["tokens"])


def test_clean_logits_loss_and_pixel_gradient(world):
    backbone, case, batch = world
    defense, images = TeCoA(backbone, batch.classes, adv_weight=0.0), batch.images.clone().requires_grad_()
    assert_matches(case, "logits", assemble(backbone, batch.classes, defense.adaptation(backbone, batch.classes))(images))
    loss = defense.loss(backbone, Batch(images, batch.labels, batch.indices, batch.classes), None)["clean_ce"]
    assert_matches(case, "loss_clean", loss)
    assert_matches(case, "pixel_gradient", torch.autograd.grad(loss, images)[0])


@pytest.mark.parametrize("name", ["pgd", "pgd10", "cw10"])
def test_the_loss_at_the_images_of_the_released_attack(world, name):
    backbone, case, batch = world
    defense, found = TeCoA(backbone, batch.classes), []
    loss = defense.loss(backbone, batch, official_attack(case, name, found))["adv_ce"]
    same_delta(case, name, found[0], batch.images)
    assert_matches(case, f"{name}.loss", loss)
    assert_matches(case, f"{name}.logits", assemble(backbone, batch.classes, defense.adaptation(backbone, ()))(found[0]))
    if name == "pgd":
        loss.backward()
        slopes = {key: value.grad for key, value in defense.image.named_parameters()}
        assert_matches(case, "pgd.grad.visual.proj", slopes["proj"])
        assert_matches(case, "pgd.grad.visual.class_embedding", slopes["class_embedding"])
        assert_matches(case, "pgd.grad.visual.last_in_proj_bias", slopes["transformer.resblocks.2.attn.in_proj_bias"])


def test_the_same_loss_through_a_pixel_frame_and_token_prompts(world):
    """The visual prompts of the same repository, as a stack would bring them."""
    backbone, case, batch = world
    tensors = case[0]
    middle = torch.zeros(1, 3, 22, 22, dtype=batch.images.dtype)
    rows = torch.cat([tensors["frame.pad_left"], middle, tensors["frame.pad_right"]], 3)
    frame = torch.cat([tensors["frame.pad_up"], rows, tensors["frame.pad_down"]], 2)
    prompts = ImagePrompts(1, 3, backbone.spec.image_width, layers=3, before_ln_pre=True)
    prompts.tokens = nn.Parameter(tensors["prompt_tokens"], requires_grad=False)
    framed = lambda images: images + frame * backbone.std  # noqa: E731 - the frame has the unit of normalised pixels
    assert_matches(case, "prompted.normalised_input", (framed(batch.images) - backbone.mean) / backbone.std)

    defense, found = TeCoA(backbone, batch.classes), []
    own = defense.adaptation(backbone, batch.classes)
    whole = merge(own, Adaptation(pixels=(framed,), image_edits=(prompts,)))
    function = assemble(backbone, batch.classes, whole)
    assert_matches(case, "prompted.logits", function(batch.images))
    loss = defense.loss(backbone, batch, official_attack(case, "prompted.pgd", found), adaptation=whole)["adv_ce"]
    same_delta(case, "prompted.pgd", found[0], batch.images)
    assert_matches(case, "prompted.pgd.loss", loss)
    assert_matches(case, "prompted.pgd.logits", function(found[0]))


def test_the_released_margin_attack_climbs_our_margin(world):
    """-relu(z_y - max other + 50) rises with the margin as long as the hinge is active, which the stored logits say it is."""
    logits, labels = world[1][0]["cw10.logits"], world[1][0]["labels"]
    true = logits.gather(1, labels[:, None])[:, 0]
    other = logits.scatter(1, labels[:, None], -torch.inf).amax(1)
    assert F.relu(true - other + 50).min() > 0
