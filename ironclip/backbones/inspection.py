"""A description of a backbone's weights, made by loading them."""

import hashlib
from pathlib import Path
from typing import Any

from ironclip.backbones.folders import INDEX, shards
from ironclip.backbones.loading import assembled
from ironclip.backbones.probe import make_probe
from ironclip.backbones.recipes import Recipe
from ironclip.backbones.registry import license_of

BLOCK = 1 << 20


def inspect(
    name: str, *, weights: str | Path | None = None, base: str | None = None, activation: str | None = None
) -> dict[str, Any]:
    """JSON values: form of the file, architecture in words, activation, sizes, sha256 of files and weights, probe logits.

    The probe is two fixed images and two texts (`probe.make_probe`): the same weights give the same logits on every machine.

    Raises:
        UsageError, CheckpointError: as `load`.
    """
    backbone, recipe = assembled(name, weights=weights, base=base, activation=activation)
    spec, probe = backbone.spec, make_probe(backbone)
    places = _places(recipe)
    return {
        "name": spec.name,
        "form": recipe.form,
        "image tower": f"{spec.kind}, {spec.image_layers} layers of width {spec.image_width}, {spec.image_tokens} tokens",
        "text tower": f"{spec.text_layers} layers of width {spec.text_width}",
        "embedding": spec.embed_dim,
        "activation": spec.activation,
        "resolution": spec.resolution,
        "context": spec.context_length,
        "logit scale": round(spec.logit_scale, 4),
        "pixel mean": list(spec.mean),
        "pixel deviation": list(spec.std),
        "numbers": sum(parameter.numel() for parameter in backbone.parameters()),
        "licence": license_of(name if weights is None else ""),
        "files": [f"{place} (sha256 {_sha256(place)})" for place in places],
        "sha256": spec.sha256,
        "probe texts": probe["texts"],
        "probe logits": probe["logits"],
    }


def _places(recipe: Recipe) -> list[Path]:
    named = [path for path in (recipe.visual_path, recipe.path) if path is not None]
    return [file for path in named for file in (shards(path) if path.name.endswith(INDEX) else [path])]


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
