"""AdvVLP against the released code (lionel-w2/FAP), in both of its losses; NAP without refiners is the same model."""

from functools import partial

import pytest
import torch
import torch.nn.functional as F
from parity import assert_attack_matches, assert_matches, load_case, notes_of
from reference import reference_backbone

from ironclip.attacks.pgd import PGD
from ironclip.backbones import assemble, splice
from ironclip.core.tensors import value_and_slope
from ironclip.core.types import Batch
from ironclip.defenses._families import Objective
from ironclip.defenses.advvlp import AdvVLP
from ironclip.defenses.nap import NAP

DTYPES = {"float64": torch.float64, "float32": torch.float32}
STORED = notes_of("advvlp")["tensors"]
PARAMETERS = [name.removeprefix("p.") for name in STORED if name.startswith("p.")]
TERMS = [name.split("_")[0] for name in STORED if name.endswith("_term_on_ce_delta")]
TOWERS = (("image", "vision"), ("text", "text"))


def shape(notes) -> dict[str, int]:
    """Our options for the sizes of the case."""
    sizes = notes["constants"]
    return {
        "length": sizes["vision_tokens"], "depth": sizes["vision_depth"], "text_length": sizes["text_tokens"],
        "text_depth": sizes["text_depth"],
    }  # fmt: skip


@pytest.fixture(scope="module", params=DTYPES, ids=DTYPES)
def world(request):
    """(backbone, case, batch, defence with the stored prompts) in one precision."""
    dtype = DTYPES[request.param]
    case = tensors, notes = load_case("advvlp", dtype)
    sizes = notes["constants"]
    batch = Batch(tensors["images"].to(dtype), tensors["labels"], torch.arange(len(tensors["labels"])), tuple(sizes["classes"]))
    backbone = reference_backbone(dtype)
    defense = AdvVLP(backbone, batch.classes, weight=sizes["weight"], init=sizes["init_text"], **shape(notes))
    layers = {"vision": range(sizes["vision_depth"]), "text": range(1, sizes["text_depth"])}
    found = {tower: [tensors[f"p.{tower}_prompt_{layer}"] for layer in layers[tower]] for tower in layers}
    state = {f"prompts.{name}_prompts.tokens": torch.stack(found[tower]) for name, tower in TOWERS if found[tower]}
    kept = {name: value for name, value in defense.state_dict().items() if not value.numel()}
    defense.load_state_dict({"prompts.context": tensors["p.ctx"], **kept, **state})
    return backbone, case, batch, defense


def gradient(defense: AdvVLP, loss: torch.Tensor, name: str) -> torch.Tensor:
    found = dict(zip(dict(defense.named_parameters()), torch.autograd.grad(loss, list(defense.parameters()), retain_graph=True)))
    if name == "ctx":
        return found["prompts.context"]
    tower, layer = name.split("_prompt_")
    if tower == "vision":
        return found["prompts.image_prompts.tokens"][int(layer)]
    return found["prompts.text_prompts.tokens"][int(layer) - 1]


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
    sizes = notes["constants"]
    other = AdvVLP(backbone, batch.classes, term="cos", weight=sizes["weight"], init=sizes["init_text"], **shape(notes))
    other.load_state_dict(defense.state_dict())
    return other


def test_context_prompts_have_the_stored_tokens(world):
    backbone, (tensors, notes), batch, defense = world
    tokens = splice(backbone, batch.classes, defense.adaptation(backbone, batch.classes).context)
    kept = [0, *range(1 + notes["constants"]["text_tokens"], tokens.ids.shape[1])]
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
    assert_attack_matches(case, "ce.delta", adv, batch.images)


def test_training_loss_and_its_gradients(world):
    backbone, case, batch, defense = world
    total = defense.loss(backbone, batch, official_attack(world))["adv_ce"]
    assert_matches(case, "ce.loss_adversarial", total / case[1]["constants"]["weight"])
    assert_matches(case, "ce.loss", total)
    assert not case[0]["ce.loss_natural"]  # there is no clean term
    for name in PARAMETERS:
        assert_matches(case, f"ce.grad.{name}", gradient(defense, total, name))


@pytest.mark.parametrize("term", TERMS)
def test_two_further_terms(world, term):
    """KL / K of each image over the mean absolute (squared) difference of its features."""
    _, case, batch, _ = world
    terms = Objective(term)(through(world), batch, at(case, "ce"))
    assert_matches(case, f"{term}_term_on_ce_delta", terms["consistency_kl"], spread=4)


def test_inner_attack_on_consistency_reaches_the_stored_perturbation(world):
    backbone, case, batch, _ = world
    tensors, notes = case
    start = (batch.images + notes["constants"]["eps"] * tensors["noise"]).clamp(0, 1)
    found = []

    def attack(function, images, labels, *, loss, **given):
        _, values, slope = value_and_slope(function, lambda logits: loss(logits, labels), start)
        found.append((values, slope, official_attack(world)(function, images, labels, loss=loss, **given)))
        return found[0][2]

    consistent(world).loss(backbone, batch, attack)
    values, slope, adv = found[0]
    assert_matches(case, "cos.inner_objective_at_start", values.mean())
    assert_matches(case, "cos.inner_pixel_gradient_at_start", slope / len(batch))
    assert_attack_matches(case, "cos.delta", adv, batch.images)


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
    backbone, (_, notes), batch, defense = world
    sizes = shape(notes)
    if (sizes["length"], sizes["depth"]) != (sizes["text_length"], sizes["text_depth"]):
        pytest.skip("NAP has one length and one depth for both towers; this case has two")
    length, depth, init = sizes["length"], sizes["depth"], notes["constants"]["init_text"]
    nap = NAP(backbone, batch.classes, length=length, depth=depth, init=init, refiner_layers=0, first_prompt="before_ln_pre")
    nap.load_state_dict({name.removeprefix("prompts."): tensor for name, tensor in defense.state_dict().items()})
    logits = assemble(backbone, batch.classes, nap.adaptation(backbone, batch.classes))(batch.images)
    assert torch.equal(logits, through(world)(batch.images))
