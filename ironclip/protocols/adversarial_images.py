"""Adversarial pictures as files: lossless, inside the radius after rounding, with a manifest."""

import hashlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from PIL import Image

from ironclip import attacks
from ironclip.data import EvalSet
from ironclip.errors import UsageError
from ironclip.files import write_json, write_whole
from ironclip.protocols.experiment import Experiment
from ironclip.scoring import quantised
from ironclip.tensors import evaluating, frozen
from ironclip.threat import Threat
from ironclip.types import Attack


def write_adversarial(
    experiment: Experiment,
    attack: Attack,
    eps: float,
    folder: Path,
    *,
    split: str = "test",
    limit: int | None = None,
    batch_size: int = 64,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> dict[str, Any]:
    """The manifest of the pictures written: file, sha256, label, predictions before and after rounding, largest distance.

    Raises:
        UsageError: the folder holds other files, or an l-infinity radius below one grey level.
    """
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise UsageError(f"{folder} is not an empty folder; choose another --save")
    if 0 < eps * 255 < 1 - 1e-6:
        raise UsageError(f"8-bit pictures cannot hold a radius below 1/255; got {eps * 255:.3g}/255")
    threat = Threat(eps=eps, quantised=True)
    classifier = experiment.classifier
    device = experiment.backbone.device
    pictures = EvalSet(experiment.dataset, split, resolution=experiment.backbone.spec.resolution, limit=limit)
    listed: list[dict[str, Any]] = []
    with frozen(classifier), evaluating(classifier):
        for batch in pictures.batches(batch_size):
            images, labels = batch.images.to(device), batch.labels.to(device)
            adv = attack(classifier, images, labels, indices=batch.indices)
            levels = (quantised(adv, images, threat, "round") * 255).round().to(torch.uint8)
            with torch.no_grad():
                before, exact = classifier(images).argmax(1), classifier(adv).argmax(1)
                after = classifier(levels.float() / 255).argmax(1)
            distance = (levels.float() / 255 - images).abs().flatten(1).amax(1)
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
        "eps": eps,
        "classes": list(experiment.dataset.classes),
        "data": experiment.dataset.name,
        "split_sha256": experiment.dataset.sha256,
        "backbone": {"name": experiment.backbone.spec.name, "sha256": experiment.backbone.spec.sha256},
        "method": experiment.config.method,
        "images": listed,
    }
    write_json(folder / "manifest.json", manifest)
    return manifest
