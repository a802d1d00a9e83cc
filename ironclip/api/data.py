"""A data set as Python hands it on: with the number of shots and the seed that draws them."""

from dataclasses import dataclass

from ironclip.core.display import facts_html, listed
from ironclip.core.shown import number_of
from ironclip.core.types import Batch
from ironclip.data import Dataset, EvalSet


@dataclass(frozen=True, repr=False)
class Data:
    """A data set with how many images per class are learned from, and the seed that draws them.

    Args:
        name: as it was asked for, so that a run can open it again.
        shots: None: all training images.
    """

    name: str
    dataset: Dataset
    shots: int | None = 16
    seed: int = 1
    classes_file: str | None = None
    layout: str = "auto"

    @property
    def classes(self) -> tuple[str, ...]:
        return self.dataset.classes

    def batch(self, split: str = "test", limit: int | None = None, *, resolution: int) -> Batch:
        """Images of a split as images [B, 3, R, R] in [0, 1] with their labels, classes in proportion."""
        return EvalSet(self.dataset, split, resolution=resolution, limit=limit).batch(slice(None))

    def __str__(self) -> str:
        return f"{self.dataset}, {'all' if self.shots is None else number_of(self.shots, 'shot')}, seed {self.seed}"

    def __repr__(self) -> str:
        return f"Data({self})"

    def _repr_html_(self) -> str:
        splits = ", ".join(f"{len(items)} {split}" for split, items in self.dataset.splits.items())
        facts = {"classes": listed(self.classes), "images": splits, "from": self.dataset.origin}
        facts |= {"shots": "all" if self.shots is None else str(self.shots), "seed": str(self.seed)}
        return facts_html(f"Data: {self.dataset.name}", facts | {"notes": "; ".join(self.dataset.notes)})
