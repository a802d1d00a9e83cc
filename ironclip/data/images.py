"""Any image file as an RGB image of 8 bits, or an error with its name and the reason.

CMYK, grey, 16-bit grey (65535 is white) and palette images are converted; transparency lies on white, as a browser
shows it; of an animation the first frame counts; the EXIF orientation is applied. Needs no torch.
"""

import io
import logging
import threading
import warnings
import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Literal, TypeVar

import numpy as np
from PIL import Image

from ironclip.core.errors import DataError, UsageError, unknown
from ironclip.data.budget import MEMORY, SMALL, cost
from ironclip.data.kinds import HEAD, has_heif, what_it_is
from ironclip.data.records import FileSource, Source, ZipSource
from ironclip.data.salvage import without_metadata
from ironclip.data.tars import TarSource

T = TypeVar("T")
MAX_PIXELS = 100_000_000
BARE_BYTES = 300_000_000  # larger files are not read a second time
ORIENTATION = 274
TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
Preprocess = Literal["crop", "squash"]
STORED = (FileSource, ZipSource, TarSource)
"""Sources that know their bytes."""
_header_lock = threading.Lock()

# What Pillow logs about damaged images stands in our reason; without a handler Python would print it, too.
logging.getLogger("PIL").addHandler(logging.NullHandler())

# Pillow's own blocks of 16 MB stay in the heap of the thread that freed them, 7 GB after sixteen images of 81 million pixels on
# sixteen threads; blocks above 32 MB go back to the system at once.
Image.core.set_block_size(64 * 1024 * 1024)


class BadPicture(DataError):
    """An image that cannot be used; `name` says which, `reason` why."""

    def __init__(self, name: str, reason: str) -> None:
        super().__init__(f"{name}: {reason}")
        self.name = name
        self.reason = reason


@dataclass(frozen=True)
class Bad:
    """One line of a report about images that cannot be used."""

    name: str
    reason: str


def decode(source: Source | Path | str, *, max_pixels: int = MAX_PIXELS) -> Image.Image:
    """The image as RGB, upright.

    Args:
        max_pixels: larger images are refused from their header, before memory is taken.

    Raises:
        BadPicture: truncated, unreadable, missing, too large, or of a kind with no fixed brightness scale (float pixels).
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return decode_quietly(source, max_pixels)


def decode_quietly(source: Source | Path | str, max_pixels: int = MAX_PIXELS) -> Image.Image:
    """`decode` for worker threads: the caller has silenced warnings, which no thread can do for itself alone."""
    return decode_into(source, lambda image: image, max_pixels)


def decode_into(source: Source | Path | str, use: Callable[[Image.Image], T], max_pixels: int = MAX_PIXELS) -> T:
    """Call use(the image as RGB, upright) within the memory limit of all threads; errors as in `decode`.

    Threads take what they need from each image inside `use`, so that no large image outlives its reserved memory.
    """
    if isinstance(source, str | Path):
        source = FileSource(Path(), str(source))
    held = stored_bytes(source) + SMALL
    while True:
        with MEMORY.take(held):
            found = _attempt(source, use, max_pixels, held)
            if not isinstance(found, _Larger):
                return found
        held = found.bytes


@dataclass(frozen=True)
class _Larger:
    """An image that needs more memory than was reserved."""

    bytes: int


def _attempt(source: Source, use: Callable[[Image.Image], T], max_pixels: int, held: int) -> T | _Larger:
    try:
        rgb = _read(source, max_pixels, held)
    except DataError:
        raise
    except FileNotFoundError:
        raise BadPicture(source.name, "no such file") from None
    except KeyError as problem:
        raise BadPicture(source.name, f"not in the archive: {problem}") from None
    except Exception as problem:  # decoders raise almost anything on damaged bytes, and a run must not end there
        try:
            rgb = _bare(source, max_pixels, held)
        except DataError:
            raise
        except Exception:
            raise BadPicture(source.name, _reason(problem, source)) from problem
    return rgb if isinstance(rgb, _Larger) else use(rgb)


def _read(source: Source, max_pixels: int, held: int) -> Image.Image | _Larger:
    with _opened(source.open) as image:
        return _upright(image, source, max_pixels, held)


def _bare(source: Source, max_pixels: int, held: int) -> Image.Image | _Larger:
    """The image opened again without its metadata, which may be damaged."""
    bare = None
    if isinstance(source, STORED) and source.size() <= BARE_BYTES:
        bare = without_metadata(source.content(BARE_BYTES))
    if bare is None:
        raise ValueError("the same bytes would fail again")
    with _opened(lambda: Image.open(io.BytesIO(bare))) as image:
        return _upright(image, source, max_pixels, held)


def _upright(image: Image.Image, source: Source, max_pixels: int, held: int) -> Image.Image | _Larger:
    width, height = image.size
    if width * height > max_pixels:
        raise BadPicture(
            source.name,
            f"{width} x {height} pixels are more than the limit of {max_pixels / 1e6:g} million; make it smaller",
        )
    needed = stored_bytes(source) + cost(width, height, image.mode)
    if needed > held:
        return _Larger(needed)
    image.load()
    turn = TURNS.get(_orientation(image))
    rgb = _rgb(image, source.name)
    return rgb if turn is None else rgb.transpose(turn)


def stored_bytes(source: Source) -> int:
    """The size of an image as it is stored, as far as that is known without opening it."""
    try:
        return source.size() if isinstance(source, STORED) else 0
    except (OSError, KeyError, ValueError, zipfile.BadZipFile):
        return 0  # opening it says what is wrong


@lru_cache(maxsize=1)
def _learn_heif() -> None:
    """Let PIL read the images of Apple's phones, where the library for that is installed."""
    if has_heif():
        import pillow_heif

        pillow_heif.register_heif_opener()


def _orientation(image: Image.Image) -> int:
    """The EXIF orientation; 1 where the EXIF block is damaged."""
    try:
        found = image.getexif().get(ORIENTATION, 1)
        return found if isinstance(found, int) else 1
    except Exception:
        return 1


def _opened(opener: Callable[[], Image.Image]) -> Image.Image:
    """The image with its header read. PIL's own global size limit, which warns, is off meanwhile; ours applies."""
    _learn_heif()
    with _header_lock:
        limit = Image.MAX_IMAGE_PIXELS
        Image.MAX_IMAGE_PIXELS = None
        try:
            return opener()
        finally:
            Image.MAX_IMAGE_PIXELS = limit


def _reason(problem: Exception, source: Source) -> str:
    text = " ".join(str(problem).split()) or type(problem).__name__
    if "cannot identify" in text or isinstance(problem, EOFError):
        head = source.content(HEAD) if isinstance(source, STORED) else b"?"
        return what_it_is(head) or "not an image, or of an unknown format"
    return f"damaged: {text}" if "truncated" in text or "broken" in text else f"unreadable: {text}"


def _rgb(image: Image.Image, name: str) -> Image.Image:
    if image.mode == "F":
        raise BadPicture(name, "floating-point pixels have no fixed white; save it with 8 or 16 bits")
    if image.mode.startswith("I"):  # PIL would clip 16 bits at 255
        values = np.asarray(image).astype(np.int64)
        if values.min() < 0 or values.max() > 65535:
            raise BadPicture(name, f"grey values from {values.min()} to {values.max()} exceed 16 bits; save it with 8 or 16 bits")
        image = Image.fromarray(((values + 128) // 257).astype(np.uint8))
    if image.mode == "P" or "transparency" in image.info or image.mode in ("RGBA", "LA", "PA", "RGBa", "La"):
        image = image.convert("RGBA")
        paper = Image.new("RGBA", image.size, "white")
        return Image.alpha_composite(paper, image).convert("RGB")
    rgb = image.convert("RGB")
    rgb.load()
    return rgb


def fit(image: Image.Image, resolution: int, preprocess: Preprocess = "crop") -> Image.Image:
    """The image as resolution x resolution pixels, as models are tested on.

    `crop`: shorter side to the resolution (bicubic, antialiased), centre crop: the few-shot default of CoOp and APT.
    `squash`: both sides to the resolution whatever the shape: the FAP family. Images more than 32 times as long as wide
    lose their ends first, which keeps a strip of 1 x 20000 pixels from becoming enormous.
    """
    if resolution < 1:
        raise UsageError(f"resolution is a number of pixels, at least 1; got {resolution}")
    if preprocess == "squash":
        return image.resize((resolution, resolution), Image.Resampling.BICUBIC)
    if preprocess != "crop":
        raise unknown("preprocessing", preprocess, ("crop", "squash"))
    short = min(image.size)
    if max(image.size) > 32 * short:
        image = _center(image, min(image.width, 32 * short), min(image.height, 32 * short))
    width, height = (int(resolution * side / short) for side in image.size)
    return _center(image.resize((width, height), Image.Resampling.BICUBIC), resolution, resolution)


def _center(image: Image.Image, width: int, height: int) -> Image.Image:
    left, top = round((image.width - width) / 2), round((image.height - height) / 2)
    return image.crop((left, top, left + width, top + height))


def bound(image: Image.Image, short_side: int | None) -> Image.Image:
    """The image, made smaller (bicubic, antialiased) if its shorter side exceeds `short_side`."""
    short = min(image.size)
    if short_side is None or short <= short_side:
        return image
    width, height = (max(round(side * short_side / short), 1) for side in image.size)
    return image.resize((width, height), Image.Resampling.BICUBIC)
