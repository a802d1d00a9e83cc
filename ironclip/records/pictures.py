"""A few images before and after an attack, for the report."""

from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path

from torch import Tensor

from ironclip.records.learned import load_state, save_state


@dataclass(frozen=True)
class Example:
    """clean and adversarial [3, H, W] in [0, 1] on the CPU, the predictions for both and their probabilities."""

    index: int
    label: int
    clean: Tensor
    adversarial: Tensor
    clean_prediction: int
    prediction: int
    attack: str
    clean_probability: float | None = None
    probability: float | None = None


def save_examples(path: Path, examples: Iterable[Example]) -> None:
    save_state(path, [asdict(example) for example in examples])


def load_examples(path: Path) -> list[Example]:
    """The images that were saved; none if there is no file."""
    return [Example(**fields) for fields in load_state(path)] if path.exists() else []
