"""Relays: which this peer wants to be reached through, and which lead to another peer.

configured `relays`, or else peers whose records offer it  ─►  UseRelays          (at most `USED`; none if this peer relays itself)
circuit addresses of a peer's record, then its place at every relay that is known here  ─►  Dial.relayed
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Final

from sudocode_coordination.config import CoordinationConfig
from sudocode_coordination.core.discovery import KnownPeer
from sudocode_coordination.core.facts import Output
from sudocode_coordination.core.io import RelayAt, UseRelays
from sudocode_coordination.model import PeerId

USED: Final = 2
"""Relays that this peer agrees with: one may stop. More would only make records longer."""
MAX_CONFIGURED: Final = 8
"""Relays of the configuration that are looked at."""
MAX_WAYS: Final = 8
"""Circuit addresses in one dial: two relays that the peer announces, with two addresses each, and a few that are only known."""
MAX_ADDRESSES: Final = 8
"""Of one relay: two transports, two families, two interfaces."""
CIRCUIT: Final = "/p2p-circuit"


def is_circuit(address: str) -> bool:
    """Whether it leads through a relay."""
    return CIRCUIT in address


def direct(addresses: Collection[str]) -> tuple[str, ...]:
    """Those that lead through no relay."""
    return tuple(address for address in addresses if not is_circuit(address))


class Relays:
    """The relays of this peer. Those that can't be reached come last; a relay that is not connected otherwise is dialled."""

    def __init__(self, me: PeerId, config: CoordinationConfig) -> None:
        self._me = me
        self._serves = config.relay_service
        found: dict[PeerId, list[str]] = {}
        for text in config.relays[:MAX_CONFIGURED]:
            at, _, peer = text.rpartition("/p2p/")
            if peer != me:
                found.setdefault(peer, []).append(at)
        self._configured = tuple(RelayAt(peer=peer, addresses=tuple(at)) for peer, at in found.items())
        self._offered: tuple[RelayAt, ...] = ()
        """By peer id."""
        self._used: tuple[RelayAt, ...] = ()

    @property
    def used(self) -> tuple[PeerId, ...]:
        """Which this peer wants to be reached through."""
        return tuple(relay.peer for relay in self._used)

    def known_changed(self, known: Mapping[PeerId, KnownPeer]) -> None:
        """Other peers, or other addresses of theirs."""
        self._offered = tuple(
            RelayAt(peer=peer, addresses=direct(entry.addresses)[:MAX_ADDRESSES])
            for peer, entry in known.items()
            if entry.relay and entry.fresh and peer != self._me
        )

    def choose(self, gone: Collection[PeerId]) -> list[Output]:
        """Which to use. One that is in use is kept for as long as it offers to be one and is not gone."""
        before = {relay.peer for relay in self._used}
        order = sorted(self._offered, key=lambda relay: (relay.peer in gone, relay.peer not in before, relay.peer))
        used = () if self._serves else (self._configured or tuple(order))[:USED]
        if used == self._used:
            return []
        self._used = used
        return [UseRelays(relays=used)]

    def ways(self, peer: PeerId, addresses: tuple[str, ...]) -> tuple[str, ...]:
        """Circuit addresses that may lead to a peer with these announced addresses: those among them first."""
        found = dict.fromkeys(address for address in addresses if is_circuit(address))
        through = {address.partition(CIRCUIT)[0].rpartition("/p2p/")[2] for address in found}
        for relay in (*self._configured, *self._offered):
            if relay.peer not in (peer, *through) and relay.addresses:
                found[f"{relay.addresses[0]}/p2p/{relay.peer}{CIRCUIT}"] = None
        return tuple(address for address in found if f"/p2p/{self._me}{CIRCUIT}" not in address)[:MAX_WAYS]
