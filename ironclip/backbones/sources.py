"""Where a backbone comes from: the package, open_clip's tags, the hub, robust checkpoints, local files.

Each source ends in a `Recipe`: configuration, weights, and the activation, settled from what the source states.
"""

import os
from dataclasses import replace
from pathlib import Path

import open_clip
from open_clip.pretrained import get_pretrained_cfg, list_pretrained_tags_by_model

from ironclip.backbones.checkpoints import Checkpoint, read_checkpoint
from ironclip.backbones.described import agrees, configured, described, read_description
from ironclip.backbones.downloads import described_on_hub, from_hub, from_tag
from ironclip.backbones.folders import INDEX, description
from ironclip.backbones.recipes import Recipe, all_tensors, pixel_statistics, settle, stated
from ironclip.backbones.registry import EMBEDDED, ROBUST, WEIGHTS_FOLDER, Activation, list_backbones, tag_activation
from ironclip.core.errors import CheckpointError, UsageError, unknown

PACKAGE = Path(__file__).parent / "weights"
SUFFIXES = (".safetensors", ".pt", ".pth", ".bin", ".tar", ".ckpt", INDEX)


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
        return described(PACKAGE / f"{name}.safetensors", activation, None, resolve)
    if name.startswith("hf-hub:"):
        return _hub(name, activation)
    if Path(name).expanduser().exists():
        return described(Path(name), activation, base, resolve)
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
    raise unknown("backbone", name, [entry.name for entry in list_backbones()] + architectures, see="ironclip list backbones")


def _chosen(architecture: str, weights: str, base: str | None, activation: Activation | None) -> Recipe:
    """An architecture with weights that are a hub name, `tecoa-eps4` and its like, a tag, or a file."""
    method, _, eps = weights.partition("-")
    robust = f"{method}-{architecture.lower().replace('-', '')}-{eps}"
    if weights.startswith("hf-hub:"):
        return _hub(weights, activation)
    if robust in ROBUST:
        return _robust(robust, None, base, activation)
    if Path(weights).expanduser().exists() or weights.endswith(SUFFIXES):
        return _file(architecture, architecture, Path(weights), base, activation)
    return _tag(architecture, weights, activation)


def _known_architecture(name: str) -> str:
    if name not in open_clip.list_models():
        raise unknown("architecture", name, open_clip.list_models())
    return name


def _tag(architecture: str, tag: str, activation: Activation | None) -> Recipe:
    known = get_pretrained_cfg(architecture, tag)
    if not known:
        raise unknown(f"tag of {architecture}", tag, list_pretrained_tags_by_model(architecture))
    name = f"{architecture}/{tag}"
    ours, theirs = tag_activation(architecture, tag), "quick_gelu" if known.get("quick_gelu") else "gelu"
    if ours != theirs and activation is None:
        raise CheckpointError(f"our table says {name} was trained with {ours}, open_clip says {theirs}; say --activation")
    settled = settle(name, ours if ours == theirs else None, "open_clip's list of tags", activation)
    checkpoint = downloaded(from_tag(name, known))
    return Recipe(
        name=name,
        config=open_clip.get_model_config(architecture),
        state=all_tensors(checkpoint),
        activation=settled,
        path=checkpoint.path,
        tokenizer=architecture,
        mean=tuple(known["mean"]),
        std=tuple(known["std"]),
        form=checkpoint.form,
    )


def _hub(name: str, activation: Activation | None) -> Recipe:
    note, pixels, weights = described_on_hub(name, name.removeprefix("hf-hub:"))
    read_description(note, activation, pixels)  # before gigabytes are fetched
    return configured(name, note, downloaded(weights()), activation, name, pixels)


def downloaded(path: Path) -> Checkpoint:
    """The checkpoint of a file in the download cache; where it is damaged the message says what to delete."""
    try:
        return read_checkpoint(path)
    except CheckpointError as error:
        raise CheckpointError(f"{error}; delete {path.resolve()} and fetch it again") from None


def _robust(name: str, weights: str | Path | None, base: str | None, activation: Activation | None) -> Recipe:
    known = ROBUST[name]
    folder = os.environ.get(WEIGHTS_FOLDER)
    path = Path(weights) if weights is not None else Path(folder or ".") / (known.file or "?")
    if path.exists():
        return _file(name, known.architecture, path, base or known.base, activation)
    if known.hub and weights is None and not known.hub_file:
        trained_with = activation or tag_activation(*known.base.split("/"))
        return replace(_hub(f"hf-hub:{known.hub}", trained_with), name=name)
    if known.hub and weights is None:
        path = from_hub(name, known.hub, known.hub_file)
        return _file(name, known.architecture, path, base or known.base, activation)
    looked = f"no file at {path}" if weights is not None or (folder and known.file) else f"${WEIGHTS_FOLDER} is not set"
    file = f"the file {known.file}" if known.file else "a file whose name is not known to ironclip"
    where = f"say --weights FILE (in Python weights=) or put it into the folder ${WEIGHTS_FOLDER}"
    raise CheckpointError(
        f"{name} needs {file} ({known.source}): {where if known.file else where.partition(' or put')[0]}; {looked}"
    )


def _file(name: str, architecture: str, path: Path, base: str | None, activation: Activation | None) -> Recipe:
    """A local file or folder for an architecture of open_clip."""
    checkpoint = read_checkpoint(path)
    config, tokenizer = open_clip.get_model_config(architecture), architecture
    said, by = stated(checkpoint, config)
    mean, std = pixel_statistics(architecture)
    note = description(path.expanduser())
    if note is not None:
        config, said, (mean, std), _ = read_description(note, activation)
        agrees(config, architecture, note)
        by = f"its {note.name}"
    if checkpoint.layout == "visual":
        base = base or checkpoint.metadata.get("base") or f"{architecture}/openai"
        try:
            other = resolve(base, weights=None, base=None, activation=None)
        except (CheckpointError, UsageError) as error:
            raise CheckpointError(
                f"{path} holds an image tower alone and needs the text tower of {base}: {error}; or say --base (in Python base=)"
            ) from None
        agrees(other.config, architecture, Path(base), ("text_cfg",))  # heads change what it says, and no shape
        settled = settle(str(path), other.activation, f"as its base {base}", activation)
        if said and said != settled:
            raise CheckpointError(f"{path} was trained with {said} ({by}), its base {base} with {settled}; say --base to match")
        if note is None:
            mean, std = other.mean, other.std
        return replace(
            other,
            name=name,
            config=config,
            tokenizer=tokenizer,
            visual=checkpoint.state,
            visual_path=checkpoint.path,
            mean=mean,
            std=std,
            activation=settled,
            probe=None,
            form=checkpoint.form,
        )
    return Recipe(
        name=name,
        config=config,
        state=checkpoint.state,
        activation=settle(str(path), said, by, activation),
        path=checkpoint.path,
        tokenizer=tokenizer,
        mean=mean,
        std=std,
        form=checkpoint.form,
    )
