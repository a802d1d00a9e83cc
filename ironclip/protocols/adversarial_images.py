"""Adversarial pictures as files: lossless, inside the radius after rounding, with a manifest."""

import hashlib
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from PIL import Image

from ironclip import attacks
from ironclip.core.errors import UsageError
from ironclip.core.files import write_json, write_whole
from ironclip.core.permits import check, full
from ironclip.core.tensors import evaluating, frozen, norm
from ironclip.core.threat import Threat, format_eps
from ironclip.core.types import Attack
from ironclip.data import EvalSet
from ironclip.loops.scoring import audit, quantised
from ironclip.protocols.experiment import Experiment


def write_adversarial(
    experiment: Experiment,
    attack: Attack,
    threat: Threat,
    folder: Path,
    *,
    split: str = "test",
    limit: int | None = None,
    batch_size: int = 64,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> dict[str, Any]:
    """The manifest of the pictures written: file, sha256, label, predictions before and after rounding, distance from the clean
    picture in the norm of the threat.

    Args:
        threat: norm and radius, which hold after rounding to 8 bits.

    Raises:
        UsageError: the folder holds other files, an attack that the threat does not permit, or a radius that 8-bit pictures
            cannot hold: below one grey level, or for l2 below what rounding alone moves one of the clean pictures.
    """
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise UsageError(f"{folder} is not an empty folder; choose another --save")
    threat = replace(threat, quantised=True)
    check(attack, threat)
    attack = full(attack)
    classifier = experiment.classifier
    device = experiment.backbone.device
    pictures = EvalSet(experiment.dataset, split, resolution=experiment.backbone.spec.resolution, limit=limit)
    if threat.norm == "l2":
        _check_rounding(pictures, batch_size, threat)
    listed: list[dict[str, Any]] = []
    with frozen(classifier), evaluating(classifier):
        for batch in pictures.batches(batch_size):
            images, labels = batch.images.to(device), batch.labels.to(device)
            adv = attack(classifier, images, labels, indices=batch.indices)
            levels = (quantised(adv, images, threat, "round") * 255).round().to(torch.uint8)
            with torch.no_grad():
                before, exact = classifier(images).argmax(1), classifier(adv).argmax(1)
                after = classifier(levels.float() / 255).argmax(1)
            distance = audit("of the pictures", levels.float() / 255, images, batch.indices, threat)
            for row, index in enumerate(batch.indices.tolist()):
                file = folder / f"{index:06d}.png"
                picture = Image.fromarray(levels[row].permute(1, 2, 0).cpu().numpy())
                write_whole(file, lambda temporary, picture=picture: picture.save(temporary, format="PNG"))  # type: ignore[misc]
                listed.append(
                    {
                        "file": file.name,
                        "sha256": hashlib.sha256(file.read_bytes()).hexdigest(),
                        "index": index,
                        "label": int(labels[row]),
                        "clean_prediction": int(before[row]),
                        "float_prediction": int(exact[row]),
                        "prediction": int(after[row]),
                        "distance": float(distance[row]),
                    }
                )
            progress(len(listed), len(pictures))
    manifest = {
        "attack": attacks.describe(attack),
        "norm": threat.norm,
        "eps": threat.eps,
        "classes": list(experiment.dataset.classes),
        "data": experiment.dataset.name,
        "split_sha256": experiment.dataset.sha256,
        "backbone": {"name": experiment.backbone.spec.name, "sha256": experiment.backbone.spec.sha256},
        "method": experiment.config.method,
        "images": listed,
    }
    write_json(folder / "manifest.json", manifest)
    return manifest


def _check_rounding(pictures: EvalSet, batch_size: int, threat: Threat) -> None:
    """UsageError where rounding a clean picture, whose pixels lie between grey levels after a resize, leaves the l2 ball."""
    moved = 0.0
    for batch in pictures.batches(batch_size):
        moved = max(moved, float(norm((batch.images * 255).round() / 255 - batch.images, threat.norm).max()))
    if moved > threat.eps:
        radius = format_eps(threat.eps, threat.norm)
        raise UsageError(f"8-bit pictures cannot hold an l2 radius of {radius} here: rounding alone moves one by {moved:.4g}")
