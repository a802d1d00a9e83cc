"""Labels and probabilities for images from the disk."""

import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path

import numpy as np
import torch

from ironclip.backbones import ClipBackbone, assemble, load
from ironclip.core.errors import DataError, UsageError
from ironclip.core.memory import Parts
from ironclip.core.types import Classifier, TestTime
from ironclip.data import Bad, BadPicture, decode, fit
from ironclip.data.sampling import spread
from ironclip.data.walk import pictures
from ironclip.protocols.few_shot import open_run
from ironclip.protocols.frozen import moved_weights


@dataclass(frozen=True)
class Prediction:
    """The most probable classes of one image with their probabilities, best first."""

    name: str
    ranked: tuple[tuple[str, float], ...]


def classifier_of(
    model: Path | None,
    backbone: str,
    frozen: Mapping[str, str],
    classes: Sequence[str],
    device: str,
    test_time: TestTime | None = None,
) -> Classifier:
    """The classifier of a run, or zero-shot classification among these names; with a test-time method on top if one is given."""
    if model is not None:
        experiment = open_run(model, device=device, weights=moved_weights(frozen))[1]
        if test_time is None:
            return experiment.classifier
        if experiment.test_time is not None:
            raise UsageError(f"{experiment.config.method} holds a test-time method already; leave out --test-time")
        return replace(experiment, test_time=test_time).classifier
    with torch.no_grad():
        base = assemble(load(backbone, device=device, **frozen), classes)
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
) -> tuple[list[Prediction], list[Bad]]:
    """(predictions, images that cannot be read with the reason).

    Args:
        limit: images to take, folders in proportion, as a folder for each class wants it.
        observe: gets the predictions of each batch and its images [B, 3, S, S], on the classifier's device.

    Raises:
        DataError: a path that is not there, or no image at all.
    """
    files = found(paths, limit)
    answers: list[Prediction | Bad] = []
    for batch in predictions(classifier, files, top=top, batch_size=batch_size, observe=observe):
        answers += batch
        progress(len(answers), len(files))
    return [each for each in answers if isinstance(each, Prediction)], [each for each in answers if isinstance(each, Bad)]


def found(paths: Sequence[Path], limit: int | None = None) -> list[Path]:
    """The images at these paths, folders read to their bottom; an image named twice is there once.

    Raises:
        DataError: a path that is not there, or no image at all.
    """
    files: list[Path] = []
    for path in paths:
        if not path.exists():
            raise DataError(f"{path}: no such file or folder")
        files += pictures(path) if path.is_dir() else [path]
    files = list(dict.fromkeys(files))
    number = {folder: k for k, folder in enumerate(sorted({file.parent for file in files}))}
    files = [files[k] for k in spread([number[file.parent] for file in files], limit)]
    if not files:
        raise DataError(f"found no image in {', '.join(map(str, paths))}; expected .jpg, .png, .webp or similar files")
    return files


def predictions(
    classifier: Classifier,
    files: Iterable[Path],
    *,
    top: int = 3,
    batch_size: int = 64,
    observe: Callable[[Sequence[Prediction], torch.Tensor], None] | None = None,
) -> Iterator[list[Prediction | Bad]]:
    """The same batch by batch, in the order of the files: no more than one batch is in memory."""
    side, device = input_of(classifier)
    waiting, parts = iter(files), Parts(device)
    while group := list(islice(waiting, batch_size)):
        images: dict[Path, np.ndarray] = {}
        answers: dict[Path, Prediction | Bad] = {}
        for file in group:
            try:
                images[file] = np.asarray(fit(decode(file), side))
            except BadPicture as problem:
                answers[file] = Bad(str(file), problem.reason)
        if images:
            batch = torch.from_numpy(np.stack(list(images.values()))).permute(0, 3, 1, 2).float().div(255).to(device)
            with torch.no_grad():
                probabilities = torch.cat(parts(lambda rows: classifier(batch[rows]).softmax(1).cpu(), len(batch)))  # noqa: B023
            best = probabilities.topk(min(top, probabilities.shape[1]), dim=1)
            rows = []
            for file, values, labels in zip(images, best.values.tolist(), best.indices.tolist(), strict=True):
                if not all(map(math.isfinite, values)):
                    answers[file] = Bad(str(file), "the model returned NaN or infinity for this image")
                    continue
                ranked = tuple((classifier.classes[k], value) for k, value in zip(labels, values, strict=True))
                rows.append(Prediction(str(file), ranked))
                answers[file] = rows[-1]
            if observe is not None and rows:
                observe(rows, batch[[isinstance(answers[file], Prediction) for file in images]])
        yield [answers[file] for file in group]


def input_of(classifier: Classifier) -> tuple[int, torch.device]:
    """Side in pixels of the images that a classifier takes, and the device on which it wants them."""
    backbone: ClipBackbone | None = getattr(classifier, "backbone", None)
    if backbone is None:  # a file that was exported
        return classifier.resolution, classifier.device  # type: ignore[attr-defined]
    return backbone.spec.resolution, backbone.device
