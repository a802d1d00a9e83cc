"""Several defences as one: adaptations merged, loss terms summed."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import reduce
from typing import Any

from torch import Tensor, nn

from ironclip.core.merging import merge
from ironclip.core.schedule import Schedule
from ironclip.core.types import Adaptation, Attack, Backbone, Batch, Classifier, Defense


class Stack(Defense):
    """A defence made of several, each trained through their joint classifier.

    Args:
        parts: name -> defence, in the order in which their edits apply.
    """

    def __init__(self, parts: Mapping[str, Defense]) -> None:
        super().__init__()
        self.parts = nn.ModuleDict(parts)
        self.divisible = all(part.divisible for part in parts.values())  # type: ignore[misc]
        self.notes = tuple(f"{name}: {note}" for name, part in parts.items() for note in part.notes)

    def _each(self) -> list[tuple[str, Any]]:
        return list(self.parts.items())

    def adaptation(self, backbone: Backbone, classes: Sequence[str]) -> Adaptation:
        return reduce(merge, (part.adaptation(backbone, classes) for _, part in self._each()))

    def loss(
        self, backbone: Backbone, batch: Batch, attack: Attack, *, adaptation: Adaptation | None = None
    ) -> dict[str, Tensor]:
        whole = adaptation or self.adaptation(backbone, batch.classes)
        return {
            f"{name}.{term}": value
            for name, part in self._each()
            for term, value in part.loss(backbone, batch, attack, adaptation=whole).items()
        }

    def prepare(self, backbone: Backbone, batches: Iterable[Batch]) -> None:
        kept = list(batches) if isinstance(batches, Iterator) else batches  # every part reads all of them
        for _, part in self._each():
            part.prepare(backbone, kept)

    def diagnostics(self) -> dict[str, float]:
        return {f"{name}.{key}": value for name, part in self._each() for key, value in part.diagnostics().items()}

    def surrogates(self, classifier: Classifier) -> tuple[Classifier, ...]:
        return tuple(other for _, part in self._each() for other in part.surrogates(classifier))

    def learned(self) -> dict[str, Tensor]:
        return {f"parts.{name}.{key}": value for name, part in self._each() for key, value in part.learned().items()}

    def load_learned(self, tensors: Mapping[str, Tensor]) -> None:
        known = tuple(f"parts.{name}." for name, _ in self._each())
        if strange := [key for key in tensors if not key.startswith(known)]:
            raise RuntimeError(f"tensors of no part of this stack: {', '.join(strange[:3])}")
        for name, part in self._each():
            own = f"parts.{name}."
            part.load_learned({key.removeprefix(own): value for key, value in tensors.items() if key.startswith(own)})

    def passes(self, schedule: Schedule, steps: int) -> int:
        return max(part.passes(schedule, steps) for _, part in self._each())

    def parameter_groups(self, lr: float) -> list[dict[str, Any]]:
        return [group for _, part in self._each() for group in part.parameter_groups(lr)]
