"""FAP and AdvMaPLe against the released code (lionel-w2/FAP): prompts, features, losses, inner attack, all gradients."""

from functools import partial

import pytest
import torch
import torch.nn.functional as F
from parity import assert_attack_matches, assert_matches, comparable, load_case, notes_of
from reference import reference_backbone

from ironclip.attacks.pgd import PGD
from ironclip.backbones import assemble, splice
from ironclip.core.losses import kl_each
from ironclip.core.types import Batch
from ironclip.defenses.advmaple import AdvMaPLe
from ironclip.defenses.fap import FAP

DTYPES = {"float64": torch.float64, "float32": torch.float32}
NAMES = ("fap", "advmaple")


def learned(name: str) -> dict[str, str]:
    """The stored name of each learned tensor -> ours."""
    ours = {"ctx": "prompts.learned.0"}
    for layer in range(notes_of(name)["constants"].get("depth", 0)):
        ours |= {f"map{layer}_{part}": f"prompts.maps.{layer}.{part}" for part in ("weight", "bias")}
        ours |= {f"vision_prompt_{layer}": f"prompts.learned.{layer}"} if layer else {}
    return ours


@pytest.fixture(scope="module", params=[(name, dtype) for name in NAMES for dtype in DTYPES], ids="-".join)
def world(request):
    """(name, backbone, case, batch, defence with the stored tensors)."""
    name, dtype = request.param[0], DTYPES[request.param[1]]
    case = tensors, notes = load_case(name, dtype)
    sizes = notes["constants"]
    backbone = reference_backbone(dtype)
    batch = Batch(tensors["images"].to(dtype), tensors["labels"], torch.arange(len(tensors["labels"])), tuple(sizes["classes"]))
    options = {"length": sizes["prompt_tokens"], "depth": sizes["depth"], "weight": sizes["weight"], "term": sizes["term"]}
    kind = {"fap": FAP, "advmaple": AdvMaPLe}[name]
    defense = kind(
        backbone, batch.classes, init=sizes["init_text"], literal_template=True, direction="fap_code", **options
    )  # fmt: skip
    assert torch.equal(defense.prompts.learned[0], tensors["init_ctx"])
    defense.load_state_dict({mine: tensors[f"p.{theirs}"] for theirs, mine in learned(name).items()})
    return name, backbone, case, batch, defense


def through(world):
    _, backbone, _, batch, defense = world
    return assemble(backbone, batch.classes, defense.adaptation(backbone, batch.classes))


def official_attack(world) -> partial:
    tensors, notes = world[2]
    sizes = notes["constants"]
    return partial(PGD(eps=sizes["eps"], step_size=sizes["step_size"], steps=sizes["steps"], keep="last"), noise=tensors["noise"])


def test_prompts_have_the_stored_tokens(world):
    _, backbone, (tensors, notes), batch, defense = world
    tokens = splice(backbone, batch.classes, defense.adaptation(backbone, batch.classes).context)
    kept = [0, *range(1 + notes["constants"]["prompt_tokens"], tokens.ids.shape[1])]
    assert torch.equal(tokens.ids[:, kept], tensors["tokens"][:, kept])
    assert torch.equal(tokens.eot, tensors["tokens"].argmax(1))


def test_mapped_prompts(world):
    _, _, case, _, defense = world
    text, image = defense.prompts()
    assert_matches(case, "vision_prompt_0", image[0])
    if case[1]["constants"]["depth"] > 1:
        assert_matches(case, "text_prompts_deep", text[1:])


def test_features_and_logits(world):
    _, _, case, batch, _ = world
    classifier = through(world)
    features, logits = classifier.features_and_logits(batch.images)
    assert_matches(case, "text_features", classifier.text_features)
    assert_matches(case, "image_features", F.normalize(features, dim=-1))
    assert_matches(case, "logits", logits)


def test_features_and_logits_at_the_stored_perturbation(world):
    name, _, case, batch, _ = world
    classifier = through(world)
    clean_features, clean = classifier.features_and_logits(batch.images)
    features, logits = classifier.features_and_logits(batch.images + case[0]["delta"].to(batch.images.dtype))
    assert_matches(case, "image_features_adversarial", F.normalize(features, dim=-1))
    assert_matches(case, "logits_adversarial", logits)
    if name == "fap":
        assert_matches(case, "kl_per_sample", kl_each(logits, clean))
        assert_matches(case, "weight_per_sample", 1 + F.cosine_similarity(features, clean_features))


def test_inner_attack(world):
    name, _, case, batch, _ = world
    tensors, notes = case
    classifier = through(world).detached()
    start = (batch.images + notes["constants"]["eps"] * tensors["noise"]).clamp(0, 1).requires_grad_()
    with torch.no_grad():
        clean = classifier(batch.images)
    rising = (lambda logits, labels: kl_each(logits, clean)) if name == "fap" else partial(F.cross_entropy, reduction="none")
    objective = rising(classifier(start), batch.labels).mean()
    if comparable(case, "inner_objective_at_start", start.dtype):
        assert_matches(case, "inner_objective_at_start", objective)
    assert_matches(case, "inner_pixel_gradient_at_start", torch.autograd.grad(objective, start)[0])


def test_the_defence_attacks_to_the_stored_perturbation(world):
    _, backbone, case, batch, defense = world
    found = []

    def attack(*args, **given):
        found.append(official_attack(world)(*args, **given))
        return found[0]

    defense.loss(backbone, batch, attack)
    assert_attack_matches(case, "delta", found[0], batch.images)


def test_training_loss_and_its_gradients_at_the_stored_perturbation(world):
    name, backbone, case, batch, defense = world
    terms = defense.loss(backbone, batch, lambda function, images, *args, **given: images + case[0]["delta"].to(images.dtype))
    loss, weight = sum(terms.values()), case[1]["constants"]["weight"]
    assert_matches(case, "loss", loss)
    assert_matches(case, "loss_adversarial", terms["consistency_kl" if name == "fap" else "adv_ce"] / weight)
    if name == "fap":
        assert_matches(case, "loss_natural", terms["clean_ce"])
    gradients = dict(zip(dict(defense.named_parameters()), torch.autograd.grad(loss, list(defense.parameters())), strict=True))
    assert gradients.keys() == set(learned(name).values())
    for theirs, mine in learned(name).items():
        assert_matches(case, f"grad.{theirs}", gradients[mine])


def test_every_stored_result_is_compared():
    """What is stored beyond the names above is an input; a new result must not go unnoticed."""
    named = {
        "delta", "loss", "loss_natural", "loss_adversarial", "inner_objective_at_start", "inner_pixel_gradient_at_start",
        "logits_adversarial", "image_features_adversarial", "logits", "image_features", "text_features", "vision_prompt_0",
        "text_prompts_deep", "kl_per_sample", "weight_per_sample",
    }  # fmt: skip
    for name in NAMES:
        stored = {key for key, note in notes_of(name)["tensors"].items() if note["role"] == "expected"}
        assert stored <= named | {f"grad.{theirs}" for theirs in learned(name)}
