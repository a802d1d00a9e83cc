"""Fair turns: a limited number of places, shared in rotation between client addresses."""

import asyncio
from collections import deque
from collections.abc import Iterator
from ipaddress import ip_address, ip_network
from types import TracebackType

from ironclip.serve.limits import Busy


def address(client: str | None) -> str:
    """The client to which a request counts: an IPv4 address, or the /64 network of an IPv6 subscriber."""
    try:
        known = ip_address(client or "")
    except ValueError:
        return client or ""
    return str(known) if known.version == 4 else str(ip_network((known, 64), strict=False))


class Place:
    """A place in line, given back at the end of the `with` block."""

    def __init__(self, turns: "Turns", client: str, units: int) -> None:
        self.turns, self.client, self.units = turns, client, units
        self.granted: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    async def turn(self) -> None:
        """Wait until there is room.

        Raises:
            Busy: the place went to another address, which held fewer.
        """
        await self.granted

    def leave(self) -> None:
        self.turns.leave(self)

    def __enter__(self) -> "Place":
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.leave()


class Turns:
    """Room that is shared fairly; lives on the event loop alone.

    Addresses take turns, each in the order of its own requests. Where all places are taken, a newcomer gets the newest waiting
    place of the address that has the most, if that address has more than the newcomer would have.

    Args:
        what: waits, for messages.
        room: units that may be in use at once; one request may exceed it when nothing else is in use.
        most: units that may be in use or wait.
    """

    def __init__(self, what: str, *, room: int, most: int) -> None:
        self.what, self.room, self.most = what, room, most
        self.used = 0
        self._places: set[Place] = set()
        self._waiting: dict[str, deque[Place]] = {}

    @property
    def total(self) -> int:
        """Units in use or waiting."""
        return sum(place.units for place in self._places)

    def enter(self, client: str, units: int = 1) -> Place:
        """A place for the client.

        Raises:
            Busy: none is left that the client has a better right to.
        """
        for victim in self._evicted(client, units):
            self.leave(victim)
            victim.granted.set_exception(Busy(f"{self.what} are taken by others now; ask again later"))
            victim.granted.exception()  # its owner may have gone
        place = Place(self, client, units)
        self._places.add(place)
        self._waiting.setdefault(client, deque()).append(place)
        self._grant()
        return place

    def check(self, client: str) -> None:
        """Raise Busy where `enter` would, before a request is read."""
        list(self._evicted(client, 1))

    def leave(self, place: Place) -> None:
        if place not in self._places:
            return
        self._places.remove(place)
        line = self._waiting.get(place.client, deque())
        if place in line:
            line.remove(place)
            if not line:
                del self._waiting[place.client]
        else:
            self.used -= place.units
        self._grant()

    def _evicted(self, client: str, units: int) -> Iterator[Place]:
        """Whose places the newcomer gets."""
        over = self.total + units - self.most
        if over <= 0:
            return
        held: dict[str, int] = {}
        for place in self._places:
            held[place.client] = held.get(place.client, 0) + place.units
        own, victims = held.get(client, 0) + units, []
        lines = {name: list(line) for name, line in self._waiting.items() if name != client}
        while over > 0:
            greedy = max((name for name, line in lines.items() if line), key=lambda name: held[name], default=None)
            if greedy is None or held[greedy] <= own:
                raise Busy(f"{self.total} {self.what} wait and at most {self.most} may; ask again later or send fewer")
            victim = lines[greedy].pop()
            held[greedy] -= victim.units
            over -= victim.units
            victims.append(victim)
        yield from victims

    def _grant(self) -> None:
        while self._waiting:
            client, line = next(iter(self._waiting.items()))
            if self.used and self.used + line[0].units > self.room:
                return
            place = line.popleft()
            del self._waiting[client]
            if line:
                self._waiting[client] = line  # behind all others
            self.used += place.units
            if not place.granted.done():
                place.granted.set_result(None)
