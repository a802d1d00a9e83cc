"""Weights of the published sizes on the command line, in each form in which they are distributed; the same code on a small tower.

The weights are random: what counts is that every form is recognised, and answers as the model does that wrote it.
"""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import open_clip
import pytest
import torch
from safetensors.torch import save_file
from torch import nn
from weight_files import openai_archive, transformers_folder

from ironclip.backbones.probe import make_probe
from ironclip.backbones.wrapping import build, tokenizer_for, wrap

SMALL = {
    "embed_dim": 16,
    "vision_cfg": {"image_size": 32, "layers": 2, "width": 128, "patch_size": 16},
    "text_cfg": {"context_length": 77, "vocab_size": 49408, "width": 64, "heads": 1, "layers": 1},
}


def archive(model: nn.Module, config: dict[str, Any], name: str) -> list[str]:
    return [str(openai_archive(model, Path("clip.pt")))]


def open_clip_file(model: nn.Module, config: dict[str, Any], name: str) -> list[str]:
    torch.save(model.state_dict(), "clip.pt")
    return [name, "--weights", "clip.pt", "--activation", "quick_gelu"]


def folder(model: nn.Module, config: dict[str, Any], name: str) -> list[str]:
    vision, text = config["vision_cfg"], config["text_cfg"]
    parts = {
        "vision_config": {"image_size": vision["image_size"], "patch_size": vision["patch_size"]} | _sizes(vision, 64),
        "text_config": {"max_position_embeddings": text["context_length"]} | _sizes(text, text["width"] // text["heads"]),
    }
    note = {"model_type": "clip", "projection_dim": config["embed_dim"], **parts}
    return [str(transformers_folder(Path("clip"), model, note))]


def _sizes(part: dict[str, Any], head: int) -> dict[str, Any]:
    width = part["width"]
    sizes = {"hidden_size": width, "intermediate_size": 4 * width, "num_attention_heads": width // head}
    return sizes | {"num_hidden_layers": part["layers"], "hidden_act": "quick_gelu"}


def tecoa(model: nn.Module, config: dict[str, Any], name: str) -> list[str]:
    return _tower(model, name, {"state_dict": {}, "vision_encoder_state_dict": model.visual.state_dict()})


def fare(model: nn.Module, config: dict[str, Any], name: str) -> list[str]:
    return _tower(model, name, model.visual.state_dict())


def _tower(model: nn.Module, name: str, content: dict[str, Any]) -> list[str]:
    """An image tower alone, and a base whose own image tower is another one."""
    base = {key: value + 0.1 if key.startswith("visual.") else value for key, value in model.state_dict().items()}
    save_file(base, "base.safetensors", metadata={"activation": "quick_gelu"})
    torch.save(content, "tower.pt")
    return [name, "--weights", "tower.pt", "--base", f"{name}@base.safetensors"]


FORMS: dict[str, Callable[[nn.Module, dict[str, Any], str], list[str]]] = {
    "OpenAI archive": archive, "open_clip file": open_clip_file, "Hugging Face folder": folder, "TeCoA": tecoa, "FARE": fare,
}  # fmt: skip


@pytest.mark.parametrize(
    "name", ["Small", *(pytest.param(name, marks=pytest.mark.slow) for name in ("ViT-B-32", "ViT-B-16"))]
)  # fmt: skip
@pytest.mark.parametrize("form", FORMS)
def test_a_form_answers_as_the_model_that_wrote_it(ironclip, photos, monkeypatch, name, form):
    monkeypatch.delenv("IRONCLIP_WEIGHTS", raising=False)
    if name == "Small":
        monkeypatch.setitem(open_clip.factory._MODEL_CONFIGS, name, SMALL)
    config = open_clip.get_model_config(name)
    model = build(config, "quick_gelu").requires_grad_(False)
    expected = wrap(model, tokenizer_for(name, config), name=name, activation="quick_gelu")
    logits = torch.tensor(make_probe(expected)["logits"])
    given = FORMS[form](model, config, name)
    del model, expected
    code, said, complaint = ironclip("backbones", "check", *given, "--json")
    assert code == 0, complaint
    facts = json.loads(said)
    assert (facts["activation"], facts["resolution"]) == ("quick_gelu", config["vision_cfg"]["image_size"])
    torch.testing.assert_close(torch.tensor(facts["probe logits"]), logits, atol=2e-3, rtol=0)
    attack = ("--attack", "pgd", "--set", "steps=1", "--limit", "2")
    assert ironclip("evaluate", *given, "--data", str(photos), *attack)[0] == 0
