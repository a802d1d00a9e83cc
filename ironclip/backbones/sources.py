"""Where a backbone comes from: the package, open_clip's tags, the hub, robust checkpoints, local files.

Each source ends in a `Recipe`: configuration, weights, and the activation, settled from what the source states.
"""

import hashlib
import json
import os
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import open_clip
from open_clip.pretrained import get_pretrained_cfg, list_pretrained_tags_by_model
from torch import Tensor

from ironclip.backbones.adapter import OPENAI_MEAN, OPENAI_STD
from ironclip.backbones.checkpoints import Checkpoint, openai_config, read_checkpoint
from ironclip.backbones.downloads import from_hub, from_tag, hub_config
from ironclip.backbones.registry import EMBEDDED, ROBUST, WEIGHTS_FOLDER, Activation, list_backbones, tag_activation
from ironclip.core.errors import CheckpointError, UsageError, unknown

PACKAGE = Path(__file__).parent / "weights"
SUFFIXES = (".safetensors", ".pt", ".pth", ".bin", ".tar")


@dataclass(frozen=True)
class Recipe:
    """All that makes a backbone, before it is built.

    Args:
        config: arguments of open_clip's model class.
        state: weights of both towers.
        visual: image-tower weights that replace those of `state`, where a file holds an image tower alone.
        path: of the file with `state`, for messages.
        visual_path: of the file with `visual`.
        tokenizer: what open_clip calls the model whose tokenizer it is.
        probe: logits to reproduce, where the weights come with some.
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


def resolve(name: str, *, weights: str | Path | None, base: str | None, activation: Activation | None) -> Recipe:
    """Find and read everything that `name` needs; arguments as for `load`."""
    architectures = open_clip.list_models()
    if name in architectures and weights is not None:
        return _chosen(name, str(weights), base, activation)
    if name in ROBUST:
        return _robust(name, weights, base, activation)
    if weights is not None and (name in EMBEDDED or "/" in name or "@" in name):
        raise UsageError(
            f"{name} names its weights already; to load {weights} name an architecture of open_clip, for example ViT-B-32"
        )
    if name in EMBEDDED:
        return described(PACKAGE / f"{name}.safetensors", activation)
    if name.startswith("hf-hub:"):
        return _hub(name, activation)
    if Path(name).exists():
        return described(Path(name), activation)
    architecture, at, file = name.partition("@")
    if at:
        return _file(name, _known_architecture(architecture), Path(file), base, activation)
    architecture, slash, tag = name.partition("/")
    if slash and architecture in architectures:
        return _tag(architecture, tag, activation)
    if name in architectures:
        tags = ", ".join(list_pretrained_tags_by_model(name)[:4]) or "none published"
        raise CheckpointError(f"{name} is an architecture; say which weights: {name}/TAG (tags: {tags}) or {name}@FILE")
    if name.endswith(SUFFIXES):
        raise CheckpointError(f"no weights file at {name}")
    raise unknown("backbone", name, [entry.name for entry in list_backbones()] + architectures)


def _chosen(architecture: str, weights: str, base: str | None, activation: Activation | None) -> Recipe:
    """An architecture with weights that are a hub name, `tecoa-eps4` and its like, a tag, or a file."""
    method, _, eps = weights.partition("-")
    robust = f"{method}-{architecture.lower().replace('-', '')}-{eps}"
    if weights.startswith("hf-hub:"):
        return _hub(weights, activation)
    if robust in ROBUST:
        return _robust(robust, None, base, activation)
    if Path(weights).exists() or weights.endswith(SUFFIXES):
        return _file(architecture, architecture, Path(weights), base, activation)
    return _tag(architecture, weights, activation)


def _known_architecture(name: str) -> str:
    if name not in open_clip.list_models():
        raise unknown("architecture", name, open_clip.list_models())
    return name


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
        f"{what} does not say whether it was trained with QuickGELU or GELU; pass activation='quick_gelu' (OpenAI's weights "
        "and what was fine-tuned from them) or activation='gelu' (most LAION and DataComp weights)"
    )


def described(path: Path, activation: Activation | None) -> Recipe:
    """A file that says what it is: a JSON description beside it (as `ironclip pretrain` writes), metadata, or OpenAI's format."""
    beside = path.with_suffix(".json")
    if not beside.is_file():
        checkpoint = read_checkpoint(path)
        architecture = checkpoint.metadata.get("architecture")
        if architecture is None and checkpoint.openai and checkpoint.layout == "clip":
            settled = settle(str(path), "quick_gelu", "OpenAI's format", activation)
            return Recipe(path.stem, openai_config(checkpoint.state), checkpoint.state, settled, path, tokenizer=path.stem)
        if architecture is None:
            raise CheckpointError(f"{path} does not say its architecture; name it, for example ViT-B-32@{path}")
        return _file(path.stem, _known_architecture(architecture), path, None, activation, checkpoint)
    try:
        note = json.loads(beside.read_text(encoding="utf-8"))
        config, name = note["architecture"], note["name"]
        stated: Activation = "quick_gelu" if config["quick_gelu"] else "gelu"
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise CheckpointError(f"{beside} should describe {path.name} (name, architecture with quick_gelu): {error!r}") from None
    checkpoint = read_checkpoint(path)
    if (sha := note.get("sha256")) and hashlib.sha256(path.read_bytes()).hexdigest() != sha:
        raise CheckpointError(f"{path} is not the file that {beside.name} describes: its sha256 differs from {sha[:12]}...")
    settled, probe = settle(name, stated, beside.name, activation), note.get("probe")
    if checkpoint.layout == "visual":
        if "text_tower" not in note:
            raise CheckpointError(f"{path} holds an image tower alone and {beside.name} names no text_tower")
        other = resolve(note["text_tower"], weights=None, base=None, activation=settled)
        return replace(other, name=name, visual=checkpoint.state, visual_path=path, probe=probe)
    mean, std = tuple(note.get("mean", OPENAI_MEAN)), tuple(note.get("std", OPENAI_STD))
    return Recipe(
        name=name,
        config=config,
        state=checkpoint.state,
        activation=settled,
        path=path,
        tokenizer=name,
        mean=mean,
        std=std,
        probe=probe,
    )


def _tag(architecture: str, tag: str, activation: Activation | None) -> Recipe:
    known = get_pretrained_cfg(architecture, tag)
    if not known:
        raise unknown(f"tag of {architecture}", tag, list_pretrained_tags_by_model(architecture))
    name = f"{architecture}/{tag}"
    ours, theirs = tag_activation(architecture, tag), "quick_gelu" if known.get("quick_gelu") else "gelu"
    if ours != theirs and activation is None:
        raise CheckpointError(f"our table says {name} was trained with {ours}, open_clip says {theirs}; pass activation=")
    settled = settle(name, ours if ours == theirs else None, "open_clip's list of tags", activation)
    path = from_tag(name, known)
    return Recipe(
        name=name,
        config=open_clip.get_model_config(architecture),
        state=_whole(read_checkpoint(path)),
        activation=settled,
        path=path,
        tokenizer=architecture,
        mean=tuple(known["mean"]),
        std=tuple(known["std"]),
    )


def _hub(name: str, activation: Activation | None) -> Recipe:
    repository = name.removeprefix("hf-hub:")
    note = hub_config(name, repository)
    config, pixels = note["model_cfg"], note["preprocess_cfg"]
    stated: Activation = "quick_gelu" if config.get("quick_gelu") else "gelu"
    said = stated if "quick_gelu" in config or activation is None else None
    path = from_hub(name, repository)
    return Recipe(
        name=name,
        config=config,
        state=_whole(read_checkpoint(path)),
        activation=settle(name, said, "its open_clip_config.json", activation),
        path=path,
        tokenizer=name,
        mean=tuple(pixels.get("mean", OPENAI_MEAN)),
        std=tuple(pixels.get("std", OPENAI_STD)),
    )


def _whole(checkpoint: Checkpoint) -> Mapping[str, Tensor]:
    if checkpoint.layout == "visual":
        raise CheckpointError(f"{checkpoint.path} holds an image tower alone; expected a whole CLIP")
    return checkpoint.state


def _robust(name: str, weights: str | Path | None, base: str | None, activation: Activation | None) -> Recipe:
    known = ROBUST[name]
    folder = os.environ.get(WEIGHTS_FOLDER)
    path = Path(weights) if weights is not None else Path(folder or ".") / known.file
    if not path.is_file():
        looked = f"no file at {path}" if weights is not None or folder else f"{WEIGHTS_FOLDER} is not set"
        raise CheckpointError(
            f"{name} needs the file {known.file} ({known.source}): pass weights=FILE or put it into the folder "
            f"${WEIGHTS_FOLDER}; {looked}"
        )
    return _file(name, known.architecture, path, base or known.base, activation)


def _file(
    name: str,
    architecture: str,
    path: Path,
    base: str | None,
    activation: Activation | None,
    checkpoint: Checkpoint | None = None,
) -> Recipe:
    """A local file for an architecture of open_clip."""
    checkpoint = checkpoint or read_checkpoint(path)
    config = open_clip.get_model_config(architecture)
    stated, by = _stated(checkpoint, config)
    if checkpoint.layout == "visual":
        base = base or checkpoint.metadata.get("base") or f"{architecture}/openai"
        try:
            other = resolve(base, weights=None, base=None, activation=None)
        except CheckpointError as error:
            raise CheckpointError(
                f"{path} holds an image tower alone and needs the text tower of {base}: {error}; or pass base="
            ) from None
        settled = settle(str(path), other.activation, f"as its base {base}", activation)
        if stated and stated != settled:
            raise CheckpointError(f"{path} was trained with {stated} ({by}), its base {base} with {settled}; pass base= to match")
        return replace(
            other,
            name=name,
            config=config,
            tokenizer=architecture,
            visual=checkpoint.state,
            visual_path=path,
            activation=settled,
            probe=None,
        )
    settled = settle(str(path), stated, by, activation)
    mean, std = _pixel_statistics(architecture)
    return Recipe(
        name=name,
        config=config,
        state=checkpoint.state,
        activation=settled,
        path=path,
        tokenizer=architecture,
        mean=mean,
        std=std,
    )


def _stated(checkpoint: Checkpoint, config: Mapping[str, Any]) -> tuple[Activation | None, str]:
    """What the file or its architecture says about the activation, and where."""
    said = checkpoint.metadata.get("activation")
    if said is not None:
        if said not in ("gelu", "quick_gelu"):
            raise CheckpointError(f"{checkpoint.path} states the activation {said!r}; expected 'gelu' or 'quick_gelu'")
        return ("gelu" if said == "gelu" else "quick_gelu"), "its metadata"
    if checkpoint.openai:
        return "quick_gelu", "OpenAI's format"
    if config.get("quick_gelu"):
        return "quick_gelu", "the architecture"
    return ("gelu", "timm towers have GELU") if config["vision_cfg"].get("timm_model_name") else (None, "")


def _pixel_statistics(architecture: str) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Mean and standard deviation that most published weights of an architecture were trained with."""
    tags = [get_pretrained_cfg(architecture, tag) for tag in list_pretrained_tags_by_model(architecture)]
    found = Counter((tuple(tag["mean"]), tuple(tag["std"])) for tag in tags).most_common(1)
    return found[0][0] if found else (OPENAI_MEAN, OPENAI_STD)
