"""TeCoA against values of the released code: loss, weight gradients, PGD and CW attacks, and the frame + token prompt."""

import pytest
import torch
import torch.nn.functional as F
from parity import assert_attack_matches, assert_matches, load_case, notes_of
from reference import reference_backbone
from torch import nn

from ironclip.attacks.pgd import PGD
from ironclip.backbones import assemble
from ironclip.core.merging import merge
from ironclip.core.types import Adaptation, Batch
from ironclip.defenses._blocks import ImagePrompts
from ironclip.defenses.tecoa import TeCoA

DTYPES = {"float64": torch.float64, "float32": torch.float32}
ATTACKS = sorted(name for name, sizes in notes_of("tecoa")["constants"].items() if isinstance(sizes, dict) and "steps" in sizes)


@pytest.fixture(scope="module", params=DTYPES, ids=DTYPES)
def world(request):
    """(backbone, case, batch) in one precision."""
    dtype = DTYPES[request.param]
    case = load_case("tecoa", dtype)
    tensors, notes = case
    classes = tuple(notes["constants"]["classes"])
    batch = Batch(tensors["images"], tensors["labels"], torch.arange(len(tensors["labels"])), classes)
    return reference_backbone(dtype), case, batch


def made(world, **options) -> TeCoA:
    """The method with the template of the case."""
    backbone, (_, notes), batch = world
    return TeCoA(backbone, batch.classes, templates=(notes["constants"]["template"],), **options)


def official_attack(case, name: str, found: list):
    """The released attack's constants and its stored start; images are written down."""
    sizes = case[1]["constants"]["pgd" if name == "prompted.pgd" else name]
    loss = "margin" if name.startswith("cw") else "ce"
    attack = PGD(eps=sizes["eps"], step_size=sizes["step_size"], steps=sizes["steps"], keep="last", loss=loss)

    def run(function, images, labels, **options):
        found.append(attack(function, images, labels, noise=case[0]["noise"], **options))
        return found[-1]

    return run


def test_the_prompts_have_the_stored_tokens(world):
    backbone, (tensors, _), batch = world
    (template,) = made(world).adaptation(backbone, batch.classes).templates
    ids = backbone.tokenize([template.replace("{}", name.replace("_", " ")) for name in batch.classes])
    assert torch.equal(ids, tensors["tokens"])


def test_clean_logits_loss_and_pixel_gradient(world):
    backbone, case, batch = world
    defense, images = made(world, adv_weight=0.0), batch.images.clone().requires_grad_()
    assert_matches(case, "logits", assemble(backbone, batch.classes, defense.adaptation(backbone, batch.classes))(images))
    loss = defense.loss(backbone, Batch(images, batch.labels, batch.indices, batch.classes), None)["clean_ce"]
    assert_matches(case, "loss_clean", loss)
    assert_matches(case, "pixel_gradient", torch.autograd.grad(loss, images)[0])


@pytest.mark.parametrize("name", ATTACKS)
def test_the_loss_at_the_images_of_the_released_attack(world, name):
    backbone, case, batch = world
    defense, found = made(world), []
    loss = defense.loss(backbone, batch, official_attack(case, name, found))["adv_ce"]
    assert_attack_matches(case, f"{name}.delta", found[0], batch.images)
    assert_matches(case, f"{name}.loss", loss)
    assert_matches(case, f"{name}.logits", assemble(backbone, batch.classes, defense.adaptation(backbone, ()))(found[0]))
    if name == "pgd":
        loss.backward()
        slopes = {key: value.grad for key, value in defense.image.named_parameters()}
        assert_matches(case, "pgd.grad.visual.proj", slopes["proj"])
        assert_matches(case, "pgd.grad.visual.class_embedding", slopes["class_embedding"])
        assert_matches(
            case,
            "pgd.grad.visual.last_in_proj_bias",
            slopes[f"transformer.resblocks.{backbone.spec.image_layers - 1}.attn.in_proj_bias"],
        )


def test_the_same_loss_through_a_pixel_frame_and_token_prompts(world):
    """The visual prompts of the same repository, as a stack would bring them."""
    backbone, case, batch = world
    tensors = case[0]
    side = backbone.spec.resolution - 2 * case[1]["constants"]["pad"]
    middle = torch.zeros(1, 3, side, side, dtype=batch.images.dtype)
    rows = torch.cat([tensors["frame.pad_left"], middle, tensors["frame.pad_right"]], 3)
    frame = torch.cat([tensors["frame.pad_up"], rows, tensors["frame.pad_down"]], 2)
    count = case[1]["constants"]["prompt_tokens"]
    prompts = ImagePrompts(1, count, backbone.spec.image_width, layers=backbone.spec.image_layers, before_ln_pre=True)
    prompts.tokens = nn.Parameter(tensors["prompt_tokens"], requires_grad=False)
    framed = lambda images: images + frame * backbone.std  # noqa: E731 - the frame has the unit of normalised pixels
    assert_matches(case, "prompted.normalised_input", (framed(batch.images) - backbone.mean) / backbone.std)

    defense, found = made(world), []
    own = defense.adaptation(backbone, batch.classes)
    whole = merge(own, Adaptation(pixels=(framed,), image_edits=(prompts,)))
    function = assemble(backbone, batch.classes, whole)
    assert_matches(case, "prompted.logits", function(batch.images))
    loss = defense.loss(backbone, batch, official_attack(case, "prompted.pgd", found), adaptation=whole)["adv_ce"]
    assert_attack_matches(case, "prompted.pgd.delta", found[0], batch.images)
    assert_matches(case, "prompted.pgd.loss", loss)
    assert_matches(case, "prompted.pgd.logits", function(found[0]))


def test_the_released_margin_attack_climbs_our_margin(world):
    """-relu(z_y - max other + 50) rises with the margin as long as the hinge is active, which the stored logits say it is."""
    logits = torch.cat([value for name, value in world[1][0].items() if name.startswith("cw") and name.endswith(".logits")])
    labels = world[1][0]["labels"].repeat(len(logits) // len(world[1][0]["labels"]))
    true = logits.gather(1, labels[:, None])[:, 0]
    other = logits.scatter(1, labels[:, None], -torch.inf).amax(1)
    assert F.relu(true - other + 50).min() > 0
