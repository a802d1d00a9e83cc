"""Weights that describe themselves: by a configuration in their folder, a JSON file beside them, metadata, or their format."""

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import open_clip

from ironclip.backbones.adapter import OPENAI_MEAN, OPENAI_STD
from ironclip.backbones.checkpoints import Checkpoint, openai_config, read_checkpoint
from ironclip.backbones.folders import OPEN_CLIP, PIXELS, description, weights_in
from ironclip.backbones.foreign import configuration
from ironclip.backbones.recipes import Recipe, all_tensors, check_keys, fitting, quick, settle
from ironclip.backbones.registry import Activation
from ironclip.core.errors import CheckpointError, RunError, unknown
from ironclip.core.texts import json_value, plain_bytes

Resolve = Callable[..., Recipe]
SIGLIP_PIXELS = (0.5, 0.5, 0.5)


def described(path: Path, activation: Activation | None, base: str | None, resolve: Resolve) -> Recipe:
    """The recipe of a file or folder that describes itself.

    Args:
        base: gives the text tower of a file that describes itself and holds an image tower alone.
        resolve: `sources.resolve`, for a base and for a named architecture.

    Raises:
        CheckpointError: it does not describe itself, the description is wrong, or it contradicts `activation`.
    """
    path = path.expanduser()
    if path.is_dir():
        path = weights_in(path)
    beside = path.with_suffix(".json")
    if beside.is_file() and not (beside.name.endswith("config.json") or path == beside):
        return _noted(path, beside, activation, resolve)
    note = description(path)
    checkpoint = read_checkpoint(path)
    if note is not None and checkpoint.layout == "clip":
        name = path.parent.name
        return configured(name, note, checkpoint, activation, f"local-dir:{path.parent}")
    architecture = checkpoint.metadata.get("architecture")
    if architecture is not None:
        if architecture not in open_clip.list_models():
            raise unknown("architecture", architecture, open_clip.list_models())
        return resolve(architecture, weights=path, base=base, activation=activation)
    if checkpoint.openai and checkpoint.layout == "clip":
        settled = settle(str(path), "quick_gelu", "OpenAI's format", activation)
        config = openai_config(checkpoint.state)
        return Recipe(path.stem, config, checkpoint.state, settled, path, tokenizer=path.stem, form=checkpoint.form)
    fits = fitting(checkpoint.state)
    hint = f"its sizes are those of {' and '.join(fits[:3])}; " if fits else ""
    example = fits[0] if fits else "ViT-B-32"
    raise CheckpointError(
        f"{path} does not say its architecture; {hint}name it, as in {example}@{path} or --backbone {example} --weights {path}"
    )


def configured(
    name: str,
    note: Path,
    checkpoint: Checkpoint,
    activation: Activation | None,
    tokenizer: str,
    pixels: Path | None = None,
) -> Recipe:
    """A whole CLIP with the configuration of open_clip or transformers that lies beside it.

    Args:
        tokenizer: open_clip's name of the model, where the configuration names a tokenizer.
        pixels: transformers' preprocessor_config.json; default: beside the configuration.
    """
    config, said, statistics, named = read_description(note, activation, pixels)
    mean, std = statistics
    return Recipe(
        name=name,
        config=config,
        state=all_tensors(checkpoint),
        activation=settle(name, said, f"its {note.name}", activation),
        path=checkpoint.path,
        tokenizer=named or tokenizer,
        mean=mean,
        std=std,
        form=checkpoint.form,
    )


def read_description(
    note: Path, activation: Activation | None, pixels: Path | None = None
) -> tuple[dict[str, Any], Activation | None, tuple[tuple[float, ...], tuple[float, ...]], str]:
    """(open_clip's configuration, activation, mean and deviation, the architecture whose tokenizer it has or "")."""
    held = _json(note)
    if note.name == OPEN_CLIP:
        whole_note = held if "model_cfg" in held else {"model_cfg": held}
        config, seen = whole_note["model_cfg"], whole_note.get("preprocess_cfg") or {}
        check_keys(config, note)
        is_quick = quick(config.get("quick_gelu"), note)
        # What says nothing was trained with GELU, unless the caller knows better.
        said: Activation | None = "quick_gelu" if is_quick else "gelu"
        if "quick_gelu" not in config and activation is not None:
            said = None
        return config, said, (_numbers(seen, "mean", OPENAI_MEAN), _numbers(seen, "std", OPENAI_STD)), ""
    config, stated_, named = configuration(note, held)
    usual = (SIGLIP_PIXELS, SIGLIP_PIXELS) if named else (OPENAI_MEAN, OPENAI_STD)
    pixels = pixels or note.parent / PIXELS
    seen = _json(pixels) if pixels.is_file() else {}
    act: Activation = "quick_gelu" if stated_ == "quick_gelu" else "gelu"
    return config, act, (_numbers(seen, "image_mean", usual[0]), _numbers(seen, "image_std", usual[1])), named


def agrees(config: Mapping[str, Any], architecture: str, path: Path, parts: Sequence[str] = ("vision_cfg", "text_cfg")) -> None:
    """CheckpointError where a folder or a base describes other towers than the architecture that the caller named."""
    named = open_clip.get_model_config(architecture)
    for part in parts:
        for key, value in named[part].items():
            other = config[part].get(key, value)
            if isinstance(value, int | str) and not isinstance(value, bool) and other != value and key != "hf_tokenizer_name":
                raise CheckpointError(f"{path} describes a model with {part}.{key} {other}; {architecture} has {value}")


def _noted(path: Path, beside: Path, activation: Activation | None, resolve: Resolve) -> Recipe:
    """A file with the JSON description beside it that `ironclip pretrain` writes."""
    try:
        note = json.loads(beside.read_text(encoding="utf-8"))
        config, name = note["architecture"], note["name"]
        stated_: Activation = "quick_gelu" if quick(config["quick_gelu"], beside) else "gelu"
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise CheckpointError(f"{beside} should describe {path.name} (name, architecture with quick_gelu): {error!r}") from None
    checkpoint = read_checkpoint(path)
    if (sha := note.get("sha256")) and hashlib.sha256(path.read_bytes()).hexdigest() != sha:
        raise CheckpointError(f"{path} is not the file that {beside.name} describes: its sha256 differs from {sha[:12]}...")
    settled, probe = settle(name, stated_, beside.name, activation), note.get("probe")
    if checkpoint.layout == "visual":
        if "text_tower" not in note:
            raise CheckpointError(f"{path} holds an image tower alone and {beside.name} names no text_tower")
        other = resolve(note["text_tower"], weights=None, base=None, activation=settled)
        return replace(other, name=name, visual=checkpoint.state, visual_path=path, probe=probe, form=checkpoint.form)
    return Recipe(
        name=name,
        config=config,
        state=checkpoint.state,
        activation=settled,
        path=path,
        tokenizer=name,
        mean=tuple(note.get("mean", OPENAI_MEAN)),
        std=tuple(note.get("std", OPENAI_STD)),
        probe=probe,
        form=checkpoint.form,
    )


def _json(path: Path) -> dict[str, Any]:
    try:
        held = json_value(plain_bytes(path))
    except (OSError, ValueError, RunError) as error:
        raise CheckpointError(f"{path} is damaged: {str(error).splitlines()[0]}; delete it and fetch it again") from None
    if not isinstance(held, dict):
        raise CheckpointError(f"{path} holds a {type(held).__name__}; expected a configuration")
    return held


def _numbers(held: Mapping[str, Any], key: str, usual: tuple[float, ...]) -> tuple[float, ...]:
    values = held.get(key) or usual
    if not isinstance(values, list | tuple) or len(values) != 3 or not all(isinstance(v, int | float) for v in values):
        raise CheckpointError(f"the {key} of the pixels is three numbers; got {values!r}")
    return tuple(float(value) for value in values)
