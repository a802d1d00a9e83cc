"""The process that decodes: it turns a stranger's bytes into pixels of the model's size. It may be killed at any moment.

Started by `ironclip.serve.decoding` as `python -m ironclip.serve.decoder RESOLUTION MAX_PIXELS NICE`. It says "ready". On
its standard input come lines of JSON: {"files": [[name, bytes], ...]}, followed by the bytes, is answered with {"pixels":
[one number for each file]}; {"decode": k} with {"bytes": n} and the n bytes [R, R, 3] of that file, or with {"refused": [status,
text]}. Imports no torch.
"""

import io
import json
import os
import signal
import sys
import warnings
from dataclasses import dataclass
from typing import Any, BinaryIO

from PIL import Image

from ironclip.data.images import BadPicture, decode_quietly, fit

FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF")
"""Decoders that may see a stranger's bytes. PostScript and its like start programs and stay out."""


@dataclass(frozen=True)
class Upload:
    """An image as it came; a `Source` of `ironclip.data`. The name is for messages alone."""

    name: str
    data: bytes

    def open(self) -> Image.Image:
        return Image.open(io.BytesIO(self.data), formats=FORMATS)

    def stamp(self) -> str:
        return str(len(self.data))


def pixels(upload: Upload, resolution: int, max_pixels: int) -> Image.Image:
    """The image as the model is tested: RGB, resolution x resolution.

    Raises:
        BadPicture: not an image, one that cannot be used, or too many pixels.
    """
    if not upload.data:
        raise BadPicture(upload.name, "empty file; expected an image")
    return fit(decode_quietly(upload, max_pixels), resolution)


def size(upload: Upload, max_pixels: int) -> int:
    """Pixels of an image from its header; 0 where decoding will say what is wrong with it."""
    try:
        with upload.open() as image:
            found = image.width * image.height
    except Exception:  # decoders raise almost anything on damaged bytes
        return 0
    return found if found <= max_pixels else 0


def answer(message: dict[str, Any], held: list[Upload], source: BinaryIO, resolution: int, max_pixels: int) -> tuple[Any, bytes]:
    """(JSON value, bytes that follow it)."""
    if "files" in message:
        held[:] = [Upload(name, source.read(length)) for name, length in message["files"]]
        return {"pixels": [size(upload, max_pixels) for upload in held]}, b""
    upload = held[message["decode"]]
    try:
        data = pixels(upload, resolution, max_pixels).tobytes()
    except BadPicture as problem:
        status = 413 if "more than the limit" in problem.reason else 422
        return {"refused": [status, f"{upload.name}: {problem.reason}"[:300]]}, b""
    except MemoryError:
        return {"refused": [413, f"{upload.name}: decoding it takes too much memory; make it smaller"]}, b""
    return {"bytes": len(data)}, data


def _confine(max_pixels: int, nice: int) -> None:
    """Little memory, no files, after everybody else; where the system has no such limits (Windows) the deadline alone is left."""
    try:
        import resource
    except ImportError:
        return
    os.nice(nice)
    memory = 2**30 + 40 * max_pixels  # 16-bit images take most: some 30 bytes per pixel
    for what, most in ((resource.RLIMIT_AS, memory), (resource.RLIMIT_FSIZE, 0), (resource.RLIMIT_CORE, 0)):
        resource.setrlimit(what, (most, most))


def main() -> None:
    resolution, max_pixels, nice = map(int, sys.argv[1:])
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    _confine(max_pixels, nice)
    warnings.simplefilter("ignore")
    Image.MAX_IMAGE_PIXELS = None
    held: list[Upload] = []
    source, out = sys.stdin.buffer, sys.stdout.buffer
    out.write(b"ready\n")
    out.flush()
    while line := source.readline():
        said, data = answer(json.loads(line), held, source, resolution, max_pixels)
        out.write(json.dumps(said).encode() + b"\n" + data)
        out.flush()


if __name__ == "__main__":
    main()
