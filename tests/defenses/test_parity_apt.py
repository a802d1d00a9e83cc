"""APT against values of the released code (TreeLLi/APT): prompts, loss, context gradient and the three inner attacks."""

import copy
from functools import partial

import pytest
import torch
import torch.nn.functional as F
from parity import assert_attack_matches, assert_matches, load_case, notes_of
from reference import reference_backbone

from ironclip.attacks.pgd import PGD
from ironclip.backbones import assemble, splice
from ironclip.backbones.text import shared_columns
from ironclip.core.types import Batch, PromptTokens
from ironclip.defenses.apt import APT

DTYPES = {"float64": torch.float64, "float32": torch.float32}
STORED = notes_of("apt")["tensors"]
LAYOUTS = [name.removesuffix(".logits").split("_", 1) for name in STORED if name.endswith(".logits")]
STRATEGIES = [name.split(".")[0].removeprefix("train_") for name in STORED if name.endswith(".adversarial_images")]


@pytest.fixture(scope="module", params=DTYPES, ids=DTYPES)
def world(request):
    """(backbone, case, batch) in one precision."""
    dtype = DTYPES[request.param]
    case = load_case("apt", dtype)
    tensors, notes = case
    classes = tuple(notes["constants"]["classes"])
    batch = Batch(tensors["images"].to(dtype), tensors["labels"], torch.arange(len(tensors["labels"])), classes)
    return reference_backbone(dtype), case, batch


def learned(world, position: str = "end", kind: str = "unified", **options) -> APT:
    """An APT that holds the stored context."""
    backbone, (tensors, notes), batch = world
    length = notes["constants"]["context_tokens"]
    defense = APT(backbone, batch.classes, length=length, position=position, class_specific=kind != "unified", **options)
    defense.load_state_dict({"context": tensors[f"ctx_{kind}"]})
    return defense


def test_placeholder_prompts_have_the_stored_tokens(world):
    backbone, (tensors, _), batch = world
    context = learned(world).adaptation(backbone, batch.classes).context
    ids = splice(backbone, batch.classes, context).ids
    assert torch.equal(ids, tensors["tokens"][:, : ids.shape[1]])
    assert not tensors["tokens"][:, ids.shape[1] :].any()


@pytest.mark.parametrize(("position", "kind"), LAYOUTS)
def test_text_features_logits_loss_and_context_gradient(world, position, kind):
    backbone, case, batch = world
    defense = learned(world, position, kind)
    context = defense.adaptation(backbone, batch.classes).context
    name = f"{position}_{kind}"
    assert_matches(case, f"{name}.text_features", backbone.encode_text(splice(backbone, batch.classes, context)))

    logits = assemble(backbone, batch.classes, defense.adaptation(backbone, batch.classes))(batch.images)
    assert_matches(case, f"{name}.logits", logits)
    loss = F.cross_entropy(logits, batch.labels)
    assert_matches(case, f"{name}.loss", loss)
    assert_matches(case, f"{name}.gradient", torch.autograd.grad(loss, defense.context)[0])


def official_attack(world) -> PGD:
    _, (tensors, notes), _ = world
    sizes = notes["constants"]
    attack = PGD(eps=sizes["eps"], step_size=sizes["step_size"], steps=sizes["steps"], keep="last", box="forward")
    return partial(attack, noise=tensors["noise"])


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_inner_attack_reaches_the_stored_images(world, strategy):
    backbone, case, batch = world
    tensors, notes = case
    step = {"prompt_step": notes["constants"]["prompt_step"]} if strategy == "perturbed" else {}
    defense, attack, found = learned(world, strategy=strategy, **step), official_attack(world), []

    def record(function, images, labels, **options):
        if strategy == "constant":  # the released code keeps the underscore of a class name here; we write a space
            ids = tensors["tokens_constant"]
            ids = ids[:, : int(ids.argmax(1).max()) + 1]
            tokens = PromptTokens(backbone.text.net.token_embedding(ids), ids.argmax(1), shared_columns(ids), ids)
            released = F.normalize(backbone.encode_text(tokens), dim=-1)
            same = [row for row, name in enumerate(batch.classes) if "_" not in name]
            torch.testing.assert_close(function.text_features[same], released[same], atol=1e-5, rtol=0)
            function = copy.copy(function)
            function.text_features = released
        found.append(attack(function, images, labels, **options))
        return found[0]

    loss = defense.loss(backbone, batch, record)["adv_ce"]
    assert_attack_matches(case, f"train_{strategy}.adversarial_images", found[0])
    assert_matches(case, f"train_{strategy}.loss", loss)
    assert_matches(case, f"train_{strategy}.gradient", torch.autograd.grad(loss, defense.context)[0])


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_loss_and_gradient_at_the_stored_images(world, strategy):
    backbone, case, batch = world
    stored = case[0][f"train_{strategy}.adversarial_images"].to(batch.images.dtype)
    defense = learned(world, strategy=strategy)
    loss = defense.loss(backbone, batch, lambda *args, **options: stored)["adv_ce"]
    assert_matches(case, f"train_{strategy}.loss", loss)
    assert_matches(case, f"train_{strategy}.gradient", torch.autograd.grad(loss, defense.context)[0])
