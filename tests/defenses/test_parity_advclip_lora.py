"""AdvCLIP-LoRA against values of its released code: losses, perturbations, gradients and weights of two training steps."""

import math
from dataclasses import replace

import pytest
import torch
from parity import assert_matches, load_case, notes_of, template
from reference import reference_backbone

from ironclip.core.types import Batch
from ironclip.defenses import advclip_lora, build

DTYPES = {"float64": torch.float64, "float32": torch.float32}
TOWERS = {"image": "visual.transformer", "text": "transformer"}


class Radius:
    """An inner attack of which the method asks the radius alone."""

    def __init__(self, eps):
        self.eps = eps

    def __call__(self, *args, **given):
        raise AssertionError("the universal perturbation is no attack on single images")


def loaded(case, tower, layers):
    """The stored low-rank matrices of one tower under our names."""
    found = {}
    for layer in range(layers):
        for side, kind in (("A", "down"), ("B", "up")):
            names = [f"lora.{TOWERS[tower]}.resblocks.{layer}.attn.{part}_proj.w_lora_{side}" for part in "qkv"]
            stack = torch.stack([case[0][name] for name in names])
            found[f"{tower}.transformer.resblocks.{layer}.attn.in_proj_weight.{kind}"] = stack
    return found


def pair(defense, name):
    """(learned tensor, index of q, k or v in it) of a stored name."""
    tower = "image" if name.startswith("visual.") else "text"
    block, part, side = name.split("resblocks.")[1].replace("_proj.w_lora_", ".").replace("attn.", "").split(".")
    kind = {"A": "down", "B": "up"}[side]
    parameters = dict(defense.named_parameters())
    return parameters[f"{tower}.transformer.resblocks.{block}.attn.in_proj_weight.{kind}"], "qkv".index(part)


@pytest.mark.parametrize("dtype", DTYPES.values(), ids=DTYPES)
def test_two_steps_of_training(dtype, monkeypatch):
    case = tensors, notes = load_case("advclip_lora", dtype)
    constants, layers = notes["constants"], notes_of("clip")["constants"]
    backbone = reference_backbone(dtype)
    backbone._spec = replace(backbone.spec, logit_scale=float(constants["logit_scale"]))
    classes = tuple(constants["classes"])
    defense = build(
        "advclip_lora", backbone, classes,
        given={
            "rank": constants["rank"], "alpha": constants["alpha"], "ascents": constants["ascent_steps_per_batch"],
            "units": "normalised", "normalise": False, "templates": (template(tensors["tokens"], classes),),
        },
    )  # fmt: skip
    defense.load_state_dict(loaded(case, "image", layers["vision_layers"]) | loaded(case, "text", layers["text_layers"]))
    sizes, attack = constants["optimiser"], Radius(constants["eps_train"])
    optimizer = torch.optim.AdamW(
        defense.parameters(), lr=sizes["lr"], betas=tuple(sizes["betas"]), weight_decay=sizes["weight_decay"]
    )
    values, deltas = [], []
    plain = advclip_lora.ascended

    def watched(value, delta, steps):
        values.append(value(delta).detach())
        return plain(value, delta, steps)

    monkeypatch.setattr(advclip_lora, "ascended", watched)
    defense.train()
    for step in range(constants["iterations"]):
        batch = Batch(tensors["images"][step], tensors["labels"][step], torch.arange(len(tensors["labels"][step])), classes)
        for group in optimizer.param_groups:
            group["lr"] = 1e-6 + (sizes["lr"] - 1e-6) * (1 + math.cos(math.pi * step / constants["iterations"])) / 2
        loss = defense.loss(backbone, batch, attack)["universal_ce"]
        values.append(loss.detach())
        deltas.append(defense._universal.delta)
        optimizer.zero_grad()
        loss.backward()
        for name in tensors:
            if name.startswith(f"grad.step{step}."):
                tensor, part = pair(defense, name.removeprefix(f"grad.step{step}."))
                assert_matches(case, name, tensor.grad[part])
        optimizer.step()
    assert_matches(case, "losses", torch.stack(values).view(constants["iterations"], -1))
    stored = tensors["deltas"][:, -1]
    note = notes["tensors"]["deltas"]["atol_float64" if dtype == torch.float64 else "atol_float32"]
    assert (torch.stack(deltas).double() - stored.double()).abs().max() <= note
    for name in tensors:
        if name.startswith("after."):
            tensor, part = pair(defense, name.removeprefix("after."))
            assert_matches(case, name, tensor[part])
    defense.eval()
    with torch.no_grad():
        tuned = defense.classifier(backbone, classes, None)
        assert_matches(case, "test.features_clean", tuned.encode_image(tensors["test.images"]))
