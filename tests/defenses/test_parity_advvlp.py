"""NAP without refiners, first prompts before `ln_pre`, is AdvVLP: values of the released code (lionel-w2/FAP)."""

from functools import partial

import pytest
import torch
import torch.nn.functional as F
from parity import assert_matches, load_case
from reference import reference_backbone

from ironclip.attacks.pgd import PGD
from ironclip.backbones import assemble, splice
from ironclip.defenses.nap import NAP
from ironclip.losses import kl_each
from ironclip.types import Batch

DTYPES = {"float64": torch.float64, "float32": torch.float32}
PARAMETERS = {
    "ctx": "context",
    "vision_prompt_0": "image_prompts",
    "vision_prompt_1": "image_prompts",
    "text_prompt_1": "text_prompts",
}


@pytest.fixture(scope="module", params=DTYPES, ids=DTYPES)
def world(request, shared):
    """(backbone, case, batch, defence with the stored prompts) in one precision."""
    dtype = DTYPES[request.param]
    case = tensors, notes = load_case(shared / "parity" / "advvlp", dtype)
    sizes = notes["constants"]
    assert sizes["vision_tokens"] == sizes["text_tokens"]
    assert sizes["vision_depth"] == sizes["text_depth"]
    batch = Batch(tensors["images"].to(dtype), tensors["labels"], torch.arange(4), tuple(sizes["classes"]))
    backbone = reference_backbone(shared / "parity", dtype)
    defense = NAP(
        backbone, batch.classes, length=sizes["vision_tokens"], depth=sizes["vision_depth"], refiner_layers=0,
        first_prompt="before_ln_pre", init=sizes["init_text"],
    )  # fmt: skip
    defense.load_state_dict(
        {
            "context": tensors["p.ctx"],
            "image_prompts.tokens": torch.stack([tensors["p.vision_prompt_0"], tensors["p.vision_prompt_1"]]),
            "text_prompts.tokens": tensors["p.text_prompt_1"][None],
        }
    )
    return backbone, case, batch, defense


def gradient(defense: NAP, loss: torch.Tensor, name: str) -> torch.Tensor:
    found = dict(zip(dict(defense.named_parameters()), torch.autograd.grad(loss, list(defense.parameters()), retain_graph=True)))
    if name == "ctx":
        return found["context"]
    if name.startswith("vision"):
        return found["image_prompts.tokens"][int(name[-1])]
    return found["text_prompts.tokens"][0]


def through(world):
    backbone, _, batch, defense = world
    return assemble(backbone, batch.classes, defense.adaptation(backbone, batch.classes))


def official_attack(world) -> partial:
    tensors, notes = world[1]
    sizes = notes["constants"]
    return partial(PGD(eps=sizes["eps"], step_size=sizes["step_size"], steps=sizes["steps"], keep="last"), noise=tensors["noise"])


def test_context_prompts_have_the_stored_tokens(world):
    backbone, (tensors, _), batch, defense = world
    tokens = splice(backbone, batch.classes, defense.adaptation(backbone, batch.classes).context)
    kept = [0, *range(3, tokens.ids.shape[1])]
    assert torch.equal(tokens.ids[:, kept], tensors["tokens"][:, kept])
    assert torch.equal(tokens.eot, tensors["tokens"].argmax(1))


def test_features_and_logits(world):
    _, case, batch, _ = world
    classifier = through(world)
    assert_matches(case, "text_features", classifier.text_features)
    assert_matches(case, "image_features", F.normalize(classifier.encode_image(batch.images), dim=-1))
    assert_matches(case, "logits", classifier(batch.images))


@pytest.mark.parametrize("kind", ["ce", "cos"])
def test_features_and_logits_at_the_stored_perturbation(world, kind):
    _, case, batch, _ = world
    adv = batch.images + case[0][f"{kind}.delta"].to(batch.images.dtype)
    classifier = through(world)
    assert_matches(case, f"{kind}.logits_adversarial", classifier(adv))
    assert_matches(case, f"{kind}.image_features_adversarial", F.normalize(classifier.encode_image(adv), dim=-1))


def test_inner_attack_on_cross_entropy_reaches_the_stored_perturbation(world):
    _, case, batch, _ = world
    tensors, notes = case
    classifier = through(world).detached()
    start = (batch.images + notes["constants"]["eps"] * tensors["noise"]).clamp(0, 1).requires_grad_()
    objective = F.cross_entropy(classifier(start), batch.labels)
    assert_matches(case, "ce.inner_objective_at_start", objective)
    assert_matches(case, "ce.inner_pixel_gradient_at_start", torch.autograd.grad(objective, start)[0])
    adv = official_attack(world)(classifier, batch.images, batch.labels)
    if batch.images.dtype == torch.float64:
        assert_matches(case, "ce.delta", adv - batch.images)
    else:  # delta is a difference of pixels, so it has their float32 rounding
        torch.testing.assert_close((adv - batch.images).double(), tensors["ce.delta"].double(), atol=1e-6, rtol=0)


def test_training_loss_and_its_gradients(world):
    backbone, case, batch, defense = world
    loss = defense.loss(backbone, batch, official_attack(world))["adv_ce"]
    assert_matches(case, "ce.loss_adversarial", loss)
    total = case[1]["constants"]["weight"] * loss
    assert_matches(case, "ce.loss", total)
    for name in PARAMETERS:
        assert_matches(case, f"ce.grad.{name}", gradient(defense, total, name))


def test_two_further_terms_through_the_same_prompts(world):
    """KL / K of each image over its mean absolute (squared) feature difference; not losses of NAP's either."""
    _, case, batch, _ = world
    classifier = through(world)
    adv = batch.images + case[0]["ce.delta"].to(batch.images.dtype)
    gap = F.normalize(classifier.encode_image(adv), dim=-1) - F.normalize(classifier.encode_image(batch.images), dim=-1)
    divergence = kl_each(classifier(adv), classifier(batch.images)) / len(batch.classes)
    assert_matches(case, "mae_term_on_ce_delta", (divergence / gap.abs().mean(1)).mean())
    assert_matches(case, "mse_term_on_ce_delta", (divergence / gap.square().mean(1)).mean())


def test_consistency_objective_and_its_gradients_through_the_same_prompts(world):
    """CE(clean) + weight * mean(KL (1 + cos)): not a loss of NAP's, but it runs through both views of NAP's model."""
    _, case, batch, defense = world
    classifier = through(world)
    adv = batch.images + case[0]["cos.delta"].to(batch.images.dtype)
    clean_features, adv_features = (F.normalize(classifier.encode_image(x), dim=-1) for x in (batch.images, adv))
    clean, moved = classifier(batch.images), classifier(adv)
    natural = F.cross_entropy(clean, batch.labels)
    weights = 1 + F.cosine_similarity(clean_features, adv_features)
    term = (kl_each(moved, clean) * weights).mean()
    assert_matches(case, "cos.loss_natural", natural)
    assert_matches(case, "cos.loss_adversarial", term)
    total = natural + case[1]["constants"]["weight"] * term
    assert_matches(case, "cos.loss", total)
    for name in PARAMETERS:
        assert_matches(case, f"cos.grad.{name}", gradient(defense, total, name))
