"""Labels and probabilities for pictures from the disk."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch

from ironclip.backbones import ClipBackbone, assemble, load
from ironclip.core.errors import DataError, UsageError
from ironclip.core.types import Classifier, TestTime
from ironclip.data import BadPicture, decode, fit
from ironclip.data.sampling import spread
from ironclip.data.walk import pictures
from ironclip.protocols.few_shot import open_run


@dataclass(frozen=True)
class Prediction:
    """The most probable classes of one picture with their probabilities, best first."""

    name: str
    ranked: tuple[tuple[str, float], ...]


def classifier_of(
    model: Path | None,
    backbone: str,
    weights: Path | None,
    classes: Sequence[str],
    device: str,
    test_time: TestTime | None = None,
) -> Classifier:
    """The classifier of a run, or zero-shot classification among these names; with a test-time method on top if one is given."""
    if model is not None:
        experiment = open_run(model, device=device)[1]
        if test_time is None:
            return experiment.classifier
        if experiment.test_time is not None:
            raise UsageError(f"{experiment.config.method} holds a test-time method already; leave out --test-time")
        return replace(experiment, test_time=test_time).classifier
    with torch.no_grad():
        base = assemble(load(backbone, weights=weights, device=device), classes)
    return base if test_time is None else test_time(base)


def predict(
    classifier: Classifier,
    paths: Sequence[Path],
    *,
    top: int = 3,
    limit: int | None = None,
    batch_size: int = 64,
    progress: Callable[[int, int], None] = lambda done, total: None,
    observe: Callable[[Sequence[Prediction], torch.Tensor], None] | None = None,
) -> tuple[list[Prediction], list[tuple[str, str]]]:
    """(predictions, pictures that cannot be read with the reason).

    Args:
        limit: pictures to take, folders in proportion, as a folder for each class wants it.
        observe: gets the predictions of each batch and its images [B, 3, S, S], on the classifier's device.

    Raises:
        DataError: a path that is not there, or no picture at all.
    """
    files: list[Path] = []
    for path in paths:
        if not path.exists():
            raise DataError(f"{path}: no such file or folder")
        files += pictures(path) if path.is_dir() else [path]
    number = {folder: k for k, folder in enumerate(sorted({file.parent for file in files}))}
    files = [files[k] for k in spread([number[file.parent] for file in files], limit)]
    if not files:
        raise DataError(f"found no picture in {', '.join(map(str, paths))}; expected .jpg, .png, .webp or similar files")
    side, device = _input(classifier)
    rows: list[Prediction] = []
    bad: list[tuple[str, str]] = []
    for start in range(0, len(files), batch_size):
        names, images = [], []
        for file in files[start : start + batch_size]:
            try:
                images.append(np.asarray(fit(decode(file), side)))
                names.append(str(file))
            except BadPicture as problem:
                bad.append((problem.name, problem.reason))
        if images:
            batch = torch.from_numpy(np.stack(images)).permute(0, 3, 1, 2).float().div(255)
            batch = batch.to(device)
            with torch.no_grad():
                probabilities = classifier(batch).softmax(1).cpu()
            best = probabilities.topk(min(top, probabilities.shape[1]), dim=1)
            for name, values, labels in zip(names, best.values.tolist(), best.indices.tolist(), strict=True):
                rows.append(Prediction(name, tuple((classifier.classes[k], v) for k, v in zip(labels, values, strict=True))))
            if observe is not None:
                observe(rows[-len(names) :], batch)
        progress(min(start + batch_size, len(files)), len(files))
    return rows, bad


def _input(classifier: Classifier) -> tuple[int, torch.device]:
    """Side in pixels of the images that a classifier takes, and the device on which it wants them."""
    backbone: ClipBackbone | None = getattr(classifier, "backbone", None)
    if backbone is None:  # a file that was exported
        return classifier.resolution, classifier.device  # type: ignore[attr-defined]
    return backbone.spec.resolution, backbone.device
