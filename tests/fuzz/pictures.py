"""Damaged images: bytes changed at random are an image, or a named refusal of one line; nothing else, and soon."""

import io
import random
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from damaged import damaged
from PIL import Image

from ironclip.data.images import BadPicture, decode

KINDS = ("PNG", "JPEG", "GIF", "WEBP", "BMP", "TIFF", "PPM", "TGA", "ICO")
SLOW = 10.0  # seconds for one small image


@dataclass(frozen=True)
class Bytes:
    """An image in memory; a `Source` of `ironclip.data`."""

    name: str
    data: bytes

    def open(self) -> Image.Image:
        return Image.open(io.BytesIO(self.data))

    def stamp(self) -> str:
        return str(len(self.data))


def sound() -> dict[str, bytes]:
    """One small image of every kind."""
    picture = Image.fromarray(np.random.default_rng(0).integers(0, 256, (24, 32, 3), dtype=np.uint8))
    found = {}
    for kind in KINDS:
        held = io.BytesIO()
        picture.save(held, kind)
        found[kind] = held.getvalue()
    return found


def mutated(seed: int, count: int) -> Iterator[Bytes]:
    """Images with one to four changes each, always the same for a seed."""
    draw, whole = random.Random(seed), sound()
    for number in range(count):
        kind = draw.choice(KINDS)
        data = whole[kind]
        for _ in range(draw.randint(1, 4)):
            data = damaged(data, f"{number}.bin", draw)
        yield Bytes(f"{number}.{kind.lower()}", data)


def failures(seed: int, count: int) -> tuple[Counter[str], Counter[str]]:
    """(how many were read and how many refused, what went wrong)."""
    ends, wrong = Counter[str](), Counter[str]()
    for picture in mutated(seed, count):
        start = time.monotonic()
        try:
            decode(picture, max_pixels=1_000_000).load()
            ends["read"] += 1
        except BadPicture as refusal:
            ends["refused"] += 1
            if len(str(refusal).splitlines()) != 1:
                wrong[f"{picture.name}: more than one line: {refusal}"] += 1
        except Exception as error:
            wrong[f"{picture.name}: {type(error).__name__}: {error!s:.80}"] += 1
        if time.monotonic() - start > SLOW:
            wrong[f"{picture.name}: took {time.monotonic() - start:.0f} s"] += 1
    return ends, wrong
