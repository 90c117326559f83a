"""This peer's own records: what they should say, what the branch has of them, and when which has to be done about it.

A record is *right* when the branch has one that was signed in this life and says what is true now; it is renewed after a third
of its ttl. Everything that is not right (missing, altered, of an earlier life) is due since it was noticed.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Mapping
from random import Random
from typing import Final, TypeAlias

import msgspec

from sudocode_coordination.core.keyring import Keyring
from sudocode_coordination.core.records import Succession, build_record, parse_wall, record_name
from sudocode_coordination.model import AgentId, Instant, Now, PeerId, PeerRecord, WallMs

MAX_OFFER_BYTES: Final = 256 << 10
"""Records in one offer: a quarter of a frame, the rest follows in the next."""
MISSING_MS: Final = 20_000
"""A publisher that has not brought a missing record back by then, or up to twice that, is not waited for."""
MAX_OFFER_RECORDS: Final = 256
"""As `wire.RecordOffer` has it."""
OFFER_GAP_MS: Final = 5_000
"""Between two offers of one record that has changed."""
TWIN_SIGHTINGS: Final = 2
"""Records under our key that are newer than this life and not ours: one may be of an earlier life, if the clock was set back."""
MAX_STAMPS: Final = 256
"""Own times of signing that are remembered: many more than can still be on their way to the branch."""
MAX_SIGNED: Final = 4
"""Versions of a record that are recognised on the branch: the publisher may push one that is a few old."""

_Content: TypeAlias = tuple[tuple[str, ...], tuple[str, ...]]
"""Addresses and capabilities."""


class _Mine(msgspec.Struct, kw_only=True):
    capabilities: tuple[str, ...]
    wrong_since: Instant | None
    """Since when the branch is known to lack it, or to say something else."""
    signed: dict[bytes, tuple[Instant, _Content]] = {}
    on_branch: bytes | None = None
    was_published: bool = False
    offered_to: PeerId | None = None
    offered_at: Instant = 0
    offered: _Content | None = None
    renew_ms: int
    """Age at which it is renewed, jittered."""
    fallback_ms: int
    """How long a publisher has until we push ourselves, beyond a renewal's or a change's due time."""


class OwnRecords:
    """Book-keeping for `discovery.Discovery`.

    Args:
        keyring: signs.
        ttl_ms: of the records.
        rng: dice for jitter.
        relay: whether this peer offers to relay for others.
    """

    def __init__(self, keyring: Keyring, ttl_ms: int, rng: Random, *, relay: bool = False) -> None:
        self._keyring = keyring
        self._ttl = ttl_ms
        self._relay = relay
        self._shown: tuple[AgentId, _Content] | None = None
        """What neighbours were last told."""
        self._rng = rng
        self._addresses: tuple[str, ...] | None = None
        self._agents_known = False
        self._mine: dict[str, _Mine] = {}
        self._agents: dict[str, AgentId] = {}
        self._leftover: dict[str, Instant] = {}
        self._in_push: frozenset[str] = frozenset()
        """Own names in the latest `changes`: if the agent left meanwhile, the record has to go again."""
        self._replaces: Succession | None = None
        self._last_wall: WallMs = 0
        self._stamps: deque[WallMs] = deque(maxlen=MAX_STAMPS)
        self._twins: deque[tuple[Instant, str, str]] = deque(maxlen=TWIN_SIGHTINGS)
        """When records were found that somebody else has signed with our key: instant, lastSeen, agent."""
        self.ever_published = False
        """Whether this life's records have been on the branch: others let us in."""
        self.conflicts: dict[str, str] = {}
        """File names of own agents that another peer's record has taken -> what to do."""

    @property
    def ready(self) -> bool:
        """Whether it is known what to publish."""
        return self._addresses is not None and self._agents_known

    @property
    def published(self) -> bool:
        """Whether the branch has all own records, and they are right."""
        return self.ready and not any(self._is_wrong(m) for n, m in self._mine.items() if n not in self.conflicts)

    def rotated(self, former: Succession) -> None:
        """This peer had that id before."""
        self._replaces = former

    # --- what should be there ----------------------------------------------------------------------------------------------

    def set_addresses(self, addresses: tuple[str, ...], instant: Instant) -> None:
        """The own addresses are these."""
        if addresses != self._addresses:
            self._addresses = addresses
            self._note_wrong(instant)

    def set_agents(self, agents: Mapping[AgentId, tuple[str, ...]], instant: Instant) -> None:
        """The own agents are these, with their capabilities."""
        self._agents_known = True
        wanted = {record_name(agent): agent for agent in sorted(agents)}
        for name in sorted(self._mine.keys() - wanted.keys()):
            gone = self._mine.pop(name)
            if (gone.on_branch is not None or gone.signed) and name not in self.conflicts:
                self._leftover[name] = instant
            self.conflicts.pop(name, None)
        self._agents = wanted
        for name, agent in wanted.items():
            self._leftover.pop(name, None)
            mine = self._mine.get(name)
            if mine is None:
                self._mine[name] = self._new(agents[agent], instant)
            else:
                mine.capabilities = agents[agent]
        self._note_wrong(instant)

    def _new(self, capabilities: tuple[str, ...], instant: Instant) -> _Mine:
        mine = _Mine(capabilities=capabilities, wrong_since=instant, renew_ms=0, fallback_ms=0)
        self._roll(mine)
        return mine

    def _roll(self, mine: _Mine) -> None:
        mine.renew_ms = int(self._ttl / 3 * self._rng.uniform(0.8, 1.0))
        mine.fallback_ms = int(self._ttl / 3 * self._rng.uniform(1.0, 1.2))

    # --- what is there -----------------------------------------------------------------------------------------------------

    def branch_read(
        self,
        own: Mapping[str, tuple[bytes, PeerRecord]],
        others: Mapping[str, PeerId],
        instant: Instant,
        former: Iterable[str] = (),
    ) -> None:
        """The branch has these files of ours, these fresh ones of others, and these of ids that this peer had before: what is not
        overwritten of them goes along with the same push."""
        self.conflicts = {}
        for _, record in own.values():
            self._look_for_twin(record, instant)
        for name, mine in self._mine.items():
            if name in own:
                mine.on_branch = own[name][0]
                if mine.on_branch in mine.signed:
                    mine.was_published = self.ever_published = True
                continue
            mine.on_branch = None
            if name in others and mine.was_published:
                self.conflicts[name] = (
                    f"peer {others[name]} uses the agent id {self._agents[name]!r} too, and has published it since: "
                    "give one of them another id"
                )
        self._leftover = {n: self._leftover.get(n, instant) for n in sorted({*own, *former}) if n not in self._mine}
        self._note_wrong(instant)

    def _look_for_twin(self, record: PeerRecord, instant: Instant) -> None:
        stamp = parse_wall(record.last_seen) or 0
        ours = not self._stamps or stamp <= self._stamps[0] or stamp in self._stamps
        if not ours and record.last_seen not in {last_seen for _, last_seen, _ in self._twins}:
            self._twins.append((instant, record.last_seen, record.agent_id))

    def counts_until(self, name: str) -> Instant | None:
        """Until when others take that record for renewed, by our clock: they count its ttl from when they first see it, and that is
        not before it was signed. 0: of an earlier life, so it is not known here; None: it is not on the branch."""
        mine = self._mine.get(name)
        if mine is None or mine.on_branch is None:
            return None
        signed = mine.signed.get(mine.on_branch)
        return 0 if signed is None else signed[0] + self._ttl * 99 // 101

    def clashes(self, instant: Instant) -> list[str]:
        """What stands between this clone and the others: an agent id, or the key, that another clone uses too."""
        found = [reason for _, reason in sorted(self.conflicts.items())]
        if len(self._twins) == TWIN_SIGHTINGS and instant - self._twins[-1][0] <= self._ttl:
            found.append(
                f"another clone (agent {self._twins[-1][2]!r}) has this one's identity, as a copy of its folder has, and leases "
                "of both may overlap: in the copy, stop the daemon, remove the folder sudocode-coordination in the git "
                "directory, and start it again"
            )
        return found

    def published_now(self, changes: Mapping[str, bytes | None], instant: Instant) -> None:
        """The branch has these changes; those of other peers among them are passed over."""
        for name, data in changes.items():
            mine = self._mine.get(name)
            if data is None:
                self._leftover.pop(name, None)
            elif mine is not None and data in mine.signed:
                mine.on_branch = data
                mine.was_published = self.ever_published = True
                self._roll(mine)
            elif mine is None and name in self._in_push:
                self._leftover[name] = instant
        self._in_push = frozenset()
        self._note_wrong(instant)

    def _content(self, mine: _Mine) -> _Content:
        return (self._addresses or (), mine.capabilities)

    def _is_wrong(self, mine: _Mine) -> bool:
        version = mine.signed.get(mine.on_branch) if mine.on_branch is not None else None
        return version is None or version[1] != self._content(mine)

    def _note_wrong(self, instant: Instant) -> None:
        for mine in self._mine.values():
            if not self._is_wrong(mine):
                mine.wrong_since = None
            elif mine.wrong_since is None:
                mine.wrong_since = instant

    def _due(self, mine: _Mine) -> Instant:
        """When it has to be signed anew."""
        if mine.wrong_since is not None or mine.on_branch is None:
            return mine.wrong_since or 0
        return mine.signed[mine.on_branch][0] + mine.renew_ms

    # --- what to do --------------------------------------------------------------------------------------------------------

    def publish_times(self, *, leads: bool, read_at: Instant) -> list[Instant]:
        """When this peer should push for its own records' sake.

        Args:
            leads: whether it is the publisher; otherwise it pushes only what the publisher has not.
            read_at: when the branch was last read: only a read tells that the publisher has not.
        """
        times = list(self._leftover.values())
        for name, mine in self._mine.items():
            if name in self.conflicts:
                continue
            due = self._due(mine)
            if self.ever_published and not self._introduced:
                # Somebody deleted the branch, or removed this peer: nobody else puts it back. Not all of a swarm at once.
                times.append(due + mine.fallback_ms % MISSING_MS)
                continue
            if leads or not self.ever_published:
                times.append(due)
                continue
            # A record that is missing keeps newcomers from us, one that is merely old does not.
            patience = mine.fallback_ms if mine.on_branch is not None else MISSING_MS + mine.fallback_ms % MISSING_MS
            if read_at >= due + patience:
                times.append(due + patience)
        return times

    def changes(self, now: Now) -> dict[str, bytes | None]:
        """The own part of a push: what is wrong, and, as it goes anyway, what is half-way to its renewal."""
        found: dict[str, bytes | None] = dict.fromkeys(self._leftover)
        for name, mine in self._mine.items():
            if name in self.conflicts:
                continue
            if mine.wrong_since is not None or now.instant >= self._due(mine) - mine.renew_ms // 2:
                found[name] = self._sign(name, mine, now)
        self._in_push = frozenset(name for name, data in found.items() if data is not None)
        return found

    def offer_time(self, publisher: PeerId) -> Instant | None:
        """When to offer records to the publisher next."""
        return min((self._offer_due(mine, publisher) for _, mine in self._offerable()), default=None)

    def offer(self, publisher: PeerId, now: Now) -> tuple[bytes, ...]:
        """Signed records that are due, as many as fit; offered again after a sixth of their ttl."""
        records: list[bytes] = []
        size = 0
        for name, mine in self._offerable():
            if self._offer_due(mine, publisher) > now.instant:
                continue
            data = self._sign(name, mine, now)
            size += len(data)
            if records and (size > MAX_OFFER_BYTES or len(records) == MAX_OFFER_RECORDS):
                break
            records.append(data)
            mine.offered_to, mine.offered_at, mine.offered = publisher, now.instant, self._content(mine)
        return tuple(records)

    @property
    def _introduced(self) -> bool:
        """Whether the branch has a record of this peer, so that others may bring more."""
        return any(mine.on_branch is not None for mine in self._mine.values())

    def _offerable(self) -> list[tuple[str, _Mine]]:
        if not (self.ever_published and self.ready and self._introduced):
            return []
        return [(name, mine) for name, mine in self._mine.items() if name not in self.conflicts]

    def _offer_due(self, mine: _Mine, publisher: PeerId) -> Instant:
        due = self._due(mine)
        if mine.offered_to != publisher:
            return due
        gap = self._ttl // 6 if mine.offered == self._content(mine) else OFFER_GAP_MS
        return max(due, mine.offered_at + gap)

    def names_to_remove(self) -> tuple[str, ...]:
        """Everything of ours that is on the branch or may still get there."""
        names = {n for n, m in self._mine.items() if (m.on_branch is not None or m.signed) and n not in self.conflicts}
        return tuple(sorted(names | self._leftover.keys()))

    def for_neighbours(self, now: Now) -> bytes | None:
        """A signed record to be shown on this machine, if it is to be another one than before."""
        if not self.ready or not self._mine:
            return None
        name, mine = next(iter(self._mine.items()))
        content = (self._agents[name], self._content(mine))
        if content == self._shown:
            return None
        self._shown = content
        return self._build(name, mine, now)

    def _sign(self, name: str, mine: _Mine, now: Now) -> bytes:
        data = self._build(name, mine, now)
        mine.signed[data] = (now.instant, self._content(mine))
        while len(mine.signed) > MAX_SIGNED:
            oldest = next(version for version in mine.signed if version != mine.on_branch)
            del mine.signed[oldest]
        return data

    def _build(self, name: str, mine: _Mine, now: Now) -> bytes:
        # A wall clock that was set back must not make a renewal look like an old record.
        self._last_wall = max(now.wall_ms, self._last_wall + 1)
        self._stamps.append(self._last_wall)
        return build_record(
            self._keyring,
            agent_id=self._agents[name],
            multiaddrs=self._addresses or (),
            capabilities=mine.capabilities,
            wall_ms=self._last_wall,
            ttl_ms=self._ttl,
            replaces=self._replaces,
            relay=self._relay,
        )
