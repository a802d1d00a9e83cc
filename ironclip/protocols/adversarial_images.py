"""Adversarial images as files: lossless, inside the radius after rounding, with a manifest."""

import hashlib
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from PIL import Image

from ironclip import attacks
from ironclip.core.errors import UsageError
from ironclip.core.files import write_json, write_whole
from ironclip.core.memory import over
from ironclip.core.permits import check, full
from ironclip.core.tensors import evaluating, frozen, norm
from ironclip.core.texts import json_value, plain_bytes
from ironclip.core.threat import Threat, format_eps
from ironclip.core.types import Attack, Batch, Classifier
from ironclip.data import EvalSet
from ironclip.loops.draws import drawn_for
from ironclip.loops.scoring import check_budget, quantised
from ironclip.protocols.distinct import check_distinct
from ironclip.protocols.experiment import Experiment
from ironclip.records.folder import WAIT, EvaluationFolder
from ironclip.records.learned import fingerprint
from ironclip.records.lock import locked
from ironclip.records.shards import Part, agree, missing, shards, take, versions
from ironclip.records.share import Shard, Share

MANIFEST = "manifest.json"
BATCH = 64


def write_adversarial(
    experiment: Experiment,
    attack: Attack,
    threat: Threat,
    folder: Path,
    *,
    split: str = "test",
    limit: int | None = None,
    batch_size: int | None = None,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> dict[str, Any]:
    """The manifest of the images written: file, sha256, label, predictions before and after rounding, distance from the clean
    image in the norm of the threat.

    Args:
        threat: norm and radius, which hold after rounding to 8 bits.
        batch_size: images at once, taken or refused; None: 64, or as many of them as the memory of the device holds.

    Raises:
        UsageError: the folder holds other files, an attack that the threat does not permit, or a radius that 8-bit images
            cannot hold: below one grey level, or for l2 below what rounding alone moves one of the clean images.
    """
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise UsageError(f"{folder} is not an empty folder; choose another --save")
    writer = _writer(experiment, attack, threat, folder, split, limit, batch_size)
    rows = Shard(1, 1).rows(len(writer.pictures), batch_size or BATCH)
    return writer.manifest(writer.written(rows, progress), folder)


def write_shards(
    experiment: Experiment,
    attack: Attack,
    threat: Threat,
    folder: Path,
    share: Share,
    *,
    split: str = "test",
    limit: int | None = None,
    batch_size: int | None = None,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> tuple[dict[str, Any] | None, tuple[Shard, ...]]:
    """(the manifest of all images where every shard is finished, else None; the shards that are not), after those of this
    share were done. A shard lists its images in `shards/k-of-n/manifest.json`; the images lie in the folder itself.

    Raises:
        UsageError, RunError, RunBusy: as of `write_adversarial` and `records.shards.take`.
    """
    place = EvaluationFolder(folder)
    if folder.exists() and not (folder / "shards").is_dir() and (not folder.is_dir() or any(map(_visible, folder.iterdir()))):
        raise UsageError(f"{folder} holds other files than shards; choose another --save")
    writer = _writer(experiment, attack, threat, folder, split, limit, batch_size)
    total = len(writer.pictures)

    def write(shard: Shard, folders: Sequence[EvaluationFolder]) -> None:
        writer.manifest(writer.written(shard.rows(total, size), progress), folders[0].path)

    hold = partial(locked, folder, WAIT)
    same = {"setup": {"learned_sha256": fingerprint(experiment.defense.learned())}, "versions": versions()}
    size = batch_size or BATCH
    facts = writer.facts | {"pictures": total, "shard": {"batch_size": size, **same}}
    take(hold, [Part(place, facts)], share, math.ceil(total / size), write, result=MANIFEST)
    if left := missing(place, MANIFEST):
        return None, left
    with hold():
        agree(facts, shards(place))
        lists = [json_value(plain_bytes(shard.path / MANIFEST))["images"] for shard in shards(place)]
        return writer.manifest([entry for each in lists for entry in each], folder), ()


@dataclass(frozen=True)
class _Writer:
    """Writes the adversarial images of some rows into a folder."""

    attack: Attack
    classifier: Classifier
    pictures: EvalSet
    threat: Threat
    folder: Path
    device: torch.device
    facts: dict[str, Any]
    exact: bool

    def written(self, rows: Sequence[range], progress: Callable[[int, int], None]) -> list[dict[str, Any]]:
        """The manifest's entries of these images, each range a batch."""
        listed: list[dict[str, Any]] = []
        batches = (self.pictures.batch(slice(part.start, part.stop)) for part in rows)
        with frozen(self.classifier), evaluating(self.classifier):
            for entries in over(batches, self._batch, self.device, exact=self.exact):
                listed += entries
                progress(len(listed), sum(map(len, rows)))
        return listed

    def _batch(self, batch: Batch) -> list[dict[str, Any]]:
        with drawn_for(batch.indices.tolist()):
            return self._drawn(batch)

    def _drawn(self, batch: Batch) -> list[dict[str, Any]]:
        images, labels = batch.images.to(self.device), batch.labels.to(self.device)
        adv = self.attack(self.classifier, images, labels, indices=batch.indices)
        levels = (quantised(adv, images, self.threat, "round") * 255).round().to(torch.uint8)
        with torch.no_grad():
            before, exact = self.classifier(images).argmax(1), self.classifier(adv).argmax(1)
            after = self.classifier(levels.float() / 255).argmax(1)
        distance = check_budget("of the images", levels.float() / 255, images, batch.indices, self.threat)
        listed = []
        for row, index in enumerate(batch.indices.tolist()):
            file = self.folder / f"{index:06d}.png"
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
        return listed

    def manifest(self, listed: Sequence[dict[str, Any]], folder: Path) -> dict[str, Any]:
        """What was written, in the order of the images; kept in a folder."""
        found = self.facts | {"images": sorted(listed, key=lambda entry: int(entry["index"]))}
        write_json(folder / MANIFEST, found)
        return found


def _writer(
    experiment: Experiment, attack: Attack, threat: Threat, folder: Path, split: str, limit: int | None, batch_size: int | None
) -> _Writer:
    threat = replace(threat, quantised=True)
    check(attack, threat)
    attack = full(attack)
    check_distinct(experiment.backbone, experiment.dataset)
    pictures = EvalSet(experiment.dataset, split, resolution=experiment.backbone.spec.resolution, limit=limit)
    if threat.norm != "linf":
        _check_rounding(pictures, threat)
    facts = {
        "attack": attacks.describe(attack),
        "norm": threat.norm,
        "eps": threat.eps,
        "classes": list(experiment.dataset.classes),
        "data": experiment.dataset.name,
        "split_sha256": experiment.dataset.sha256,
        "backbone": {"name": experiment.backbone.spec.name, "sha256": experiment.backbone.spec.sha256},
        "method": experiment.config.method,
    }
    device, exact = experiment.backbone.device, batch_size is not None
    return _Writer(attack, experiment.classifier, pictures, threat, folder, device, facts, exact)


def _visible(path: Path) -> bool:
    return not path.name.startswith(".")


def _check_rounding(pictures: EvalSet, threat: Threat) -> None:
    """UsageError where rounding a clean image, whose pixels lie between grey levels after a resize, leaves the ball."""
    moved = 0.0
    for batch in pictures.batches(BATCH):
        moved = max(moved, float(norm((batch.images * 255).round() / 255 - batch.images, threat.norm).max()))
    if moved > threat.eps:
        radius = format_eps(threat.eps, threat.norm)
        raise UsageError(
            f"8-bit images cannot hold the {threat.norm} radius {radius} here: rounding alone moves one by {moved:.4g}"
        )
