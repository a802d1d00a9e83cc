"""Labelled images as one self-contained HTML page: predictions, attention, and the views a test-time method kept."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from ironclip.protocols.explain import Explained
from ironclip.report.pictures import data_uri, side
from ironclip.report.tables import percent
from ironclip.report.templating import render

THUMBNAIL = 112  # pixels of the side of a view
DIM = 0.2  # what is left of a pixel that is not looked at


@dataclass(frozen=True)
class Photo:
    """An image ready for the page; `images` are (data URI, caption, alternative text), `views` (data URI, weight, tuned)."""

    name: str
    ranked: tuple[tuple[str, float], ...]
    images: tuple[tuple[str, str, str], ...]
    views: tuple[tuple[str, float, bool], ...]
    drawn: int
    pixelated: bool

    @property
    def shown(self) -> float:
        """Weight of the views that are shown."""
        return sum(weight for _, weight, _ in self.views)


def photo(found: Explained) -> Photo:
    """The images of one prediction as data URIs."""
    name = found.prediction.name
    images = [(data_uri(found.picture), "as the model sees it", f"the image {name}")]
    if found.attention is not None:
        lit = spotlight(found.picture, found.attention)
        images.append((data_uri(lit), "where it looks", f"the same image, dark where the model does not look: {name}"))
    views = tuple((data_uri(shrunk(view.picture)), view.weight, view.tuned) for view in found.views)
    return Photo(name, found.prediction.ranked, tuple(images), views, found.drawn, side(found.picture) < 128)


def photos_page(photos: Sequence[Photo], *, title: str = "Labelled images", notes: Sequence[str] = ()) -> str:
    """The whole page; the caller writes it.

    Args:
        notes: sentences under the heading: which model, which method, what was left out.
    """
    return render(
        "photos.html.j2",
        {"percent": percent},
        title=title,
        notes=notes,
        photos=photos,
        attended=any(len(each.images) > 1 for each in photos),
        viewed=any(each.views for each in photos),
        tuned=any(tuned for each in photos for _, _, tuned in each.views),
    )


def spotlight(picture: Any, attention: Any) -> Any:
    """The image [3, S, S], dark where the map [G, G] in [0, 1] is low; by its square root, for maps are peaked."""
    from PIL import Image

    size = np.shape(picture)[-1], np.shape(picture)[-2]
    levels = Image.fromarray((np.sqrt(np.asarray(attention, dtype=np.float64).clip(0, 1)) * 255).round().astype(np.uint8))
    grown = np.asarray(levels.resize(size, Image.Resampling.BILINEAR), dtype=np.float64) / 255
    return np.asarray(picture) * (DIM + (1 - DIM) * grown)


def shrunk(picture: Any) -> Any:
    """The image [3, S, S], at most `THUMBNAIL` pixels per side."""
    from PIL import Image

    if side(picture) <= THUMBNAIL:
        return picture
    levels = (np.asarray(picture).clip(0, 1) * 255).round().astype(np.uint8).transpose(1, 2, 0)
    small = Image.fromarray(levels).resize((THUMBNAIL, THUMBNAIL), Image.Resampling.BICUBIC)
    return np.asarray(small).transpose(2, 0, 1) / 255
