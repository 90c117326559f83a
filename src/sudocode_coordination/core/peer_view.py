"""The coordination branch as it was last read, judged: whose records count, which are stale, which are none.

No clock but our own is believed: how long a record has gone without renewal is counted between reads here, and nobody ages
while the remote can't be read.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Final, Literal

import msgspec

from sudocode_coordination.core.admission import Admission
from sudocode_coordination.core.facts import Notify, Output
from sudocode_coordination.core.io import BranchRead
from sudocode_coordination.core.keyring import Keyring
from sudocode_coordination.core.records import offers_relay, parse_record, parse_wall, peer_of, predecessor
from sudocode_coordination.model import AgentId, Instant, Now, PeerId, PeerRecord, WallMs

MAX_RECORDS: Final = 2_000
"""Records looked at: ten agents each for the most peers that a swarm has. The first by name; the others are told as skipped."""
MAX_SKIPPED: Final = 500
"""Files that are told as skipped."""
CLOCK_SKEW_MS: Final = 60_000
"""By which wall clocks of two machines may differ before a record counts as stale at first sight."""
RESET_SLACK_MS: Final = 60_000
"""For who has to put its record back after somebody deleted the branch: two reads of its own, a spread, and a push with retries."""


HealthState = Literal["unknown", "ok", "unreachable"]


class BranchHealth(msgspec.Struct, frozen=True, kw_only=True):
    """How it stands with the git remote, for people."""

    state: HealthState
    since_ms: WallMs
    """Wall time of the change to this state."""
    reason: str = ""


class KnownPeer(msgspec.Struct, frozen=True, kw_only=True):
    """Another clone, as its agents' records tell of it."""

    addresses: tuple[str, ...]
    """Multiaddrs, of its latest record."""
    agents: dict[AgentId, PeerRecord]
    fresh: bool
    """Whether it counts: connected, or its records are renewed."""
    near: bool = False
    """It runs on this machine or in this network: dialled whatever its records are."""
    remembered: bool = False
    """An earlier life knew it, and the branch was not read in this one yet: dialled, it may still be where it was."""
    relay: bool = False
    """It offers to relay for others."""


class _Seen(msgspec.Struct, kw_only=True):
    """A valid record of another peer."""

    record: PeerRecord
    peer: PeerId
    data: bytes
    last_seen_ms: WallMs
    since: Instant
    """When it was first seen as it is, by the clock here."""
    born_stale: bool
    former: PeerId | None = None
    """Which id it had before: empty if it says so in vain, None if it was not looked at."""
    missing_since: Instant | None = None
    """Reads have not had it since then; they have not had our own either at first."""
    remembered: bool = False
    """Of an earlier life's reads: it admits its peer until there is one of this life, and counts for nothing."""

    @property
    def listed(self) -> bool:
        """Whether the latest read still had it."""
        return self.missing_since is None and not self.remembered


class BranchView:
    """What the branch says of others.

    A record that a read does not show any more shuts its peer out, be it connected. Only if the read does not show our own record
    either, somebody has deleted or reset the branch, which says nothing of anybody: who is connected has some time then
    to put its record back.

    Args:
        keyring: verifies signatures, and says who we are.
        admission: whose sound records count.
        interval_ms: between two reads of a peer.
    """

    def __init__(self, keyring: Keyring, admission: Admission, interval_ms: int = 60_000) -> None:
        self._keyring = keyring
        self._admission = admission
        self._grace_ms = 3 * interval_ms + RESET_SLACK_MS
        self._seen: dict[str, _Seen] = {}
        self._own: dict[str, tuple[bytes, PeerRecord]] = {}
        self._refused: dict[str, tuple[bytes, str]] = {}
        self._read_at: Instant = 0
        self.formerly: frozenset[PeerId] = frozenset()
        """Ids that this peer had before."""
        self.former_names: tuple[str, ...] = ()
        """Files that the latest read still had of them."""
        self.superseded: dict[PeerId, PeerId] = {}
        """Peers that gave way to another key -> that of their records which say so."""
        self._rotated: frozenset[tuple[PeerId, PeerId]] = frozenset()
        """Of those, who was told of."""
        self.skipped: dict[str, str] = {}
        """Files that do not count -> why."""

    def remember(self, records: Iterable[tuple[str, bytes, PeerRecord]]) -> None:
        """Before the first read: what earlier ones had."""
        for name, data, record in records:
            peer = peer_of(record)
            if peer in self.formerly or self._admission.refuses(peer):
                continue
            last_seen_ms = parse_wall(record.last_seen) or 0
            seen = _Seen(record=record, peer=peer, data=data, last_seen_ms=last_seen_ms, since=0, born_stale=True, remembered=True)
            self._seen[name] = seen

    def latest(self) -> dict[PeerId, tuple[bytes, PeerRecord]]:
        """The latest record of every other peer that the branch has, sorted by peer."""
        found: dict[PeerId, _Seen] = {}
        for seen in self._seen.values():
            if seen.listed and (seen.peer not in found or seen.last_seen_ms > found[seen.peer].last_seen_ms):
                found[seen.peer] = seen
        return {peer: (seen.data, seen.record) for peer, seen in sorted(found.items())}

    def take(self, read: BranchRead, connected: frozenset[PeerId], now: Now, asked: Instant) -> dict[str, tuple[bytes, PeerRecord]]:
        """Take in a read that was asked for at `asked`; our own records are handed back."""
        self._read_at = asked
        self._admission.rules = read.rules
        self._admission.vouched = None if read.vouched is None else frozenset(read.vouched)
        barred: dict[PeerId, AgentId] = {}
        skipped = dict(sorted(read.skipped.items())[:MAX_SKIPPED])
        refused: dict[str, tuple[bytes, str]] = {}
        own: dict[str, tuple[bytes, PeerRecord]] = {}
        foreign: dict[str, _Seen] = {}
        former: list[str] = []
        for count, (name, data) in enumerate(sorted(read.records.items())):
            if count >= MAX_RECORDS:
                skipped.setdefault(name, f"more than {MAX_RECORDS} records")
                break
            before = self._seen.get(name)
            if before is not None and before.remembered:
                before = None
            mine = self._own.get(name)
            if mine is not None and mine[0] == data:
                own[name] = mine
                continue
            earlier = self._refused.get(name)
            if before is not None and before.data == data:
                record: PeerRecord | str = before.record
            elif earlier is not None and earlier[0] == data:
                record = earlier[1]
            else:
                record = parse_record(name, data, self._keyring)
            if isinstance(record, str):
                refused[name] = (data, record)
                if len(skipped) < MAX_SKIPPED:
                    skipped[name] = record
            elif peer_of(record) == self._keyring.peer_id:
                own[name] = (data, record)
            elif peer_of(record) in self.formerly:
                former.append(name)
            elif why := self._admission.refuses(peer_of(record)):
                barred.setdefault(peer_of(record), record.agent_id)
                if len(skipped) < MAX_SKIPPED:
                    skipped[name] = f"peer {peer_of(record)} may not join: {why}"
            elif before is not None and before.data == data:
                before.missing_since = None
                foreign[name] = before
            else:
                foreign[name] = self._sight(before, record, data, now)
        self._admission.barred = barred
        self.former_names = tuple(former)
        self._supersede(foreign)
        for name, seen in self._seen.items():
            if name in foreign or name in own or seen.peer not in connected or self._admission.refuses(seen.peer):
                continue
            if seen.peer in self.superseded:
                continue
            if seen.missing_since is None and not own:
                seen.missing_since = asked
            seen.remembered = False
            if seen.missing_since is not None and asked - seen.missing_since < self._grace_ms:
                foreign[name] = seen
        self._seen, self._own, self._refused, self.skipped = foreign, own, refused, skipped
        return own

    def _supersede(self, foreign: dict[str, _Seen]) -> None:
        """Who says that another key follows it has said its last word, whatever of it is still on the branch."""
        for seen in foreign.values():
            if "replaces" in seen.record.ext and seen.former is None:
                seen.former = predecessor(seen.record, self._keyring) or ""
        self.superseded = {seen.former: seen.peer for _, seen in sorted(foreign.items()) if seen.former}
        for name in [name for name, seen in foreign.items() if seen.peer in self.superseded]:
            del foreign[name]

    def _sight(self, before: _Seen | None, record: PeerRecord, data: bytes, now: Now) -> _Seen:
        """A record that is new or has changed."""
        peer = peer_of(record)
        last_seen_ms = parse_wall(record.last_seen) or 0
        if before is not None and before.peer == peer and last_seen_ms <= before.last_seen_ms:
            # An older one was put back, by who rewrote the branch: no sign of life, and nothing that we do not know better.
            before.missing_since = None
            before.data = data
            return before
        # One that was renewed between two reads here is fresh, whatever the two clocks say.
        renewed = before is not None and before.peer == peer
        born_stale = not renewed and now.wall_ms - last_seen_ms > record.ttl + CLOCK_SKEW_MS
        return _Seen(record=record, peer=peer, data=data, last_seen_ms=last_seen_ms, since=now.instant, born_stale=born_stale)

    def rotations(self) -> list[Output]:
        """Tell of each peer that has a new key, once."""
        news = self.superseded.items() - self._rotated
        self._rotated = frozenset(self.superseded.items())
        return [
            Notify(type="peer-rotated", agent_id=agent, data={"peerId": peer, "formerPeerId": former})
            for former, peer in sorted(news)
            for agent in self.agents_of(peer)
        ]

    def has(self, name: str, last_seen_ms: WallMs) -> bool:
        """Whether the branch has that file, as old as that or newer."""
        seen = self._seen.get(name)
        return seen is not None and seen.listed and seen.last_seen_ms >= last_seen_ms

    def names_of(self, peer: PeerId) -> tuple[str, ...]:
        """The files of that peer that the latest read had: whoever may push has let it in by them."""
        return tuple(name for name, seen in sorted(self._seen.items()) if seen.peer == peer and seen.listed)

    def agents_of(self, peer: PeerId) -> tuple[AgentId, ...]:
        """The agents whose records those are."""
        return tuple(self._seen[name].record.agent_id for name in self.names_of(peer))

    def would_renew(self, name: str, owner: PeerId, last_seen_ms: WallMs, connected: frozenset[PeerId]) -> bool:
        """Whether such a record of `owner` is news: newer than its own, or in place of another peer's stale one."""
        seen = self._seen.get(name)
        if seen is None:
            return True
        return not self._is_fresh(seen, connected) if seen.peer != owner else not self.has(name, last_seen_ms)

    def says_the_same(self, name: str, record: PeerRecord) -> bool:
        """Whether the branch has that record, but for the time in it."""
        seen = self._seen.get(name)
        if seen is None or not seen.listed:
            return False
        there = seen.record
        shape = (there.multiaddrs, there.capabilities, there.ttl, offers_relay(there))
        return shape == (record.multiaddrs, record.capabilities, record.ttl, offers_relay(record))

    def fresh_names(self, connected: frozenset[PeerId]) -> dict[str, PeerId]:
        """Files of other peers on the branch that count, and whose they are."""
        return {name: seen.peer for name, seen in self._seen.items() if seen.listed and self._is_fresh(seen, connected)}

    def fresh_peers(self) -> frozenset[PeerId]:
        """Whose records the latest read showed, and that are renewed."""
        return frozenset(seen.peer for seen in self._seen.values() if seen.listed and self._is_fresh(seen, frozenset()))

    def removable(self, connected: frozenset[PeerId]) -> list[str]:
        """Files to be removed: unchanged for twice their ttl, or that long old at first sight."""
        return [
            name
            for name, seen in sorted(self._seen.items())
            if seen.listed
            and not self._is_fresh(seen, connected)
            and (self._age(seen) >= 2 * seen.record.ttl or (seen.born_stale and self._age(seen) >= seen.record.ttl))
        ]

    def known(self, connected: frozenset[PeerId]) -> dict[PeerId, KnownPeer]:
        """The other peers, sorted by id. One whose record is gone with our own stays for a while if it is connected."""
        self._seen = {name: seen for name, seen in self._seen.items() if seen.listed or seen.remembered or seen.peer in connected}
        by_peer: dict[PeerId, list[_Seen]] = {}
        for _, seen in sorted(self._seen.items()):
            by_peer.setdefault(seen.peer, []).append(seen)
        found: dict[PeerId, KnownPeer] = {}
        for peer, all_seen in sorted(by_peer.items()):
            fresh = [seen for seen in all_seen if self._is_fresh(seen, connected)]
            latest = max(fresh or all_seen, key=lambda seen: (seen.last_seen_ms, seen.record.agent_id))
            found[peer] = KnownPeer(
                addresses=latest.record.multiaddrs,
                agents={seen.record.agent_id: seen.record for seen in fresh or all_seen},
                fresh=bool(fresh),
                remembered=latest.remembered,
                relay=offers_relay(latest.record),
            )
        return found

    def _is_fresh(self, seen: _Seen, connected: frozenset[PeerId]) -> bool:
        return seen.peer in connected or (not seen.born_stale and self._age(seen) < seen.record.ttl)

    def _age(self, seen: _Seen) -> int:
        """For how long reads have found it unchanged."""
        return max(0, self._read_at - seen.since)


def shape(known: Mapping[PeerId, KnownPeer]) -> list[object]:
    """What of it is news when it changes: everything but the times."""
    return [
        (
            (peer, entry.addresses, entry.fresh, entry.near, entry.remembered, entry.relay),
            sorted((agent, r.capabilities) for agent, r in entry.agents.items()),
        )
        for peer, entry in known.items()
    ]
