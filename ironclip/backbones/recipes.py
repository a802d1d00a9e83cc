"""Everything needed to build a backbone, and what its sources say about the activation."""

import inspect
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import open_clip
from open_clip.model import CLIP, CLIPTextCfg, CLIPVisionCfg, CustomTextCLIP
from open_clip.pretrained import get_pretrained_cfg, list_pretrained_tags_by_model
from torch import Tensor

from ironclip.backbones.adapter import OPENAI_MEAN, OPENAI_STD
from ironclip.backbones.checkpoints import Checkpoint
from ironclip.backbones.registry import Activation
from ironclip.core.errors import CheckpointError

YES, NO = ("true", "yes", "on", "1"), ("false", "no", "off", "0", "none", "")
TOP = {*inspect.signature(CLIP).parameters, *inspect.signature(CustomTextCLIP).parameters, "custom_text", "multimodal_cfg"}
PARTS = {"vision_cfg": CLIPVisionCfg, "text_cfg": CLIPTextCfg}


@dataclass(frozen=True)
class Recipe:
    """Everything needed to build a backbone.

    Args:
        config: arguments of open_clip's model class.
        state: weights of both towers.
        visual: image-tower weights that replace those of `state`, where a file holds an image tower alone.
        path: of the file with `state`, for messages.
        visual_path: of the file with `visual`.
        tokenizer: open_clip's name of the model whose tokenizer is used.
        probe: logits to reproduce, where the weights come with them.
        form: of the file that was named, in words.
    """

    name: str
    config: Mapping[str, Any]
    state: Mapping[str, Tensor]
    activation: Activation
    path: Path
    tokenizer: str
    visual: Mapping[str, Tensor] | None = None
    visual_path: Path | None = None
    mean: tuple[float, ...] = OPENAI_MEAN
    std: tuple[float, ...] = OPENAI_STD
    probe: Mapping[str, Any] | None = None
    form: str = ""


def settle(what: str, stated: Activation | None, by: str, asked: Activation | None) -> Activation:
    """The activation of these weights from what their source states and what the caller says.

    Raises:
        CheckpointError: neither says it, or they disagree.
    """
    if stated and asked and stated != asked:
        raise CheckpointError(
            f"{what} was trained with {stated} ({by}); activation={asked!r} would silently compute wrong features"
        )
    if known := stated or asked:
        return known
    raise CheckpointError(
        f"{what} does not say whether it was trained with QuickGELU or GELU; say --activation quick_gelu (OpenAI's weights "
        "and what was fine-tuned from them) or --activation gelu (most LAION and DataComp weights); in Python activation="
    )


def quick(value: object, where: object) -> bool:
    """Whether `quick_gelu` of a configuration is meant; some state it as a string such as "TRUE" or "FALSE".

    Raises:
        CheckpointError: neither yes nor no.
    """
    text = str(value).strip().lower()
    if text not in (*YES, *NO):
        raise CheckpointError(f"{where} states quick_gelu {value!r}; expected true or false")
    return text in YES


def stated(checkpoint: Checkpoint, config: Mapping[str, Any]) -> tuple[Activation | None, str]:
    """The activation according to the file or its architecture, and where it says so."""
    said = checkpoint.metadata.get("activation")
    if said is not None:
        if said not in ("gelu", "quick_gelu"):
            raise CheckpointError(f"{checkpoint.path} states the activation {said!r}; expected 'gelu' or 'quick_gelu'")
        return ("gelu" if said == "gelu" else "quick_gelu"), "its metadata"
    if checkpoint.openai:
        return "quick_gelu", "OpenAI's format"
    if quick(config.get("quick_gelu"), "the architecture"):
        return "quick_gelu", "the architecture"
    return ("gelu", "timm towers have GELU") if config["vision_cfg"].get("timm_model_name") else (None, "")


def check_keys(config: Mapping[str, Any], where: object) -> None:
    """CheckpointError where a configuration has a key that open_clip's model classes do not know: it is another program's."""
    if not isinstance(config, Mapping) or not all(isinstance(config.get(part), Mapping) for part in PARTS):
        raise CheckpointError(f"{where} should hold vision_cfg and text_cfg, as open_clip's configurations do")
    strange = [key for key in config if key not in TOP]
    for part, known in PARTS.items():
        strange += [f"{part}.{key}" for key in config[part] if key not in {field.name for field in fields(known)}]
    if strange:
        raise CheckpointError(
            f"{where} sets {strange[0]}, which open_clip does not know: the model needs the program it was trained with, "
            "and under another tokenizer or tower it would compute wrong features"
        )


def all_tensors(checkpoint: Checkpoint) -> Mapping[str, Tensor]:
    if checkpoint.layout == "visual":
        raise CheckpointError(f"{checkpoint.path} holds an image tower alone; expected a whole CLIP")
    return checkpoint.state


def pixel_statistics(architecture: str) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Mean and standard deviation that most published weights of an architecture were trained with."""
    tags = [get_pretrained_cfg(architecture, tag) for tag in list_pretrained_tags_by_model(architecture)]
    found = Counter((tuple(tag["mean"]), tuple(tag["std"])) for tag in tags).most_common(1)
    return found[0][0] if found else (OPENAI_MEAN, OPENAI_STD)


def fitting(state: Mapping[str, Tensor]) -> list[str]:
    """The architectures of open_clip with the sizes of this ViT; those that differ in their heads or activation alone all fit."""
    first, positions, joint = (state.get(f"visual.{part}") for part in ("conv1.weight", "positional_embedding", "proj"))
    words = state.get("text.positional_embedding", state.get("positional_embedding"))
    if first is None or positions is None or joint is None or words is None:
        return []
    patch, layers = (
        first.shape[-1],
        len({name.split(".")[3] for name in state if name.startswith("visual.transformer.resblocks.")}),
    )
    found = (len(first), patch, layers, patch * round((len(positions) - 1) ** 0.5), joint.shape[1], *words.shape)
    fits = []
    for name in open_clip.list_models():
        config = open_clip.get_model_config(name)
        vision, text = CLIP_VISION | config["vision_cfg"], CLIP_TEXT | config["text_cfg"]
        sizes = [vision[key] for key in CLIP_VISION] + [config["embed_dim"], text["context_length"], text["width"]]
        if tuple(sizes) == found and "timm_model_name" not in vision:
            fits.append(name)
    return fits


CLIP_VISION = {"width": 768, "patch_size": 16, "layers": 12, "image_size": 224}
CLIP_TEXT = {"context_length": 77, "width": 512}
