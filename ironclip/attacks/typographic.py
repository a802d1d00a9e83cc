"""Words painted on the image: names of wrong classes, in several places and colors; needs scores and class names only.

Source: Goh et al. 2021, "Multimodal Neurons in Artificial Neural Networks" (Distill), who name the attack; the search over words,
places and colors and its constants are ours [inferred]. The words are painted by Pillow in its own font, so an image does not
depend on the fonts of a machine. The radius is the share of the image's area of the rectangle around the words.
"""

import math
import textwrap
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, ClassVar, get_args

import numpy as np
import torch
from torch import Tensor

from ironclip.attacks import inputs
from ironclip.attacks._goal import Best, Mode, clean_logits, ranked_targets, scores
from ironclip.attacks._options import AttackOptions
from ironclip.core.errors import DataError, UsageError
from ironclip.core.losses import margin_each
from ironclip.core.options import check_choice
from ironclip.core.threat import Norm
from ironclip.core.types import Images

PLACES = ((0.5, 0.5), (1.0, 0.5), (0.0, 0.5), (0.0, 0.0), (1.0, 1.0))
"""Places of the rectangle, as (down, across) shares of the free space: middle, bottom, top, two corners."""
LOOKS = ((1.0, 0.0), (0.0, 1.0), (1.0, None), (0.0, None))
"""Gray of the letters, and of the plate behind them; None: no plate."""
LONGEST, LINE = 60, 12  # letters of a name, and of a line
SIZE = 48  # of the letters as they are first painted, in pixels


@dataclass(frozen=True)
class Typographic(AttackOptions):
    """Images with the name of a wrong class on them: misclassified ones, else those with the largest margin.

    Args:
        eps: share of the area that the rectangle around the words may cover.
        targets: wrong classes whose names are tried: those that follow in the clean logits.
        mode: "compact": an image leaves once it is misclassified. "full": every image, every word.
        eval_mode: run a module in eval mode; False keeps the caller's mode.
        seed: unused; every attack has this option.
    """

    norms: ClassVar[tuple[str, ...]] = ("text",)
    gradients: ClassVar[bool] = False

    eps: float
    targets: int = 3
    norm: Norm = "text"
    mode: Mode = "compact"
    eval_mode: bool = True
    seed: int = 0

    def __post_init__(self) -> None:
        super().__post_init__()
        check_choice("mode", self.mode, get_args(Mode))
        if self.targets < 1:
            raise UsageError(f"targets is a number of class names to try, at least 1; got {self.targets}")

    @property
    def derived(self) -> dict[str, Any]:
        """Constants that follow from the options."""
        return {"queries": self.targets * len(PLACES) * len(LOOKS)}

    def perturb(self, function: Images, images: Tensor, labels: Tensor, positions: Tensor) -> Tensor:
        """See `AttackOptions.__call__`; images are [B, 3, H, W].

        Args:
            function: a classifier with `.classes`.

        Raises:
            UsageError: a function without class names, or a share too small for a word.
        """
        classes = getattr(function, "classes", None)
        if classes is None:
            raise UsageError("a typographic attack needs a classifier with class names; this function has no attribute classes")
        if images.ndim != 4:
            raise DataError(f"words need images [B, C, H, W]; got shape {tuple(images.shape)}")
        if self.eps == 0:
            return images
        with inputs.borrowed(function, self.eval_mode):
            outputs = clean_logits(function, images, labels, positions)
            best, everyone = Best(images, labels, False), torch.arange(len(images), device=images.device)
            best.offer(everyone, positions, images, outputs, margin_each(outputs, labels))
            for wrong in ranked_targets(outputs, labels, self.targets):
                for place in PLACES:
                    for look in LOOKS:
                        rows = everyone[~best.fooled] if self.mode == "compact" else everyone
                        if not len(rows):
                            return best.adv
                        words = [str(classes[target]) for target in wrong[rows].tolist()]
                        adv = torch.stack([paint(image, word, self.eps, place, look) for image, word in zip(images[rows], words)])
                        outputs = scores(function, adv)
                        best.offer(rows, positions[rows], adv, outputs, margin_each(outputs, labels[rows]))
        return best.adv


def paint(image: Tensor, words: str, eps: float, place: tuple[float, float], look: tuple[float, float | None]) -> Tensor:
    """The image [C, H, W] with the words on it, inside a rectangle of at most eps of its area.

    Raises:
        UsageError: the rectangle would have fewer than 16 pixels.
    """
    height, width = image.shape[-2:]
    if eps * height * width < 16:
        raise UsageError(f"a text on {eps:g} of {width} x {height} pixels is too small to be read; give a larger eps")
    mask = _letters(words)
    ratio = mask.shape[1] / mask.shape[0]
    tall = min(math.sqrt(eps * height * width / ratio), width / ratio, height)
    down, across = max(1, math.floor(tall + 1e-6)), max(1, min(math.floor(tall * ratio + 1e-6), width))
    sized = (
        torch.nn.functional.interpolate(
            torch.from_numpy(mask.copy())[None, None], (down, across), mode="bilinear", antialias=True, align_corners=False
        )[0, 0]
        .to(image)
        .clamp(0, 1)
    )
    top, left = (round(part * (whole - own)) for part, whole, own in zip(place, (height, width), (down, across)))
    ink, plate = look
    painted = image.clone()
    under = painted[:, top : top + down, left : left + across]
    behind = under if plate is None else torch.full_like(under, plate)
    painted[:, top : top + down, left : left + across] = behind * (1 - sized) + ink * sized
    return painted


@lru_cache(maxsize=2000)
def _letters(words: str) -> np.ndarray[Any, np.dtype[np.float32]]:
    """[h, w] in [0, 1]: the words, with a margin, 1 where there is ink."""
    from PIL import Image, ImageDraw, ImageFont

    text = textwrap.fill(" ".join(words.split())[:LONGEST] or "?", LINE)
    font = ImageFont.load_default(SIZE)
    left, top, right, bottom = ImageDraw.Draw(Image.new("L", (1, 1))).multiline_textbbox((0, 0), text, font=font, align="center")
    margin = SIZE // 8
    canvas = Image.new("L", (math.ceil(right - left) + 2 * margin, math.ceil(bottom - top) + 2 * margin))
    ImageDraw.Draw(canvas).multiline_text((margin - left, margin - top), text, fill=255, font=font, align="center")
    return np.asarray(canvas, dtype=np.float32) / np.float32(255)


ATTACK = Typographic
