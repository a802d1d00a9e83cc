"""From the bytes of a request to images for the model; nothing is written to the disk, no file name is ever opened."""

import asyncio
import io
import warnings
from collections.abc import AsyncGenerator
from dataclasses import dataclass

import numpy as np
import torch
from PIL import Image
from starlette.datastructures import Headers, UploadFile
from starlette.formparsers import MultiPartException, MultiPartParser
from starlette.requests import ClientDisconnect, Request
from torch import Tensor

from ironclip.data.images import BadPicture, decode_quietly, fit
from ironclip.serve.limits import Limits, Refusal

FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF")
"""Decoders that may see a stranger's bytes. PostScript and its like start programs and stay out."""


@dataclass(frozen=True)
class Upload:
    """A picture as it came; a `Source` of `ironclip.data`. The name is for messages alone."""

    name: str
    data: bytes

    def open(self) -> Image.Image:
        return Image.open(io.BytesIO(self.data), formats=FORMATS)

    def stamp(self) -> str:
        return str(len(self.data))


async def uploads(request: Request, limits: Limits, *, most: int) -> list[Upload]:
    """The files of the form field `images` of a multipart request.

    Raises:
        Refusal: 400, 408, 413, 415 or 422 with the reason.
    """
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if kind != "multipart/form-data":
        raise Refusal(415, f"send pictures as multipart/form-data in the field images; got {kind or 'no content type'}"[:200])
    body = await _body(request, limits)
    parser = _InMemory(request.headers, body, max_files=most, max_fields=8, max_part_size=64_000)
    try:
        form = await parser.parse()
    except MultiPartException as problem:
        if "Too many" in problem.message:
            raise Refusal(413, f"at most {most} picture(s) in one request; send fewer") from None
        raise Refusal(400, f"the multipart body cannot be read: {problem.message}"[:200]) from None
    except Exception as problem:  # the parser raises almost anything on damaged headers
        raise Refusal(400, f"the multipart body cannot be read: {type(problem).__name__}") from None
    found: list[Upload] = []
    try:
        for field, value in form.multi_items():
            if field != "images":
                raise Refusal(422, f"unknown form field {printable(field)!r}; send files in the field images")
            if not isinstance(value, UploadFile):
                raise Refusal(422, "images must be files, with a file name; got text")
            found.append(Upload(printable(value.filename or "") or f"image {len(found) + 1}", await value.read()))
    finally:
        await form.close()
    if not found:
        raise Refusal(422, "no picture came; send files in the form field images")
    return found


def image(upload: Upload, resolution: int, limits: Limits) -> Tensor:
    """The picture as the model is tested on pictures: [3, R, R] in [0, 1].

    Raises:
        Refusal: 422, not a picture or one that cannot be used; 413, too many pixels.
    """
    if not upload.data:
        raise Refusal(422, f"{upload.name}: empty file; expected a picture")
    try:
        picture = fit(decode_quietly(upload, limits.max_pixels), resolution)
    except BadPicture as problem:
        raise Refusal(413 if "more than the limit" in problem.reason else 422, f"{upload.name}: {problem.reason}"[:300]) from None
    return torch.from_numpy(np.array(picture)).permute(2, 0, 1).float().div(255)


def images(found: list[Upload], resolution: int, limits: Limits) -> list[Tensor]:
    """All pictures of a request; the first bad one refuses it."""
    return [image(upload, resolution, limits) for upload in found]


def printable(text: str) -> str:
    """A name as it may stand in one line of an answer."""
    return "".join(letter if letter.isprintable() else " " for letter in text)[:100].strip()


def quiet() -> None:
    """Decoders' warnings about damaged pictures stay out of the log; no thread can silence them for itself alone."""
    warnings.filterwarnings("ignore", module="PIL")


async def _body(request: Request, limits: Limits) -> bytes:
    length = request.headers.get("content-length", "")
    if length.isdigit() and int(length[:20]) > limits.max_bytes:
        raise _too_large(limits)
    body = bytearray()
    try:
        async with asyncio.timeout(limits.seconds):
            async for chunk in request.stream():
                body += chunk
                if len(body) > limits.max_bytes:
                    raise _too_large(limits)
    except TimeoutError:
        raise Refusal(408, f"the request did not arrive within {limits.seconds:g} s", {"Connection": "close"}) from None
    except ClientDisconnect:
        raise Refusal(400, "the connection was closed before the request was complete") from None
    return bytes(body)


def _too_large(limits: Limits) -> Refusal:
    return Refusal(413, f"a request may have {limits.max_bytes} bytes; send smaller or fewer pictures", {"Connection": "close"})


class _InMemory(MultiPartParser):
    """Keeps files in memory, which is bounded by `max_bytes`, and takes no form that was cut off."""

    spool_max_size = 1 << 40

    def __init__(self, headers: Headers, body: bytes, **bounds: int) -> None:
        super().__init__(headers, self._whole(body), **bounds)
        self.ended = False

    def on_end(self) -> None:
        self.ended = True

    async def _whole(self, body: bytes) -> AsyncGenerator[bytes, None]:
        yield body
        if not self.ended:
            raise MultiPartException("it ends before its last boundary")
