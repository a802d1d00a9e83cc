"""Weights with the names of transformers' `CLIPModel` and `SiglipModel` under open_clip's names, and their configurations.

Source: [code] transformers, models/clip and models/siglip; open_clip, model.py and timm_model.py.
"""

import math
import re
from collections.abc import Callable, Mapping
from typing import Any

import open_clip
import torch
from torch import Tensor

from ironclip.core.errors import CheckpointError

State = dict[str, Tensor]
CLIP_BLOCK = {
    "layer_norm1": "ln_1", "layer_norm2": "ln_2", "mlp.fc1": "mlp.c_fc", "mlp.fc2": "mlp.c_proj",
    "self_attn.out_proj": "attn.out_proj",
}  # fmt: skip
TIMM_BLOCK = {
    "layer_norm1": "norm1", "layer_norm2": "norm2", "mlp.fc1": "mlp.fc1", "mlp.fc2": "mlp.fc2", "self_attn.out_proj": "attn.proj",
}  # fmt: skip
CLIP_IMAGE = {
    "embeddings.class_embedding": "class_embedding", "embeddings.patch_embedding.weight": "conv1.weight",
    "embeddings.position_embedding.weight": "positional_embedding", "pre_layrnorm": "ln_pre", "post_layernorm": "ln_post",
}  # fmt: skip
TEXT = {
    "embeddings.token_embedding.weight": "token_embedding.weight", "embeddings.position_embedding.weight": "positional_embedding",
    "final_layer_norm": "ln_final", "head": "text_projection",
}  # fmt: skip
SIGLIP_IMAGE = {
    "embeddings.patch_embedding": "patch_embed.proj", "embeddings.position_embedding.weight": "pos_embed",
    "post_layernorm": "norm", "head.probe": "attn_pool.latent", "head.attention.out_proj": "attn_pool.proj",
    "head.layernorm": "attn_pool.norm",
    "head.mlp": "attn_pool.mlp",
}  # fmt: skip


def clip_names(path: object, state: State) -> tuple[State, str]:
    """(weights of a `CLIPModel`, or of its image tower alone, with open_clip's names; the form in words)."""
    made: State = {}
    for part, known, start in (("vision_model.", CLIP_IMAGE, "visual."), ("text_model.", TEXT, "")):
        tower = {name.removeprefix(part): tensor for name, tensor in state.items() if name.startswith(part)}
        blocks = f"{start}transformer.resblocks."
        made |= _tower(path, tower, known, start, blocks, CLIP_BLOCK, "attn.in_proj_{}")
    for name, to in (("visual_projection.weight", "visual.proj"), ("text_projection.weight", "text_projection")):
        if name in state:
            made[to] = state[name].T.contiguous()
    made |= _rest(path, state, ("visual_projection.weight", "text_projection.weight"), ("logit_scale",))
    return made, "transformers' CLIPModel"


def siglip_names(path: object, state: State) -> tuple[State, str]:
    """(weights of a `SiglipModel` with the names of open_clip's, a timm image tower; the form in words)."""
    made: State = {}
    for part, known, start, blocks, block, attention in (
        ("vision_model.", SIGLIP_IMAGE, "visual.trunk.", "visual.trunk.blocks.", TIMM_BLOCK, "attn.qkv.{}"),
        ("text_model.", TEXT, "text.", "text.transformer.resblocks.", CLIP_BLOCK, "attn.in_proj_{}"),
    ):
        tower = {name.removeprefix(part): tensor for name, tensor in state.items() if name.startswith(part)}
        for kind in ("weight", "bias"):  # one matrix for query, key and value here; there one for the query, one for the others
            joint = tower.pop(f"head.attention.in_proj_{kind}", None)
            if joint is not None:
                width = len(joint) // 3
                made[f"{start}attn_pool.q.{kind}"], made[f"{start}attn_pool.kv.{kind}"] = (
                    joint[:width].clone(),
                    joint[width:].clone(),
                )
        made |= _tower(path, tower, known, start, blocks, block, attention)
    if "visual.trunk.pos_embed" in made:
        made["visual.trunk.pos_embed"] = made["visual.trunk.pos_embed"][None]
    made |= _rest(path, state, (), ("logit_scale", "logit_bias"))
    return made, "transformers' SiglipModel"


CONVERTERS: dict[str, Callable[[object, State], tuple[State, str]]] = {"clip": clip_names, "siglip": siglip_names}


def _tower(
    path: object, tower: State, known: Mapping[str, str], start: str, blocks: str, block: Mapping[str, str], attention: str
) -> State:
    made: State = {}
    parts: dict[str, dict[str, Tensor]] = {}
    for name, tensor in tower.items():
        layer = re.fullmatch(r"encoder\.layers\.(\d+)\.(.+)\.(weight|bias)", name)
        if layer is None:
            made[start + _renamed(path, name, known)] = tensor
        elif (inner := layer[2]).startswith("self_attn.") and inner != "self_attn.out_proj":
            parts.setdefault(f"{blocks}{layer[1]}.{attention.format(layer[3])}", {})[inner.removeprefix("self_attn.")] = tensor
        else:
            made[f"{blocks}{layer[1]}.{_renamed(path, inner, block)}.{layer[3]}"] = tensor
    for name, each in parts.items():
        if each.keys() != {"q_proj", "k_proj", "v_proj"}:
            raise CheckpointError(f"{path}: an attention layer has {', '.join(sorted(each))}; expected q_proj, k_proj and v_proj")
        made[name] = torch.cat([each["q_proj"], each["k_proj"], each["v_proj"]])
    return made


def _renamed(path: object, name: str, known: Mapping[str, str]) -> str:
    for start, to in known.items():
        if name == start or name.startswith(f"{start}."):
            return to + name[len(start) :]
    raise CheckpointError(f"{path} holds {name}, which transformers' CLIPModel and SiglipModel do not have")


def _rest(path: object, state: State, done: tuple[str, ...], wanted: tuple[str, ...]) -> State:
    """What lies outside the towers; a tensor that neither model has is refused."""
    outside = [name for name in state if not name.startswith(("vision_model.", "text_model.")) and name not in done]
    for name in outside:
        if name not in wanted:
            raise CheckpointError(f"{path} holds {name}, which transformers' CLIPModel and SiglipModel do not have")
    return {name: state[name] for name in outside}


# --- configurations -----------------------------------------------------------------------------------------------------------

TANH = "gelu_tanh"
"""Key of a configuration that open_clip does not know: GELU by its tanh approximation, as in transformers' SigLIP."""
ACTIVATIONS = {"quick_gelu": "quick_gelu", "gelu": "gelu", "gelu_pytorch_tanh": "gelu"}
CLIP_VISION = {
    "hidden_size": 768, "intermediate_size": 3072, "num_hidden_layers": 12, "num_attention_heads": 12, "image_size": 224,
    "patch_size": 32,
}  # fmt: skip
CLIP_TEXT = {
    "hidden_size": 512, "intermediate_size": 2048, "num_hidden_layers": 12, "num_attention_heads": 8,
    "max_position_embeddings": 77, "vocab_size": 49408,
}  # fmt: skip
SIGLIP_VISION = {**CLIP_VISION, "patch_size": 16}
SIGLIP_TEXT = {**CLIP_TEXT, "hidden_size": 768, "num_hidden_layers": 12, "max_position_embeddings": 64, "vocab_size": 32000}


def configuration(where: object, note: Mapping[str, Any]) -> tuple[dict[str, Any], str, str]:
    """(open_clip's configuration, activation, the architecture whose tokenizer it has or "") of a transformers config.json.

    Values that the file leaves out are transformers' defaults.

    Raises:
        CheckpointError: a model that is neither CLIP nor SigLIP, or sizes that open_clip has no tower for.
    """
    kind = note.get("model_type")
    if kind not in ("clip", "siglip"):
        raise CheckpointError(f"{where} describes a model of type {kind!r}; expected transformers' clip or siglip")
    defaults = (CLIP_VISION, CLIP_TEXT) if kind == "clip" else (SIGLIP_VISION, SIGLIP_TEXT)
    vision, text = (
        {**known, **(note.get(f"{part}_config") or {})} for part, known in zip(("vision", "text"), defaults, strict=True)
    )
    usual = "quick_gelu" if kind == "clip" else "gelu_pytorch_tanh"
    acts = {part.get("hidden_act", usual) for part in (vision, text)}
    if len(acts) > 1 or not acts <= set(ACTIVATIONS):
        raise CheckpointError(
            f"{where} states the activations {', '.join(sorted(map(str, acts)))}; expected quick_gelu or gelu in both towers"
        )
    (act,) = acts
    try:
        config, tokenizer = (_clip if kind == "clip" else _siglip)(where, note, vision, text)
    except (TypeError, ValueError, ZeroDivisionError) as error:
        raise CheckpointError(f"{where} is damaged: {error}") from None
    return {**config, TANH: act == "gelu_pytorch_tanh"}, ACTIVATIONS[act], tokenizer


def _clip(
    where: object, note: Mapping[str, Any], vision: Mapping[str, Any], text: Mapping[str, Any]
) -> tuple[dict[str, Any], str]:
    if text["vocab_size"] != CLIP_TEXT["vocab_size"]:
        raise CheckpointError(
            f"{where} has a vocabulary of {text['vocab_size']} words; CLIP's tokenizer has {CLIP_TEXT['vocab_size']}"
        )
    for part, sizes in (("vision", vision), ("text", text)):
        if sizes.get("layer_norm_eps", 1e-5) != 1e-5:
            raise CheckpointError(f"{where} states layer_norm_eps {sizes['layer_norm_eps']} of its {part} tower; CLIP has 1e-05")
    return {
        "embed_dim": note.get("projection_dim", 512),
        "vision_cfg": {
            "image_size": vision["image_size"], "patch_size": vision["patch_size"], "layers": vision["num_hidden_layers"],
            "width": vision["hidden_size"], "head_width": vision["hidden_size"] // vision["num_attention_heads"],
            "mlp_ratio": _ratio(vision["intermediate_size"], vision["hidden_size"]),
        },
        "text_cfg": {
            "context_length": text["max_position_embeddings"], "vocab_size": text["vocab_size"], "width": text["hidden_size"],
            "heads": text["num_attention_heads"], "layers": text["num_hidden_layers"],
            "mlp_ratio": _ratio(text["intermediate_size"], text["hidden_size"]),
        },
    }, ""  # fmt: skip


def _ratio(inner: int, width: int) -> float:
    """The ratio with which open_clip, which rounds width * ratio down, gets this inner width."""
    ratio = inner / width
    while int(width * ratio) < inner:
        ratio = math.nextafter(ratio, math.inf)
    return ratio


def _siglip(
    where: object, note: Mapping[str, Any], vision: Mapping[str, Any], text: Mapping[str, Any]
) -> tuple[dict[str, Any], str]:
    """The configuration of open_clip that has these sizes; its image tower is timm's."""
    wanted = (
        vision["hidden_size"], vision["patch_size"], vision["image_size"], text["hidden_size"], text["num_hidden_layers"],
        text["max_position_embeddings"], text["vocab_size"],
    )  # fmt: skip
    for name in open_clip.list_models():
        config: dict[str, Any] = open_clip.get_model_config(name)
        image, words = config["vision_cfg"], config["text_cfg"]
        timm = re.search(r"_patch(\d+)_siglip_\d+$", image.get("timm_model_name") or "")
        if timm is None:
            continue
        sizes = (
            config["embed_dim"], int(timm[1]), image["image_size"], words.get("width"), words.get("layers"),
            words.get("context_length"), words.get("vocab_size"),
        )  # fmt: skip
        if sizes == wanted:
            return config, name
    raise CheckpointError(
        f"{where} describes a SigLIP of width {wanted[0]}, patch {wanted[1]}, {wanted[2]} pixels and {wanted[6]} words, "
        "which open_clip has no architecture for"
    )
