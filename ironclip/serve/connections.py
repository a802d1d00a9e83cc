"""Limits on the service's connections: their number, their idle time, and a place for every new client."""

import asyncio
from typing import Any

from uvicorn.protocols.http.h11_impl import H11Protocol

from ironclip.serve.limits import Limits
from ironclip.serve.turns import address

UNLIMITED = 1 << 31
LOOK = 0.5
"""Seconds between two looks at a connection."""


def guarded(limits: Limits) -> type[H11Protocol]:
    """The protocol for uvicorn, under these limits."""
    return type("Guarded", (_Guarded,), {"most": min(limits.max_connections, _files() // 2), "limits": limits})


def _files() -> int:
    """How many files this process may open."""
    try:
        import resource
    except ImportError:  # Windows
        return UNLIMITED
    most = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
    return UNLIMITED if most == resource.RLIM_INFINITY else most


class _Guarded(H11Protocol):
    """HTTP/1.1 with deadlines for headers and for readers of answers, and a cap."""

    most: int
    limits: Limits
    begun: float | None = None  # when the header that is awaited began
    stuck: float | None = None  # since when the client takes no more of its answer
    born: float = 0.0

    @property
    def awaited(self) -> bool:
        """Whether the next move is the client's: a header, or the rest of a body."""
        cycle: Any = self.cycle
        return cycle is None or cycle.response_complete or cycle.more_body

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self.born = self.begun = self.loop.time()
        if len(self.connections) > self.most:
            self._make_room()
        self._watch = self.loop.call_later(LOOK, self._look)

    def connection_lost(self, exc: Exception | None) -> None:
        self._watch.cancel()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        if self.begun is None and self._header_awaited:
            self.begun = self.loop.time()
        super().data_received(data)
        if not self._header_awaited:
            self.begun = None

    def send_400_response(self, msg: str) -> None:
        """The answer to bytes that are no HTTP. Whoever works on the request that they belong to answers nobody any more."""
        cycle: Any = self.cycle
        if cycle is not None and not cycle.response_complete:
            cycle.disconnected = True
            cycle.message_event.set()
            if cycle.response_started:
                self.transport.close()
                return
        super().send_400_response(msg)

    def on_response_complete(self) -> None:
        self.begun = None
        super().on_response_complete()

    def pause_writing(self) -> None:
        self.stuck = self.loop.time()
        super().pause_writing()

    def resume_writing(self) -> None:
        self.stuck = None
        super().resume_writing()

    @property
    def _header_awaited(self) -> bool:
        cycle: Any = self.cycle
        return cycle is None or cycle.response_complete

    def _look(self) -> None:
        now = self.loop.time()
        half_open = self._header_awaited and self.begun is not None and now - self.begun > self.limits.pace_seconds
        if half_open or (self.stuck is not None and now - self.stuck > self.limits.seconds):
            self.transport.abort()
        else:
            self._watch = self.loop.call_later(LOOK, self._look)

    def _make_room(self) -> None:
        """Close a connection that is no request of ours to answer, of the address that has the most of them.

        The oldest one that never had an answer goes first.
        """
        others: list[_Guarded] = [other for other in self.connections if isinstance(other, _Guarded) and other.awaited]
        count: dict[str, int] = {}
        for other in others:
            count[other._address] = count.get(other._address, 0) + 1
        greedy = max(count, key=lambda client: count[client])
        victim = min((other for other in others if other._address == greedy and other is not self), key=_merit, default=self)
        self.connections.discard(victim)
        victim.transport.abort()

    @property
    def _address(self) -> str:
        return address(self.client[0] if self.client else None)


def _merit(connection: _Guarded) -> tuple[bool, float]:
    cycle: Any = connection.cycle
    return cycle is not None and cycle.response_complete, connection.born
