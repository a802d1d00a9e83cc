"""AdvVLP against the released code (lionel-w2/FAP), in both of its losses; NAP without refiners is the same model."""

from functools import partial

import pytest
import torch
import torch.nn.functional as F
from parity import assert_matches, load_case
from reference import reference_backbone

from ironclip.attacks.pgd import PGD
from ironclip.backbones import assemble, splice
from ironclip.defenses._families import Objective
from ironclip.defenses.advvlp import AdvVLP
from ironclip.defenses.nap import NAP
from ironclip.types import Batch

DTYPES = {"float64": torch.float64, "float32": torch.float32}
PARAMETERS = ("ctx", "vision_prompt_0", "vision_prompt_1", "text_prompt_1")


@pytest.fixture(scope="module", params=DTYPES, ids=DTYPES)
def world(request):
    """(backbone, case, batch, defence with the stored prompts) in one precision."""
    dtype = DTYPES[request.param]
    case = tensors, notes = load_case("advvlp", dtype)
    sizes = notes["constants"]
    assert sizes["vision_tokens"] == sizes["text_tokens"]
    assert sizes["vision_depth"] == sizes["text_depth"]
    batch = Batch(tensors["images"].to(dtype), tensors["labels"], torch.arange(4), tuple(sizes["classes"]))
    backbone = reference_backbone(dtype)
    defense = AdvVLP(
        backbone, batch.classes, length=sizes["vision_tokens"], depth=sizes["vision_depth"], weight=sizes["weight"],
        init=sizes["init_text"],
    )  # fmt: skip
    defense.load_state_dict(
        {
            "prompts.context": tensors["p.ctx"],
            "prompts.image_prompts.tokens": torch.stack([tensors["p.vision_prompt_0"], tensors["p.vision_prompt_1"]]),
            "prompts.text_prompts.tokens": tensors["p.text_prompt_1"][None],
        }
    )
    return backbone, case, batch, defense


def gradient(defense: AdvVLP, loss: torch.Tensor, name: str) -> torch.Tensor:
    found = dict(zip(dict(defense.named_parameters()), torch.autograd.grad(loss, list(defense.parameters()), retain_graph=True)))
    if name == "ctx":
        return found["prompts.context"]
    if name.startswith("vision"):
        return found["prompts.image_prompts.tokens"][int(name[-1])]
    return found["prompts.text_prompts.tokens"][0]


def through(world):
    backbone, _, batch, defense = world
    return assemble(backbone, batch.classes, defense.adaptation(backbone, batch.classes))


def official_attack(world) -> partial:
    tensors, notes = world[1]
    sizes = notes["constants"]
    return partial(PGD(eps=sizes["eps"], step_size=sizes["step_size"], steps=sizes["steps"], keep="last"), noise=tensors["noise"])


def at(case, kind: str):
    """An attack that hands out the stored perturbation."""
    return lambda function, images, *args, **given: images + case[0][f"{kind}.delta"].to(images.dtype)


def consistent(world) -> AdvVLP:
    """The same prompts, trained as FAP is."""
    backbone, (_, notes), batch, defense = world
    other = AdvVLP(backbone, batch.classes, depth=2, term="cos", weight=notes["constants"]["weight"])
    other.load_state_dict(defense.state_dict())
    return other


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
    total = defense.loss(backbone, batch, official_attack(world))["adv_ce"]
    assert_matches(case, "ce.loss_adversarial", total / case[1]["constants"]["weight"])
    assert_matches(case, "ce.loss", total)
    for name in PARAMETERS:
        assert_matches(case, f"ce.grad.{name}", gradient(defense, total, name))


@pytest.mark.parametrize("term", ["mae", "mse"])
def test_two_further_terms(world, term):
    """KL / K of each image over the mean absolute (squared) difference of its features."""
    _, case, batch, _ = world
    terms = Objective(term)(through(world), batch, at(case, "ce"))
    assert_matches(case, f"{term}_term_on_ce_delta", terms["consistency_kl"], spread=4)


def test_inner_attack_on_consistency_reaches_the_stored_perturbation(world):
    backbone, case, batch, _ = world
    found = []

    def attack(*args, **given):
        found.append(official_attack(world)(*args, **given))
        return found[0]

    consistent(world).loss(backbone, batch, attack)
    delta = found[0] - batch.images
    if batch.images.dtype == torch.float64:
        assert_matches(case, "cos.delta", delta)
    else:  # slopes that are zero up to rounding may go either way
        assert ((delta - case[0]["cos.delta"]).abs() > 1e-6).float().mean() < 0.001


def test_consistency_objective_and_its_gradients(world):
    backbone, case, batch, _ = world
    defense = consistent(world)
    terms = defense.loss(backbone, batch, at(case, "cos"))
    assert_matches(case, "cos.loss_natural", terms["clean_ce"])
    assert_matches(case, "cos.loss_adversarial", terms["consistency_kl"] / case[1]["constants"]["weight"])
    total = sum(terms.values())
    assert_matches(case, "cos.loss", total)
    for name in PARAMETERS:
        assert_matches(case, f"cos.grad.{name}", gradient(defense, total, name))


def test_nap_without_refiners_is_the_same_model(world):
    backbone, _, batch, defense = world
    nap = NAP(backbone, batch.classes, length=2, depth=2, refiner_layers=0, first_prompt="before_ln_pre")
    nap.load_state_dict({name.removeprefix("prompts."): tensor for name, tensor in defense.state_dict().items()})
    logits = assemble(backbone, batch.classes, nap.adaptation(backbone, batch.classes))(batch.images)
    assert torch.equal(logits, through(world)(batch.images))
