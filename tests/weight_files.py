"""Weights as other programs write them, from an open_clip model: the other way round than the package reads them."""

import json
import warnings
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from ironclip.backbones.wrapping import build

State = dict[str, Tensor]
VIT = {
    "embed_dim": 16,
    "vision_cfg": {"image_size": 32, "layers": 2, "width": 64, "patch_size": 8, "head_width": 32},
    "text_cfg": {"context_length": 16, "vocab_size": 49408, "width": 32, "heads": 2, "layers": 1},
}
TINY = {
    "embed_dim": 16,
    "vision_cfg": {"image_size": 16, "layers": 1, "width": 64, "patch_size": 8},
    "text_cfg": {"context_length": 24, "vocab_size": 49408, "width": 64, "heads": 1, "layers": 1},
}
NOTE = {
    "model_type": "clip",
    "projection_dim": 16,
    "vision_config": {
        "hidden_size": 64, "intermediate_size": 256, "num_hidden_layers": 2, "num_attention_heads": 2, "image_size": 32,
        "patch_size": 8, "hidden_act": "gelu",
    },
    "text_config": {
        "hidden_size": 32, "intermediate_size": 128, "num_hidden_layers": 1, "num_attention_heads": 2,
        "max_position_embeddings": 16, "hidden_act": "gelu",
    },
}  # fmt: skip


def tiny_clip() -> nn.Module:
    """A CLIP of these sizes with random weights that show every tensor."""
    torch.manual_seed(0)
    model = build(VIT, "gelu").requires_grad_(False)
    for parameter in model.parameters():
        parameter += 0.02 * torch.randn_like(parameter)
    return model


def tiny_files(folder: Path, stem: str) -> None:
    """A CLIP of the sizes `TINY`: `stem`.pt, `stem`.safetensors with its activation, and its image tower as tower.pt."""
    model = build(TINY, "gelu")
    torch.save({"model": model.state_dict()}, folder / f"{stem}.pt")
    torch.save(model.visual.state_dict(), folder / "tower.pt")
    save_file(model.state_dict(), folder / f"{stem}.safetensors", metadata={"activation": "gelu", "architecture": "Tiny"})


def openai_archive(model: Any, path: Path) -> Path:
    """A TorchScript archive with half-precision weights and the three numbers, as OpenAI publishes them."""

    class Archived(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            for name, child in model.named_children():
                setattr(self, name, child)
            for name in ("positional_embedding", "text_projection", "logit_scale"):
                setattr(self, name, getattr(model, name))
            for name in ("input_resolution", "context_length", "vocab_size"):
                self.register_buffer(name, torch.tensor(1))

        def forward(self, image: Tensor) -> Tensor:
            return self.visual(image) + 0 * (self.logit_scale + self.positional_embedding.sum() + self.text_projection.sum())

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch deprecates TorchScript, and tracing it warns at every shape
        archive = torch.jit.trace(Archived().eval(), torch.zeros(1, 3, model.visual.image_size[0], model.visual.image_size[0]))
        torch.jit.save(archive, path)
    return path


def to_transformers(state: State, prefix: str = "") -> State:
    """open_clip's names as transformers' CLIPModel has them."""
    made: State = {}
    simple = {
        "visual.class_embedding": "vision_model.embeddings.class_embedding",
        "visual.positional_embedding": "vision_model.embeddings.position_embedding.weight",
        "visual.conv1.weight": "vision_model.embeddings.patch_embedding.weight",
        "positional_embedding": "text_model.embeddings.position_embedding.weight",
        "token_embedding.weight": "text_model.embeddings.token_embedding.weight",
        "logit_scale": "logit_scale",
    }
    norms = {
        "visual.ln_pre": "vision_model.pre_layrnorm",
        "visual.ln_post": "vision_model.post_layernorm",
        "ln_final": "text_model.final_layer_norm",
    }
    inner = {
        "ln_1": "layer_norm1",
        "ln_2": "layer_norm2",
        "mlp.c_fc": "mlp.fc1",
        "mlp.c_proj": "mlp.fc2",
        "attn.out_proj": "self_attn.out_proj",
    }
    for name, tensor in state.items():
        stem, _, kind = name.rpartition(".")
        if name in simple:
            made[simple[name]] = tensor
        elif stem in norms:
            made[f"{norms[stem]}.{kind}"] = tensor
        elif name in ("visual.proj", "text_projection"):
            made["visual_projection.weight" if name == "visual.proj" else "text_projection.weight"] = tensor.T
        else:
            tower = "vision_model" if name.startswith("visual.") else "text_model"
            _, _, rest = name.partition("resblocks.")
            layer, _, part = rest.partition(".")
            start = f"{tower}.encoder.layers.{layer}"
            if part.startswith("attn.in_proj_"):
                for letter, piece in zip("qkv", tensor.chunk(3), strict=True):
                    made[f"{start}.self_attn.{letter}_proj.{part.removeprefix('attn.in_proj_')}"] = piece
            else:
                place, _, kind = part.rpartition(".")
                made[f"{start}.{inner[place]}.{kind}"] = tensor
    return {prefix + name: tensor for name, tensor in made.items()}


def transformers_folder(folder: Path, model: nn.Module, note: dict = NOTE, shards: int = 1) -> Path:
    """As `save_pretrained` of transformers writes it."""
    folder.mkdir(parents=True, exist_ok=True)
    state = {name: tensor.contiguous() for name, tensor in to_transformers(model.state_dict()).items()}
    (folder / "config.json").write_text(json.dumps(note))
    if shards == 1:
        save_file(state, folder / "model.safetensors")
        return folder
    where = {}
    for k in range(shards):
        file = f"model-{k + 1:05}-of-{shards:05}.safetensors"
        part = dict(list(state.items())[k::shards])
        save_file(part, folder / file)
        where |= dict.fromkeys(part, file)
    (folder / "model.safetensors.index.json").write_text(json.dumps({"metadata": {}, "weight_map": where}))
    return folder


def open_clip_folder(folder: Path, model: nn.Module, **config: object) -> Path:
    """As open_clip pushes it to the hub."""
    folder.mkdir(parents=True, exist_ok=True)
    note = {"model_cfg": {**VIT, **config}, "preprocess_cfg": {"mean": [0.5, 0.4, 0.3], "std": [0.2, 0.2, 0.2]}}
    (folder / "open_clip_config.json").write_text(json.dumps(note))
    torch.save(model.state_dict(), folder / "open_clip_pytorch_model.bin")
    return folder
