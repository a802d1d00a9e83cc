"""The host names that the service answers to, and the web pages that may call it."""

import ipaddress
import re
import socket
from collections.abc import Iterable
from dataclasses import dataclass

AUTHORITY = re.compile(r"(\[[0-9a-f:.]+\]|[a-z0-9_](?:[a-z0-9_.-]*[a-z0-9_])?)(?::([0-9]{1,5}))?", re.ASCII | re.IGNORECASE)
ORIGIN = re.compile(r"(https?)://(.+)", re.ASCII | re.IGNORECASE)
PORTS = {"http": "80", "https": "443"}
LOOPBACK = ("localhost", "127.0.0.1", "[::1]")


@dataclass(frozen=True)
class Hosts:
    """Which `Host` headers are answered.

    A web page can make a name of its own mean its visitor's machine, so unknown names are refused on every bind. It cannot do
    so with an address.

    Args:
        names: in lower case, without a port.
        addresses: whether every IP address is answered, too.
    """

    names: frozenset[str]
    addresses: bool = False

    def admits(self, host: str) -> bool:
        """Whether a `Host` header is well formed and known."""
        found = AUTHORITY.fullmatch(host)
        if found is None:
            return False
        name = found[1].lower()
        return name in self.names or (self.addresses and _is_address(name))


def hosts_for(bind: str, extra: Iterable[str] = ()) -> Hosts:
    """What a service that listens on `bind` answers to: this machine's own names, and `extra` ones.

    A service on a public address also answers to every IP address, because it cannot know its own behind a router.
    """
    own = bind.lower()
    names = {*LOOPBACK, f"[{own}]" if ":" in own else own, *(name.lower() for name in extra)}
    if is_loopback(bind):
        return Hosts(frozenset(names))
    return Hosts(frozenset({*names, socket.gethostname().lower()}), addresses=True)


def is_loopback(bind: str) -> bool:
    """Whether only this machine can reach the address. Unclear ones count as public."""
    try:
        return bind.lower() == "localhost" or ipaddress.ip_address(bind).is_loopback
    except ValueError:
        return False


def same_site(origin: str, host: str) -> bool:
    """Whether an `Origin` header names the service itself, called as in `host`."""
    page = ORIGIN.fullmatch(origin)
    return page is not None and _place(page[2], page[1]) == _place(host, page[1]) is not None


def _place(authority: str, scheme: str) -> tuple[str, str] | None:
    found = AUTHORITY.fullmatch(authority)
    return None if found is None else (found[1].lower(), found[2] or PORTS[scheme.lower()])


def _is_address(name: str) -> bool:
    try:
        ipaddress.ip_address(name.strip("[]"))
    except ValueError:
        return False
    return (":" in name) == name.startswith("[")
