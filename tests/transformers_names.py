"""Weights as transformers names them, written from open_clip's: the other way round than the package reads them."""

from torch import Tensor

State = dict[str, Tensor]


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
