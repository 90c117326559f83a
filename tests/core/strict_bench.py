"""A chain on a remote, and peers that write strict leases to it, with every answer in the hands of a test.

swarm = StrictSwarm("a", "b")
swarm.wants("b", 1, "x.py")                  # b's agent wants it; b asks a, which pushes
swarm.settles()                              # everything that is on its way arrives
assert swarm["b"].tokens == {claim: 1}
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from hashlib import blake2b
from random import Random
from typing import Literal, TypeAlias

import msgspec

from sudocode_coordination.config import create_default_config
from sudocode_coordination.core.facts import Output, Say, StrictDropped, StrictGranted, StrictLost, StrictRefused, StrictWanted
from sudocode_coordination.core.holdings import View
from sudocode_coordination.core.io import (
    BuildTable,
    DiskContents,
    Input,
    Persist,
    ReadTable,
    StoredValue,
    SwapTable,
    TableBuilt,
    TableChange,
    TableRead,
    TableReadFailed,
    TableSwapFailed,
    TableSwapped,
)
from sudocode_coordination.core.resources import overlap
from sudocode_coordination.core.strict import StrictLeases
from sudocode_coordination.core.strict_table import Table
from sudocode_coordination.core.wire import ClaimBody, StrictAnswer, StrictAsk, WireMessage
from sudocode_coordination.model import ClaimId, Instant, LeaseMode, Now, PeerId, Resource

BIRTH = 1_000_000
WALL = 1_800_000_000_000
TTL = 900_000
REF = "refs/coordination/leases"
Answer: TypeAlias = Literal["well", "lost", "unsent", "down", "refused"]


def body_of(
    peer: PeerId,
    number: int,
    *paths: str,
    agent: str = "",
    mode: LeaseMode = "exclusive",
    priority: int = 0,
    incarnation: int = 1,
    ttl_ms: int = TTL,
    fold: bool = False,
) -> ClaimBody:
    resources = tuple(sorted(Resource("file", path) for path in paths))
    id_ = f"{peer}.{incarnation}.{number}"
    return ClaimBody(id_, agent or f"agent-{peer}", resources, mode, priority, number, ttl_ms, fold=fold)


def commit_of(change: TableChange) -> str:
    values = (change.parent, sorted(change.changes.items()), change.nonce, change.wall_ms)
    return blake2b(msgspec.msgpack.encode(values), digest_size=20).hexdigest()


class Chain:
    """The ref: compare-and-swap on its tip."""

    def __init__(self) -> None:
        self.tip: str | None = None
        self.files: dict[str | None, dict[str, bytes]] = {None: {}}
        self.parents: dict[str, str | None] = {}
        self.history: list[str] = []
        """Commits in the order in which they landed."""
        self.pushes = 0

    def land(self, change: TableChange) -> bool:
        self.pushes += 1
        commit = commit_of(change)
        if self.tip == commit:
            return True
        if self.tip != change.parent:
            return False
        files = dict(self.files[self.tip])
        for path, content in change.changes.items():
            files.pop(path, None)
            if content is not None:
                files[path] = content
        self.files[commit], self.parents[commit], self.tip = files, self.tip, commit
        self.history.append(commit)
        return True

    def table(self, commit: str | None = None) -> Table:
        return Table().changed(self.files[commit or self.tip])

    def descends(self, commit: str | None, ancestor: str) -> bool:
        while commit is not None and commit != ancestor:
            commit = self.parents[commit]
        return commit is not None

    def grants(self) -> list[tuple[ClaimId, int]]:
        """All that ever came into the table, with their tokens, in order."""
        found: list[tuple[ClaimId, int]] = []
        for commit in self.history:
            before, after = self.table_at(self.parents[commit]), self.table_at(commit)
            new = [entry for id_, entry in after.entries.items() if id_ not in before.entries]
            found += [(entry.id, entry.token) for entry in sorted(new, key=lambda entry: entry.token)]
        return found

    def table_at(self, commit: str | None) -> Table:
        return Table().changed(self.files[commit])


class Port:
    """A peer's way to the chain: answers in order, one at a time."""

    def __init__(self, chain: Chain) -> None:
        self._chain = chain
        self.jobs: deque[ReadTable | SwapTable | BuildTable] = deque()
        self.delivered: str | None = None
        self.doubtful: set[str] = set()

    def answer(self, how: Answer = "well") -> Input:
        """The outcome of the first job. lost: it lands, and nobody is told; unsent: the same, and it does not."""
        job = self.jobs.popleft()
        chain = self._chain
        match job:
            case ReadTable():
                if how != "well":
                    return TableReadFailed(reason="no route to host")
                old = {} if job.whole else chain.files[self.delivered]
                new = chain.files[chain.tip]
                changed: dict[str, bytes | None] = {path: data for path, data in new.items() if old.get(path) != data}
                changed |= {path: None for path in old if path not in new}
                base = None if job.whole else self.delivered
                rewound = self.delivered is not None and not chain.descends(chain.tip, self.delivered)
                self.delivered = chain.tip
                return TableRead(commit=chain.tip, base=base, changed=changed, ref=REF, rewound=rewound)
            case SwapTable():
                if how == "refused":
                    return TableSwapFailed(ticket=job.ticket, kind="refused", reason="hook declined")
                if how in ("unsent", "down", "lost"):
                    if how == "lost":
                        chain.land(job)
                    self.doubtful.add(commit_of(job))
                    return TableSwapFailed(ticket=job.ticket, kind="unknown", reason="timed out")
                if chain.land(job):
                    self.delivered = chain.tip
                    return TableSwapped(ticket=job.ticket, commit=commit_of(job))
                kind: Literal["moved", "unknown"] = "unknown" if commit_of(job) in self.doubtful else "moved"
                return TableSwapFailed(ticket=job.ticket, kind=kind, reason="stale info")
            case BuildTable():
                return TableBuilt(ticket=job.ticket, commit=commit_of(job), ref=REF, objects="/objects")


class StrictPeer:
    """One peer's machine, and what it said."""

    def __init__(self, name: PeerId, swarm: StrictSwarm, incarnation: int = 1, contents: DiskContents | None = None) -> None:
        self.name = name
        self.swarm = swarm
        self.port = Port(swarm.chain)
        self.incarnation = incarnation
        self.over: set[ClaimId] = set()
        """Claims that this peer knows to have ended."""
        config = create_default_config(f"agent-{name}")
        self.strict = StrictLeases(name, config, Random(name), self._ended)
        self.claims: dict[ClaimId, ClaimBody] = {}
        self.tokens: dict[ClaimId, int] = {}
        self.valid: dict[ClaimId, Instant] = {}
        self.refused: dict[ClaimId, StrictRefused] = {}
        self.lost: dict[ClaimId, StrictLost] = {}
        self.others: list[Output] = []
        self.disk: dict[tuple[str, str], StoredValue] = {}
        self.count = 0
        self.strict.started(incarnation, contents or DiskContents())

    def _ended(self, claim: ClaimId) -> bool:
        peer, incarnation, _ = claim.split(".")
        return claim in self.over or (peer == self.name and int(incarnation) < self.incarnation)

    def takes(self, outputs: list[Output]) -> None:
        for output in outputs:
            match output:
                case Say(peer=peer, message=message):
                    self.swarm.says(self.name, peer, message)
                case ReadTable() | SwapTable() | BuildTable():
                    self.port.jobs.append(output)
                case StrictGranted(claim=claim, token=token, valid_until=valid_until):
                    assert self.tokens.setdefault(claim, token) == token, "a lease keeps its token"
                    self.valid[claim] = valid_until
                case StrictRefused(claim=claim):
                    self.refused[claim] = output
                    self.over.add(claim)
                case StrictLost(claim=claim, reason=reason):
                    self.lost[claim] = output
                    if reason != "preempted":
                        self.valid.pop(claim, None)
                        self.over.add(claim)
                case Persist(operations=operations):
                    self.disk |= {(o.space, o.key): o for o in operations if isinstance(o, StoredValue)}
                case _:
                    self.others.append(output)
        if outputs:
            self.flush()

    def flush(self) -> None:
        if outputs := self.strict.flush(self.swarm.now):
            self.takes(outputs)

    def held(self) -> list[ClaimBody]:
        """What its agents may rely on right now."""
        return [self.claims[id_] for id_, until in self.valid.items() if self.swarm.instant < until]


class StrictSwarm:
    """Peers, their links, the chain, and one clock."""

    def __init__(self, *names: PeerId) -> None:
        self.chain = Chain()
        self.instant = BIRTH
        self.links: dict[tuple[PeerId, PeerId], deque[WireMessage]] = {}
        self.cut: set[frozenset[PeerId]] = set()
        self.peers = {name: StrictPeer(name, self) for name in names}
        self.connects()

    def __getitem__(self, name: PeerId) -> StrictPeer:
        return self.peers[name]

    @property
    def now(self) -> Now:
        return Now(self.instant, WALL + self.instant - BIRTH)

    def connected(self, name: PeerId) -> frozenset[PeerId]:
        return frozenset(n for n in self.peers if n != name and frozenset({n, name}) not in self.cut)

    def connects(self) -> None:
        """Everyone is told who is there."""
        for link in list(self.links):
            if frozenset(link) in self.cut:
                del self.links[link]
        for name, peer in self.peers.items():
            peer.strict.view_changed(View(roster=tuple(sorted(self.peers)), connected=self.connected(name)), self.now)
            peer.flush()

    def cuts(self, one: PeerId, other: PeerId) -> None:
        self.cut.add(frozenset({one, other}))
        self.connects()

    def mends(self) -> None:
        self.cut.clear()
        self.connects()

    def says(self, one: PeerId, other: PeerId, message: WireMessage) -> None:
        if frozenset({one, other}) not in self.cut:
            self.links.setdefault((one, other), deque()).append(message)

    # --- what agents do ---------------------------------------------------------------------------------------------------

    def wants(
        self,
        name: PeerId,
        *paths: str,
        agent: str = "",
        mode: LeaseMode = "exclusive",
        priority: int = 0,
        wait_ms: int | None = None,
        ttl_ms: int = TTL,
    ) -> ClaimId:
        """An agent's claim is effective among peers; `wait_ms` None: it wants to know at once, 0: it waits for ever."""
        peer = self.peers[name]
        peer.count += 1
        claim = body_of(
            name, peer.count, *paths, agent=agent, mode=mode, priority=priority, incarnation=peer.incarnation, ttl_ms=ttl_ms
        )
        peer.claims[claim.id] = claim
        decide_by = self.instant + (wait_ms or 30_000) if wait_ms != 0 else None
        peer.takes(peer.strict.told(StrictWanted(claim=claim, decide_by=decide_by, waits=wait_ms is not None), self.now))
        peer.flush()
        return claim.id

    def drops(self, name: PeerId, claim: ClaimId, reason: str = "released", *, tell: bool = True) -> None:
        """It ends; those who are connected are told."""
        peer = self.peers[name]
        peer.valid.pop(claim, None)
        for other in [name, *(self.connected(name) if tell else ())]:
            self.peers[other].over.add(claim)
        peer.takes(peer.strict.told(StrictDropped(claim=claim, reason=reason), self.now))
        for other in self.peers.values():
            other.flush()

    def dies(self, name: PeerId) -> None:
        """Killed and started again; what it has on its way to the remote is not."""
        old = self.peers[name]
        for link in [link for link in self.links if name in link]:
            del self.links[link]
        contents = DiskContents(values=tuple(old.disk.values()), intact=True)
        fresh = self.peers[name] = StrictPeer(name, self, old.incarnation + 1, contents)
        fresh.strict.view_changed(View(roster=tuple(sorted(self.peers)), connected=self.connected(name)), self.now)
        for other in self.connected(name):
            # Their hello tells them that its life before is over.
            self.peers[other].over |= old.claims.keys()
            gone = View(roster=tuple(sorted(self.peers)), connected=self.connected(other) - {name})
            self.peers[other].strict.view_changed(gone, self.now)
        self.connects()

    # --- what happens -------------------------------------------------------------------------------------------------

    def delivers(self, one: PeerId, other: PeerId) -> None:
        """The first message on that link arrives."""
        message = self.links[one, other].popleft()
        assert isinstance(message, StrictAsk | StrictAnswer)
        peer = self.peers[other]
        peer.takes(peer.strict.received(one, message, self.now))
        peer.flush()

    def answers(self, name: PeerId, how: Answer = "well") -> None:
        """The remote answers the peer's first job."""
        peer = self.peers[name]
        given = peer.port.answer(how)
        assert isinstance(given, TableRead | TableReadFailed | TableSwapped | TableSwapFailed | TableBuilt)
        peer.takes(peer.strict.writer.took(given, self.now))
        peer.flush()

    def waiting(self) -> Iterator[tuple[PeerId, PeerId]]:
        return (link for link, messages in sorted(self.links.items()) if messages)

    def settles(self, *, ms: int = 0, down: bool = False) -> None:
        """All that is on its way arrives; then time passes, with all timers."""
        end = self.instant + ms
        while True:
            busy = False
            while (link := next(self.waiting(), None)) is not None:
                self.delivers(*link)
                busy = True
            for name, peer in sorted(self.peers.items()):
                if peer.port.jobs:
                    self.answers(name, "down" if down else "well")
                    busy = True
            if busy:
                continue
            due = [at for peer in self.peers.values() if (at := peer.strict.deadline()) is not None and at <= end]
            if not due:
                break
            before = self.instant
            self.instant = max(min(due), self.instant)
            for peer in self.peers.values():
                peer.flush()
            after = [at for peer in self.peers.values() if (at := peer.strict.deadline()) is not None]
            moved = self.instant > before or any(peer.port.jobs for peer in self.peers.values()) or any(self.waiting())
            assert moved or all(at > self.instant for at in after), "a timer that has run and is still due would spin"
        self.instant = end

    # --- laws ---------------------------------------------------------------------------------------------------------

    def check(self) -> None:
        """What must hold at any moment."""
        held = [(name, claim) for name, peer in sorted(self.peers.items()) for claim in peer.held()]
        for i, (one, mine) in enumerate(held):
            for other, yours in held[:i]:
                if (one, mine.agent) != (other, yours.agent) and "exclusive" in (mine.mode, yours.mode):
                    clash = any(overlap(a, b) for a in mine.resources for b in yours.resources)
                    assert not clash, f"{mine.id} and {yours.id} are both valid"
        grants = self.chain.grants()
        tokens = [token for _, token in grants]
        assert tokens == sorted(set(tokens)), "tokens only grow"
        granted = [claim for claim, _ in grants]
        assert len(granted) == len(set(granted)), "no claim is granted twice"
        by_claim = dict(grants)
        for peer in self.peers.values():
            for claim, token in peer.tokens.items():
                assert by_claim[claim] == token, "what an agent was told is in the chain"
