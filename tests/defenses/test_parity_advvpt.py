"""AdvVPT against the released code (xinwong/Multimodal-Adversarial-Prompt-Tuning): forward, half-batch step, PGD-10."""

from functools import partial

import pytest
import torch
import torch.nn.functional as F
from parity import assert_attack_matches, assert_matches, load_case, notes_of, template
from reference import reference_backbone

from ironclip.attacks.pgd import PGD
from ironclip.backbones import assemble
from ironclip.core.types import Batch
from ironclip.defenses.adv_vpt import AdvVPT

DTYPES = {"float64": torch.float64, "float32": torch.float32}
ATTACKS = [name.removesuffix("_logits") for name in notes_of("advvpt")["tensors"] if name.endswith("_logits")]


@pytest.fixture(scope="module", params=DTYPES, ids=DTYPES)
def world(request):
    """(backbone, case, batch, defence with the stored prompts) in one precision."""
    dtype = DTYPES[request.param]
    case = tensors, notes = load_case("advvpt", dtype)
    sizes = notes["constants"]
    backbone = reference_backbone(dtype)
    batch = Batch(tensors["images"].to(dtype), tensors["labels"], torch.arange(len(tensors["labels"])), tuple(sizes["classes"]))
    words = template(tensors["tokens"], batch.classes)
    defense = AdvVPT(backbone, batch.classes, length=sizes["vision_tokens"], depth=sizes["depth"], mix="half", init=words)
    prompts = torch.stack([tensors[f"p.vision_prompt_{layer}"] for layer in range(sizes["depth"])])
    defense.load_state_dict({"prompts.image_prompts.tokens": prompts})
    return backbone, case, batch, defense


def pgd(world, which: str, rows: slice) -> partial:
    tensors, notes = world[1]
    return partial(PGD(**{k: v for k, v in notes["constants"][which].items() if k in ("eps", "step_size", "steps")}, keep="last"),
                   noise=tensors["noise"][rows])  # fmt: skip


def test_features_and_logits(world):
    backbone, case, batch, defense = world
    features, logits = assemble(backbone, batch.classes, defense.adaptation(backbone, batch.classes)).features_and_logits(
        batch.images
    )
    assert_matches(case, "image_features", F.normalize(features, dim=-1))
    assert_matches(case, "logits", logits)


def test_the_training_step_attacks_the_second_half(world):
    backbone, case, batch, defense = world
    seen, half = [], len(batch) // 2

    def attack(function, images, labels, **given):
        seen.append(pgd(world, "train", slice(half, None))(function, images, labels, **given))
        assert torch.equal(given["indices"], batch.indices[half:])
        return seen[0]

    terms = defense.loss(backbone, batch, attack)
    assert terms.keys() == {"half_ce"}
    assert_attack_matches(case, "training_images", torch.cat([batch.images[:half], seen[0]]))
    assert_matches(case, "loss", terms["half_ce"])
    (gradient,) = torch.autograd.grad(terms["half_ce"], list(defense.parameters()))
    for layer in range(case[1]["constants"]["depth"]):
        assert_matches(case, f"grad.vision_prompt_{layer}", gradient[layer])


@pytest.mark.parametrize("name", ATTACKS)
def test_pgd_through_the_prompts(world, name):
    backbone, case, batch, defense = world
    classifier = assemble(backbone, batch.classes, defense.adaptation(backbone, batch.classes)).detached()
    adv = pgd(world, name, slice(None))(classifier, batch.images, batch.labels)
    assert_attack_matches(case, f"{name}_images", adv)
    assert_matches(case, f"{name}_logits", classifier(adv))
