"""The generated set `shapes` as a data set: `shapes`, `shapes:sketch`, `shapes:night:224` (style and pixels per side)."""

from dataclasses import dataclass
from functools import lru_cache

from PIL import Image

from ironclip.core.errors import unknown
from ironclip.data import shapes
from ironclip.data.records import SPLITS, Dataset, enumerate_items


@dataclass(frozen=True)
class ShapeSource:
    """An image drawn when it is opened."""

    split: str
    position: int
    style: str = "plain"
    size: int = 64

    @property
    def name(self) -> str:
        return f"{self.style}/{self.split}/{self.position:05d}"

    def open(self) -> Image.Image:
        return shapes.draw(self.split, self.position, style=self.style, size=self.size)[0]

    def stamp(self) -> str:
        return f"{self.size}"

    @property
    def caption(self) -> str:
        return shapes.caption(self.split, self.position, style=self.style)


@lru_cache(maxsize=8)
def open_shapes(variant: str, templates: tuple[str, ...]) -> Dataset:
    """The set in one style, drawn at 64 or the given pixels per side.

    Raises:
        UsageError: no such style.
    """
    style, size = "plain", 64
    for part in filter(None, variant.split(":")):
        if part.isdecimal():
            size = int(part)
        elif part in shapes.STYLES:
            style = part
        else:
            raise unknown("style of shapes", part, shapes.STYLES)
    splits = {
        split: enumerate_items(
            [(ShapeSource(split, k, style, size), k % len(shapes.CLASSES)) for k in range(shapes.SPLITS[split])]
        )
        for split in SPLITS
    }
    name = "shapes" if style == "plain" else f"shapes-{style}"
    return Dataset(name=name, classes=shapes.CLASSES, templates=templates, splits=splits, origin=f"generated, {size} px")
