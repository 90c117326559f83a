"""Lease machines wired together by hand: a test says who asks, which message arrives when, what is lost, and how time passes.

bench = Bench("alice", "bob")
bench.asks("alice", "a.py")                  # the claim is on its way
bench.delivers("alice", "bob")               # bob has it, his answer is on its way
bench.settles()                              # all that is on its way arrives
bench.passes(60_000)                         # a minute, with every timer that falls into it
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cache
from hashlib import blake2b
from itertools import combinations
from random import Random
from typing import Any

from sudocode_coordination.api.requests import AcquireLease, LeaseOutcome
from sudocode_coordination.config import CoordinationConfig, create_default_config
from sudocode_coordination.core.facts import EntryChange, Misbehaved, Notify, Output, Root, Say, Write
from sudocode_coordination.core.holdings import Holding, Ticket, View
from sudocode_coordination.core.io import DiskContents, Persist, Reply, StoredValue
from sudocode_coordination.core.leases import LeaseManager
from sudocode_coordination.core.own_leases import LeaseMessage
from sudocode_coordination.core.resources import overlap
from sudocode_coordination.core.wire import Claim, ClaimBody
from sudocode_coordination.model import Json, Lease, LeaseMode, Now, PartitionPolicy, PeerId, Resource

WALL_MS = 1_800_000_000_000
BIRTH = 1_000_000
"""The instant at which every bench begins."""
Link = tuple[PeerId, PeerId]
Step = tuple[Link, int]
"""The message with that number on that link arrives; from "": the peer does what it planned."""


def file(path: str) -> Resource:
    return Resource("file", path)


TTL = 300_000


def a_body(id_: str, path: str = "a.py", priority: int = 0, lamport: int = 1) -> ClaimBody:
    return ClaimBody(
        id=id_, agent="stranger", resources=(file(path),), mode="exclusive", priority=priority, lamport=lamport, ttl_ms=TTL
    )


def a_claim(id_: str, path: str = "a.py", *, granted: bool = False, round_: int = 1, priority: int = 0, lamport: int = 1) -> Claim:
    body = a_body(id_, path, priority, lamport)
    return Claim(claim=body, round=round_, hold_ms=TTL, granted=granted, grade="quorum" if granted else "provisional")


@cache
def config_of(name: PeerId, **config: Any) -> CoordinationConfig:
    return create_default_config(f"agent-of-{name}", **config)


class Ring:
    """`Keyring` of a peer by its plain name. Signatures are no cryptography, but nobody makes one by chance."""

    def __init__(self, name: PeerId) -> None:
        self.peer_id = name
        self.public_key = name.encode()

    def sign(self, data: bytes) -> bytes:
        return blake2b(data, key=self.public_key, digest_size=64).digest()

    def verify(self, peer_id: PeerId, data: bytes, signature: bytes) -> bool:
        return blake2b(data, key=peer_id.encode(), digest_size=64).digest() == signature

    def public_key_of(self, peer_id: PeerId) -> bytes | None:
        return peer_id.encode()


class Station:
    """One peer: its machine, and all that came out of it."""

    def __init__(self, name: PeerId, **config: Any) -> None:
        self.name = name
        self.config = config_of(name, **config)
        self.incarnation = 1
        self.machine = LeaseManager(name, self.config, Ring(name))
        self.answers: dict[int, LeaseOutcome] = {}
        self.events: list[Notify] = []
        self.faults: list[Misbehaved] = []
        """What it saw others do that they may not."""
        self.said: list[tuple[PeerId, LeaseMessage]] = []
        self.document: dict[str, Json] = {}
        """Its leases there …"""
        self.history: dict[str, Json] = {}
        """… and those that are over."""
        self.disk: dict[str, StoredValue] = {}

    def contents(self) -> dict[tuple[Root, str], Json]:
        """What it has written, and not taken back."""
        roots: dict[Root, dict[str, Json]] = {"leases": self.document, "leaseHistory": self.history}
        return {(root, key): value for root, entries in roots.items() for key, value in entries.items()}

    def told(self, kind: str) -> list[dict[str, Json]]:
        """The data of all events of one type."""
        return [event.data for event in self.events if event.type == kind]

    def holding(self, index: int = -1) -> Holding:
        """One of its own claims, the youngest by default."""
        return self.machine.holdings()[index]

    def held(self) -> list[Holding]:
        return [h for h in self.machine.holdings() if h.granted]


class Bench:
    """A roster of peers.

    Args:
        names: of the peers, who all see one another.
        fresh: whether the roster was read recently enough for a quorum.
        folding: those in whose clones case does not count.
        config: of every peer.
    """

    def __init__(
        self, *names: PeerId, fresh: bool = True, policy: PartitionPolicy = "open", folding: tuple[PeerId, ...] = (), **config: Any
    ) -> None:
        self.instant = BIRTH
        self.fresh = fresh
        self.stations = {name: Station(name, partition_policy=policy, ignore_case=name in folding, **config) for name in names}
        self.links: dict[Link, dict[int, LeaseMessage]] = {(a, b): {} for a in names for b in names if a != b}
        self.plans: dict[PeerId, Callable[[], object]] = {}
        self.sent: dict[Link, int] = dict.fromkeys(self.links, 0)
        self.replicas: dict[Link, dict[tuple[Root, str], Json]] = {}
        """What a reader has of an author's document."""
        self.cuts: set[Link] = set()
        self.suspected: dict[PeerId, set[PeerId]] = {name: set() for name in names}
        self.gone: dict[PeerId, set[PeerId]] = {name: set() for name in names}
        self._asked = 0
        for name in names:
            self.does(name, self.of(name).started(1, DiskContents(), self.now, newborn=True))
            self.looks(name)

    # --- time and place -----------------------------------------------------------------------------------------------

    @property
    def now(self) -> Now:
        return Now(self.instant, WALL_MS + self.instant - BIRTH)

    def of(self, name: PeerId) -> LeaseManager:
        return self.stations[name].machine

    def __getitem__(self, name: PeerId) -> Station:
        return self.stations[name]

    def reaches(self, one: PeerId, other: PeerId) -> bool:
        return one != other and (one, other) not in self.cuts

    def view(self, name: PeerId) -> View:
        everyone = tuple(sorted(self.stations))
        return View(
            roster=everyone,
            established=everyone,
            connected=frozenset(other for other in everyone if self.reaches(name, other)),
            suspected=frozenset(self.suspected[name]),
            gone=frozenset(self.gone[name]),
            roster_fresh=self.fresh,
            ready=True,
        )

    def looks(self, name: PeerId) -> None:
        """The peer is told of the swarm as it is."""
        self.does(name, self.of(name).view_changed(self.view(name), self.now))

    def does(self, name: PeerId, outputs: list[Output]) -> None:
        """Carry out what a machine wants done."""
        station = self.stations[name]
        for output in outputs:
            match output:
                case Say(peer=peer, message=message):
                    station.said.append((peer, message))  # type: ignore[arg-type]
                    if self.reaches(name, peer):
                        self.sent[name, peer] += 1
                        self.links[name, peer][self.sent[name, peer]] = message  # type: ignore[assignment]
                case Reply(request_id=asked, value=value):
                    assert asked not in station.answers, "a request is answered once"
                    station.answers[asked] = value
                case Notify():
                    station.events.append(output)
                case Misbehaved():
                    station.faults.append(output)
                case Write(root=root, key=key, value=value):
                    document = station.history if root == "leaseHistory" else station.document
                    document[key] = value
                    if value is None:
                        del document[key]
                case Persist(operations=operations):
                    for operation in operations:
                        key = operation.key  # type: ignore[union-attr]
                        station.disk.pop(key, None)
                        if isinstance(operation, StoredValue):
                            station.disk[key] = operation
                case _:
                    raise AssertionError(output)

    # --- what agents do -------------------------------------------------------------------------------------------------

    def asks(
        self,
        name: PeerId,
        *paths: str,
        agent: str = "",
        priority: int = 0,
        ttl_ms: int | None = None,
        wait_ms: int | None = None,
        mode: LeaseMode = "exclusive",
        client: int = 1,
        note: str = "",
    ) -> int:
        """An agent asks for files; the number of the question."""
        self._asked += 1
        request = AcquireLease(
            resources=tuple(file(path) for path in paths), priority=priority, ttl_ms=ttl_ms, mode=mode, wait_ms=wait_ms, note=note
        )
        ticket = Ticket(client, self._asked)
        self.does(name, self.of(name).acquire(agent or f"agent-of-{name}", request, ticket, self.now))
        return self._asked

    def releases(
        self, name: PeerId, *paths: str, agent: str = "", everything: bool = False, commit: str | None = None, branch: str = ""
    ) -> list[Lease]:
        wanted = tuple(file(path) for path in paths)
        leases, outputs = self.of(name).release(
            agent or f"agent-of-{name}", wanted, self.now, everything=everything, commit=commit, branch=branch
        )
        self.does(name, outputs)
        return leases

    def answer(self, asked: int) -> LeaseOutcome | None:
        """What a question was answered, if it was."""
        return next((s.answers[asked] for s in self.stations.values() if asked in s.answers), None)

    def granted(self, asked: int) -> bool:
        answer = self.answer(asked)
        return answer is not None and answer.granted

    def holders(self, path: str) -> list[PeerId]:
        """Who believes that an agent of its own holds the file, and may by its clock."""
        return [
            name
            for name, station in sorted(self.stations.items())
            for holding in station.held()
            if file(path) in holding.body.resources and self.instant < holding.valid_until
        ]

    # --- what the wires do ------------------------------------------------------------------------------------------------

    def under_way(self, sender: PeerId, receiver: PeerId) -> list[LeaseMessage]:
        return list(self.links[sender, receiver].values())

    def delivers(self, sender: PeerId, receiver: PeerId) -> None:
        """The oldest message of that link arrives."""
        link = self.links[sender, receiver]
        self.hears(receiver, sender, link.pop(next(iter(link))))

    def hears(self, receiver: PeerId, sender: PeerId, message: LeaseMessage) -> None:
        """A message that may be no answer to anything."""
        self.does(receiver, self.of(receiver).received(sender, message, self.now))
        self._is_exclusive()

    def _is_exclusive(self) -> None:
        """The first law, after every step: quorum leases that are valid together do not conflict."""
        valid = [
            (name, holding.body)
            for name, station in self.stations.items()
            for holding in station.held()
            if holding.grade == "quorum" and self.instant < holding.valid_until
        ]
        for (one, body), (other, rival) in combinations(valid, 2):
            shared = body.mode == rival.mode == "shared"
            same = one == other and body.agent == rival.agent
            clash = any(overlap(a, b, fold_case=body.fold or rival.fold) for a in body.resources for b in rival.resources)
            assert shared or same or not clash, f"{body} and {rival} are held together"

    def drops(self, sender: PeerId, receiver: PeerId) -> None:
        """All that is under way on that link is lost."""
        self.links[sender, receiver].clear()

    def settles(self) -> None:
        """Everything arrives, link by link, and then what was written, until nobody has anything to say."""
        while any(self.links.values()):
            for sender, receiver in sorted(self.links):
                while self.links[sender, receiver]:
                    self.delivers(sender, receiver)
            if not any(self.links.values()):
                for author, reader in sorted(self.links):
                    self.writes_reach(reader, author)

    def plans_to(self, name: PeerId, act: Callable[[], object]) -> None:
        """The peer will do that, some time among the messages it gets: a step like them."""
        self.plans[name] = act

    def ready(self, *, reorder: bool) -> list[Step]:
        """What may happen next: of each link its oldest message, or any if the order of a link does not hold either."""
        plans: list[Step] = [(("", name), 0) for name in sorted(self.plans)]
        numbers = {link: list(queue) if reorder else list(queue)[:1] for link, queue in self.links.items()}
        return plans + [(link, number) for link in sorted(numbers) for number in numbers[link]]

    def takes(self, step: Step) -> None:
        """It happens."""
        (sender, receiver), number = step
        if sender:
            self.hears(receiver, sender, self.links[sender, receiver].pop(number))
        else:
            self.plans.pop(receiver)()

    def cut(self, one: PeerId, other: PeerId, *, suspected: bool = True) -> None:
        """The connection of two is lost, with what was under way on it."""
        for a, b in ((one, other), (other, one)):
            self.cuts.add((a, b))
            self.links[a, b].clear()
            if suspected:
                self.suspected[a].add(b)
        for name in (one, other):
            self.looks(name)

    def isolates(self, name: PeerId) -> None:
        """Nobody reaches it any more."""
        for other in sorted(self.stations):
            if other != name:
                self.cut(name, other)

    def heals(self, one: PeerId, other: PeerId) -> None:
        """The two have a connection again."""
        for a, b in ((one, other), (other, one)):
            self.cuts.discard((a, b))
            self.suspected[a].discard(b)
            self.gone[a].discard(b)
        for a, b in ((one, other), (other, one)):
            self.looks(a)
            self.does(a, self.of(a).peer_up(b, self.now))

    def loses_sight(self, name: PeerId, of: PeerId) -> None:
        """The grace is over: to that peer the other is gone."""
        self.gone[name].add(of)
        self.looks(name)

    def writes_reach(self, reader: PeerId, author: PeerId) -> None:
        """The reader's replica of the author's document is as the author has it, if they are connected."""
        before, after = self.replicas.get((author, reader), {}), self[author].contents()
        keys = [key for key in sorted(before.keys() | after.keys()) if before.get(key) != after.get(key)]
        if keys and self.reaches(author, reader):
            self.replicas[author, reader] = after
            changes = tuple(EntryChange(root=root, key=key, value=after.get((root, key))) for root, key in keys)
            self.does(reader, self.of(reader).entries_changed(author, changes, self.now))

    # --- time ---------------------------------------------------------------------------------------------------------------

    def passes(self, ms: int, *, frozen: tuple[PeerId, ...] = (), silent: bool = False) -> None:
        """Time passes for all; `frozen` peers sleep through it, and if `silent`, nothing that is said arrives."""
        end = self.instant + ms
        while True:
            due = [(at, name) for name in self.stations if name not in frozen and (at := self.of(name).deadline()) is not None]
            if not due or min(due)[0] > end:
                break
            at, name = min(due)
            self.instant = max(self.instant, at)
            self.ticks(name)
            later = self.of(name).deadline()
            assert later is None or later > self.instant, "a timer that has run and is still due would spin"
            if not silent:
                self.settles()
        self.instant = end

    def ticks(self, name: PeerId) -> None:
        self.does(name, self.of(name).ticked(self.now))
        self._is_exclusive()

    def restarts(self, name: PeerId, *, intact: bool = True, told: bool = True) -> None:
        """The process dies and begins anew with what was on its disk; `told`: the others get its hello."""
        old = self.stations[name]
        new = Station(name)
        new.config, new.disk, new.document = old.config, old.disk, {}
        new.incarnation = old.incarnation + 1
        new.machine = LeaseManager(name, old.config, Ring(name))
        self.stations[name] = new
        for link in self.links:
            if name in link:
                self.links[link].clear()
            if link[1] == name:
                self.replicas.pop(link, None)
        contents = DiskContents(values=tuple(old.disk.values()), intact=intact)
        new.history = dict(old.history)
        loaded = tuple(EntryChange(root="leaseHistory", key=key, value=value) for key, value in sorted(old.history.items()))
        ended, held = sorted(old.history.items()), sorted(old.document.items())
        self.does(name, list(new.machine.history.restarted(ended, held, self.now)))
        self.does(name, new.machine.entries_changed(name, loaded, self.now))
        self.does(name, new.machine.started(new.incarnation, contents, self.now))
        self.looks(name)
        for other in sorted(self.stations):
            if told and self.reaches(name, other):
                self.does(other, self.of(other).peer_started(name, new.incarnation, self.now))
                self.does(other, self.of(other).peer_up(name, self.now))


@dataclass(slots=True)
class _Crossroads:
    chosen: Step
    ahead: list[Step]
    asleep: set[Step]


def every_order(scene: Callable[[], Bench], *, reorder: bool = False) -> Iterator[Bench]:
    """The bench at the end of every order in which what is under way, and what follows from it, can arrive.

    Orders that differ only in what happens at different peers are one: nobody could tell them apart (sleep sets, Godefroid).

    Args:
        scene: makes the bench, the same each time.
        reorder: the links do not keep the order either.
    """
    path: list[_Crossroads] = []
    while True:
        bench = scene()
        asleep: set[Step] = set()
        for crossing in path:
            bench.takes(crossing.chosen)
            asleep = {step for step in crossing.asleep if step[0][1] != crossing.chosen[0][1]}
        ready = bench.ready(reorder=reorder)
        while ready and (ahead := [step for step in ready if step not in asleep]):
            chosen = ahead.pop(0)
            path.append(_Crossroads(chosen, ahead, set(asleep)))
            bench.takes(chosen)
            asleep = {step for step in asleep if step[0][1] != chosen[0][1]}
            ready = bench.ready(reorder=reorder)
        if not ready:
            yield bench
        while path and not path[-1].ahead:
            path.pop()
        if not path:
            return
        crossing = path[-1]
        crossing.asleep.add(crossing.chosen)
        crossing.chosen = crossing.ahead.pop(0)


def any_order(bench: Bench, dice: Random) -> None:
    """One order of them, by dice."""
    while ready := bench.ready(reorder=False):
        bench.takes(dice.choice(ready))
