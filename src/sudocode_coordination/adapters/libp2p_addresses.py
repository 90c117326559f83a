"""Multiaddrs: what to listen on, what to announce, in which order to dial."""

from __future__ import annotations

import socket
from collections.abc import Iterable
from typing import Final, NamedTuple

from libp2p.peer.id import ID
from multiaddr import Multiaddr  # type: ignore[import-untyped]
from multiaddr.exceptions import Error as MultiaddrError  # type: ignore[import-untyped]
from multiaddr.utils import get_network_addrs  # type: ignore[import-untyped]

from sudocode_coordination.errors import NetworkError
from sudocode_coordination.model import PeerId

MAX_DIALLED_ADDRESSES: Final = 24
"""Of one peer: two transports, two families and a few interfaces; a record may name any number."""
_WILDCARDS: Final = {"ip4": ("0.0.0.0", 4, "127.0.0.1"), "ip6": ("::", 6, "::1")}


def parse(address: str) -> Multiaddr | None:
    """The address, or None if it is none that TCP or WebSocket can use."""
    try:
        parsed = Multiaddr(address)
        names = [protocol.name for protocol in parsed.protocols()]
    except (MultiaddrError, ValueError, KeyError, UnicodeError, LookupError):
        return None
    if len(names) < 2 or names[0] not in {"ip4", "ip6", "dns", "dns4", "dns6"} or names[1] != "tcp":
        return None
    return parsed if set(names[2:]) <= {"ws", "p2p"} else None


def parse_listen(addresses: Iterable[str]) -> list[Multiaddr]:
    """What to listen on.

    Raises:
        NetworkError: one of them is no TCP or WebSocket address, or its port is taken.
    """
    found = []
    for address in addresses:
        parsed = parse(address)
        if parsed is None:
            raise NetworkError(
                f"{address!r} is no address to listen on",
                hint="use addresses such as /ip4/0.0.0.0/tcp/0 or /ip4/0.0.0.0/tcp/4001/ws",
            )
        found.append(parsed)
    return found


def require_free_ports(addresses: Iterable[Multiaddr]) -> None:
    """Fault: libp2p listens with SO_REUSEPORT, so that two processes share a port and each gets half of the connections;
    and a port that can't be had raises nothing.

    Raises:
        NetworkError: one of the fixed ports is taken.
    """
    for address in addresses:
        family, host, port = endpoint(address)
        if not port or family not in {"ip4", "ip6"}:
            continue
        with socket.socket(socket.AF_INET6 if family == "ip6" else socket.AF_INET, socket.SOCK_STREAM) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind((host, port))
                probe.listen(1)
            except OSError as error:
                raise NetworkError(
                    f"can't listen on {address}: {error.strerror or error}",
                    hint="another program uses that port: choose a different one, or 0 for any",
                ) from error


def endpoint(address: Multiaddr) -> tuple[str, str, int]:
    """Family, host and port."""
    family = address.protocols()[0].name
    return family, str(address.value_for_protocol(family)), int(address.value_for_protocol("tcp") or 0)


def announced(listening: Iterable[Multiaddr]) -> tuple[str, ...]:
    """Fault: `0.0.0.0` stays as it is in what libp2p announces. Here it becomes the interfaces' own addresses, and
    loopback last, so that clones on one machine meet also without a network."""
    found: dict[str, None] = {}
    loopback: dict[str, None] = {}
    for address in listening:
        family, host, _ = endpoint(address)
        wildcard = _WILDCARDS.get(family)
        if wildcard is None or host != wildcard[0]:
            found[str(address)] = None
            continue
        rest = str(address)[len(f"/{family}/{host}") :]
        for own in sorted(get_network_addrs(wildcard[1])):
            if own != wildcard[2]:
                found[f"/{family}/{own}{rest}"] = None
        loopback[f"/{family}/{wildcard[2]}{rest}"] = None
    return tuple(found | loopback)


def is_loopback(address: str) -> bool:
    """Whether it leads back to the machine where it is dialled."""
    return address.startswith(("/ip4/127.", "/ip6/::1/"))


def dial_order(addresses: Iterable[str], peer: PeerId) -> list[Multiaddr]:
    """The usable ones without `/p2p/…`, each once: plain TCP before WebSocket, loopback last within each.

    Loopback is tried like the others: it costs nothing, and a wrong peer there stops no other attempt.
    """
    usable: dict[str, Multiaddr] = {}
    for address in addresses:
        parsed = parse(address)
        if parsed is None:
            continue
        if "p2p" in {protocol.name for protocol in parsed.protocols()}:
            named = parsed.value_for_protocol("p2p")
            if named != peer:
                continue
            parsed = parsed.decapsulate(Multiaddr(f"/p2p/{named}"))
        if endpoint(parsed)[2]:
            usable[str(parsed)] = parsed
    ordered = sorted(usable, key=lambda text: (text.endswith("/ws"), is_loopback(text)))
    return [usable[text] for text in ordered[:MAX_DIALLED_ADDRESSES]]


class CircuitAddress(NamedTuple):
    """`<addresses of a relay>/p2p/<relay>/p2p-circuit`."""

    relay: PeerId
    at: Multiaddr
    """Where the relay is."""
    text: str


def parse_circuit(address: str, peer: PeerId) -> CircuitAddress | None:
    """A circuit address that leads to that peer, or None."""
    head, found, tail = address.partition("/p2p-circuit")
    if not found or tail not in ("", f"/p2p/{peer}"):
        return None
    at, found, relay = head.rpartition("/p2p/")
    parsed = parse(at) if found else None
    if parsed is None or relay == peer:
        return None
    try:
        ID.from_base58(relay)
    except ValueError:
        return None
    return CircuitAddress(relay, parsed, f"{head}/p2p-circuit")
