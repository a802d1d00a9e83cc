"""Bodies of requests in memory, with limits on each, on all together, and on slow senders."""

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager

from starlette.requests import ClientDisconnect, Request

from ironclip.serve.limits import Busy, Limits, Refusal

CLOSE = {"Connection": "close"}


class _Body:
    """One body: whose it is, what has come of it, and the scope that ends it early."""

    def __init__(self, client: str, scope: asyncio.Timeout) -> None:
        self.client, self.scope, self.data, self.evicted = client, scope, bytearray(), False


class Bodies:
    """Reads bodies. When memory is short, the oldest unfinished body of the address that uses most of it is dropped."""

    def __init__(self, limits: Limits) -> None:
        self.limits = limits
        self.most = limits.max_bodies * limits.max_bytes
        self._whole = 0
        self._coming: list[_Body] = []

    @contextmanager
    def kept(self, size: int) -> Iterator[None]:
        """Count a whole body, as long as it stays in memory.

        Raises:
            Busy: whole bodies alone fill the memory.
        """
        if self._whole + size > self.most:
            raise Busy("too many images wait to be decoded; ask again later")
        self._whole += size
        try:
            yield
        finally:
            self._whole -= size

    async def read(self, request: Request, client: str) -> bytes:
        """The body of a request.

        Raises:
            Refusal: 400 cut off, 408 too slow, 413 too large, 503 no memory for it.
        """
        limits = self.limits
        length = request.headers.get("content-length", "")
        if length.isascii() and length.isdigit() and int(length[:20]) > limits.max_bytes:
            raise self._too_large()
        seconds = min(limits.pace_seconds, limits.seconds)
        try:
            async with asyncio.timeout(limits.seconds), asyncio.timeout(seconds) as pace:
                body = _Body(client, pace)
                self._coming.append(body)
                try:
                    await self._fill(body, request, seconds)
                finally:
                    self._coming.remove(body)
        except TimeoutError:
            if body.evicted:
                raise Busy("others need the memory of this unfinished request; send it again later") from None
            wanted = f"{limits.pace_bytes} further bytes every {limits.pace_seconds:g} s, all within {limits.seconds:g} s"
            raise Refusal(408, f"the request came too slowly; expected {wanted}", CLOSE) from None
        except ClientDisconnect:
            raise Refusal(400, "the connection was closed before the request was complete") from None
        return bytes(body.data)

    async def _fill(self, body: _Body, request: Request, seconds: float) -> None:
        loop, since = asyncio.get_running_loop(), 0
        async for chunk in request.stream():
            body.data += chunk
            if len(body.data) > self.limits.max_bytes:
                raise self._too_large()
            while self._whole + sum(len(other.data) for other in self._coming) > self.most:
                self._evict()
                if body.evicted:
                    raise Busy("no memory for a further request; send it again later")
            if len(body.data) - since >= self.limits.pace_bytes and not body.evicted:
                since = len(body.data)
                body.scope.reschedule(loop.time() + seconds)

    def _evict(self) -> None:
        held: dict[str, int] = {}
        for body in self._coming:
            held[body.client] = held.get(body.client, 0) + len(body.data)
        greedy = max(held, key=lambda client: held[client])
        victim = next(body for body in self._coming if body.client == greedy and body.data)
        victim.evicted, victim.data = True, bytearray()
        victim.scope.reschedule(asyncio.get_running_loop().time())

    def _too_large(self) -> Refusal:
        text = f"a request may have {self.limits.max_bytes} bytes; send smaller or fewer images"
        return Refusal(413, text, CLOSE)
