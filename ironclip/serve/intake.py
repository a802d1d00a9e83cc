"""From the bytes of a request to its files; nothing is written to the disk, no file name is ever opened."""

import asyncio
from collections.abc import AsyncGenerator

from starlette.datastructures import Headers, UploadFile
from starlette.formparsers import MultiPartException, MultiPartParser
from starlette.requests import Request

from ironclip.serve.bodies import Bodies
from ironclip.serve.decoder import Upload
from ironclip.serve.limits import Refusal

SLICE = 65_536


async def uploads(request: Request, bodies: Bodies, client: str, *, most: int) -> list[Upload]:
    """The files of the form field `images` of a multipart request.

    Args:
        client: the address that the request counts for.
        most: files.

    Raises:
        Refusal: 400, 408, 413, 415 or 422 with the reason.
    """
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if kind != "multipart/form-data":
        raise Refusal(415, f"send images as multipart/form-data in the field images; got {kind or 'no content type'}"[:200])
    body = await bodies.read(request, client)
    parser = _InMemory(request.headers, body, max_files=most, max_fields=8, max_part_size=64_000)
    try:
        form = await parser.parse()
    except MultiPartException as problem:
        if "Too many" in problem.message:
            raise Refusal(413, f"at most {most} image(s) in one request; send fewer") from None
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
        raise Refusal(422, "no image came; send files in the form field images")
    return found


def printable(text: str) -> str:
    """A name as it may stand in one line of an answer."""
    return "".join(letter if letter.isprintable() else " " for letter in text)[:100].strip()


class _InMemory(MultiPartParser):
    """Keeps files in memory, which is bounded by `max_bytes`, and takes no form that was cut off."""

    spool_max_size = 1 << 40

    def __init__(self, headers: Headers, body: bytes, **bounds: int) -> None:
        super().__init__(headers, self._whole(body), **bounds)
        self.ended = False

    def on_end(self) -> None:
        self.ended = True

    async def _whole(self, body: bytes) -> AsyncGenerator[bytes, None]:
        for start in range(0, len(body), SLICE):  # other requests get their turn in between
            yield body[start : start + SLICE]
            await asyncio.sleep(0)
        if not self.ended:
            raise MultiPartException("it ends before its last boundary")
