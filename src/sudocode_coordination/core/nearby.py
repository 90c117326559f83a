"""Peers that are met without the git remote: whom the branch has shown before, and what neighbours say of themselves.

Laws: who may join is decided by the branch alone. A record that was found on this machine gives addresses for a peer that a read
of the branch has admitted, in this life or an earlier one, and nothing else: no weight, no agents, no admission. What was kept of
earlier reads holds until the first successful one of this life: until then those peers are let in, and dialled where they were.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from functools import lru_cache
from hashlib import blake2b
from typing import Final

import msgspec

from sudocode_coordination.core.io import (
    AddressesSighted,
    DiskContents,
    DiskOperation,
    ForgottenValue,
    RecordsSighted,
    StoredValue,
)
from sudocode_coordination.core.keyring import Keyring
from sudocode_coordination.core.peer_view import BranchView, KnownPeer
from sudocode_coordination.core.records import is_multiaddr, offered_name, parse_record, parse_wall, peer_of
from sudocode_coordination.model import Now, PeerId, PeerRecord, WallMs

SPACE: Final = "known"
MAX_REMEMBERED: Final = 1_000
"""Peers whose latest records are on disk: the largest `max_peers`."""
REMEMBERED_MS: Final = 7 * 24 * 3_600_000
"""A record that was signed longer ago admits nobody at a start: a week without the remote is no outage any more."""
REWRITE_MS: Final = 24 * 3_600_000
"""Renewals are not worth a write; a new signature is after a day, so that what is kept does not look older than it is."""
MAX_NEIGHBOURS: Final = 200
"""Records of neighbours looked at: clones of one user on one machine."""
MAX_TOLD: Final = 8
"""Addresses of one peer that were told on the local network: nobody has signed them."""
SERVICE: Final = "_sudocode-coord._tcp.local."
"""What all of us are called on the local network."""
_ON_NETWORK: Final = re.compile(r"/ip4/([0-9.]+)/tcp/([0-9]+)\Z")
_MAX_CACHED_NAMES: Final = 1_024
"""A few times the largest swarm."""


class Memory:
    """What the disk keeps of the branch: the latest record of each peer that it has shown. A record that is gone is kept on if its
    peer said goodbye: it takes that away itself when it stops. If it did not, somebody has shut it out.

    Args:
        keyring: verifies what the disk gives back, as if it came from the branch.
    """

    def __init__(self, keyring: Keyring) -> None:
        self._keyring = keyring
        self._kept: dict[PeerId, tuple[WallMs, object]] = {}
        """When each was signed, and what it says; the second None: to be written anew."""
        self._left: set[PeerId] = set()
        """Peers that said goodbye and are not back: some of those above."""

    def started(self, contents: DiskContents, now: Now) -> list[tuple[str, bytes, PeerRecord]]:
        """The records of an earlier life that still admit their peers: file name, bytes, content."""
        found = []
        for value in contents.values:
            if value.space != SPACE or len(self._kept) >= MAX_REMEMBERED:
                continue
            name = offered_name(value.data)
            record = parse_record(name, value.data, self._keyring) if name is not None else "no record"
            if name is None or isinstance(record, str) or peer_of(record) != value.key or value.key == self._keyring.peer_id:
                continue
            signed_ms = parse_wall(record.last_seen) or 0
            self._kept[value.key] = (signed_ms, _content(record))
            if now.wall_ms - signed_ms <= REMEMBERED_MS:
                found.append((name, value.data, record))
        return found

    def branch_read(self, view: BranchView, now: Now) -> list[DiskOperation]:
        """What to write, now that the branch was read."""
        operations: list[DiskOperation] = []
        for peer, (data, record) in view.latest().items():
            self._left.discard(peer)
            signed_ms, content = self._kept.get(peer, (0, None))
            new_ms = parse_wall(record.last_seen) or 0
            if content != _content(record) or new_ms - signed_ms >= REWRITE_MS:
                self._kept[peer] = (new_ms, _content(record))
                operations.append(StoredValue(space=SPACE, key=peer, data=data))
        listed = view.latest()
        by_age = sorted(self._kept, key=lambda peer: (-self._kept[peer][0], peer))
        for place, peer in enumerate(by_age):
            too_old = place >= MAX_REMEMBERED or now.wall_ms - self._kept[peer][0] > REMEMBERED_MS
            if too_old or (peer not in listed and peer not in self._left):
                del self._kept[peer]
                self._left.discard(peer)
                operations.append(ForgottenValue(space=SPACE, key=peer))
        return operations

    def said_goodbye(self, peer: PeerId) -> None:
        """It stops, and takes its record away."""
        if peer in self._kept:
            self._left.add(peer)

    def disk_failed(self) -> None:
        """What was to be kept may not be on disk: the next read writes all of it."""
        self._kept = {peer: (signed_ms, None) for peer, (signed_ms, _) in self._kept.items()}


def _content(record: PeerRecord) -> object:
    return (record.agent_id, record.multiaddrs)


@lru_cache(_MAX_CACHED_NAMES)
def name_on_network(peer: PeerId) -> str:
    """How a peer is called on the local network: who has its id from the branch can make it, nobody can make the id of it."""
    return blake2b(peer.encode(), digest_size=16, person=b"sudocode-mdns").hexdigest()


def told_on_network(addresses: Iterable[str]) -> tuple[int, tuple[str, ...]] | None:
    """The port and the IPv4 addresses that are told on the local network of a peer that is at these. None: nothing is told, it is
    nowhere for plain TCP but on loopback."""
    found = [match for text in addresses if (match := _ON_NETWORK.match(text))]
    beyond = [(match[1], int(match[2])) for match in found if not match[1].startswith("127.")]
    if not beyond:
        return None
    port = beyond[0][1]
    return port, tuple(dict.fromkeys(host for host, number in beyond if number == port))[:MAX_TOLD]


class Neighbours:
    """Addresses that were found on this machine or told on the local network.

    Args:
        keyring: verifies records.
    """

    def __init__(self, keyring: Keyring) -> None:
        self._keyring = keyring
        self._found: dict[PeerId, tuple[WallMs, tuple[str, ...]]] = {}
        self._told: dict[str, tuple[str, ...]] = {}

    def sighted(self, given: RecordsSighted | AddressesSighted) -> bool:
        """These, and no others, are there now; whether that is news."""
        if isinstance(given, RecordsSighted):
            return self._on_machine(given.records)
        return self._on_network(given.addresses)

    def _on_machine(self, records: Iterable[bytes]) -> bool:
        """These, and no others, are there now; whether that is news."""
        found: dict[PeerId, tuple[WallMs, tuple[str, ...]]] = {}
        for data in list(records)[:MAX_NEIGHBOURS]:
            name = offered_name(data)
            record = parse_record(name, data, self._keyring) if name is not None else "no record"
            if isinstance(record, str) or peer_of(record) == self._keyring.peer_id:
                continue
            stamp = parse_wall(record.last_seen) or 0
            found[peer_of(record)] = max((stamp, record.multiaddrs), found.get(peer_of(record), (0, ())))
        changed = found != self._found
        self._found = found
        return changed

    def _on_network(self, addresses: Mapping[str, tuple[str, ...]]) -> bool:
        """These, and no others, are told on the local network; whether that is news."""
        usable = {
            name: tuple(address for address in told if is_multiaddr(address))[:MAX_TOLD]
            for name, told in list(addresses.items())[:MAX_NEIGHBOURS]
        }
        changed = usable != self._told
        self._told = usable
        return changed

    def beside(self, known: Mapping[PeerId, KnownPeer]) -> dict[PeerId, KnownPeer]:
        """The same peers, those that are neighbours with their addresses here first."""
        shown = dict(known)
        for peer, entry in known.items() if self._found or self._told else ():
            here = (*self._found.get(peer, (0, ()))[1], *self._told.get(name_on_network(peer), ()))
            if here:
                both = tuple(dict.fromkeys((*here, *entry.addresses)))
                shown[peer] = msgspec.structs.replace(entry, addresses=both, near=True)
        return shown
