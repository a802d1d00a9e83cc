"""Accuracy under common corruptions: no attack, only clean accuracy on corrupted images; never a headline."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from ironclip.core.memory import over
from ironclip.core.tensors import evaluating, frozen
from ironclip.core.types import Batch, Classifier
from ironclip.data import Dataset, EvalSet
from ironclip.data.corruptions import CORRUPTIONS, SEVERITIES, corrupted
from ironclip.records.record import Proportion


@dataclass(frozen=True)
class CorruptionTable:
    """Accuracy without a corruption, and by kind at each severity."""

    clean: Proportion
    kinds: dict[str, tuple[Proportion, ...]]

    @property
    def mean(self) -> float:
        """Over all kinds and severities."""
        every = [part.value for parts in self.kinds.values() for part in parts]
        return sum(every) / len(every)


def corruption_table(
    classifier: Classifier,
    dataset: Dataset,
    *,
    resolution: int,
    split: str = "test",
    limit: int | None = None,
    batch_size: int = 50,
    seed: int = 0,
    device: str | torch.device = "cpu",
    kinds: Sequence[str] = tuple(CORRUPTIONS),
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> CorruptionTable:
    """The table of a classifier on one split.

    Args:
        resolution: of the classifier; images are corrupted at this size.
        progress: gets how many of the tables' cells are done.
    """
    pictures = EvalSet(dataset, split, resolution=resolution, limit=limit)

    def right(change: Callable[[Tensor, Tensor], Tensor]) -> Proportion:
        def counted(batch: Batch) -> int:
            images = change(batch.images, batch.indices).to(device)
            return int((classifier(images).argmax(1) == batch.labels.to(device)).sum())

        return Proportion.measured(sum(over(pictures.batches(batch_size), counted, device)), len(pictures))

    with torch.no_grad(), evaluating(classifier), frozen(classifier):
        clean, found = right(lambda images, indices: images), dict[str, tuple[Proportion, ...]]()
        for number, kind in enumerate(kinds):
            row = []
            for severity in SEVERITIES:
                row.append(right(lambda images, indices, k=kind, s=severity: _corrupted(images, indices, k, s, seed)))  # type: ignore[misc]
                progress(number * len(SEVERITIES) + severity, len(kinds) * len(SEVERITIES))
            found[kind] = tuple(row)
    return CorruptionTable(clean, found)


def _corrupted(images: Tensor, indices: Tensor, kind: str, severity: int, seed: int) -> Tensor:
    changed = [
        corrupted(image.permute(1, 2, 0).numpy(), kind, severity, index=index, seed=seed)
        for image, index in zip(images, indices.tolist(), strict=True)
    ]
    return torch.from_numpy(np.stack(changed)).permute(0, 3, 1, 2).to(images).contiguous()
