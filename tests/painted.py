"""Data sets of images that exist only in a test."""

from PIL import Image

from ironclip.data.records import Dataset, Item


class Painted:
    """An image that exists only in a test: one grey value, 4 x 4 pixels."""

    def __init__(self, name: str, value: int = 0) -> None:
        self.name, self.value = name, value

    def open(self) -> Image.Image:
        return Image.new("RGB", (4, 4), (self.value,) * 3)

    def stamp(self) -> str:
        return str(self.value)


def listed(labels: dict[str, list[int]], classes: int | None = None) -> Dataset:
    """A set of painted images with these labels in each split."""
    count = classes or 1 + max(label for found in labels.values() for label in found)
    splits = {
        split: tuple(Item(Painted(f"{split}/{k}.png", k % 256), label, k) for k, label in enumerate(found))
        for split, found in labels.items()
    }
    return Dataset("toy", tuple(f"class{chr(97 + k)}" for k in range(count)), ("a {}",), splits, "test")
