"""Several whole nodes, one branch, one strict table; what one says the others hear at once, unless a test cuts a link.

swarm = NodeSwarm("ann", "ben")
lease = swarm.asks("ann", AcquireLease(resources=FILE, strict=True)).lease
"""

from __future__ import annotations

from collections import deque
from random import Random
from typing import Any

from tests.core.discovery_bench import record
from tests.core.strict_bench import BIRTH, WALL, Answer, Chain, Port

from sudocode_coordination.api.events import Event
from sudocode_coordination.api.requests import CoreRequest
from sudocode_coordination.config import create_default_config
from sudocode_coordination.core.io import (
    BranchPublished,
    BranchRead,
    BuildTable,
    Dial,
    DiskContents,
    Emit,
    FrameReceived,
    Input,
    Listening,
    PeerConnected,
    PeerDisconnected,
    Persist,
    Publish,
    ReadBranch,
    ReadTable,
    Reply,
    RequestReceived,
    Send,
    Started,
    Stopped,
    StopRequested,
    SwapTable,
    Ticked,
)
from sudocode_coordination.core.node import Node
from sudocode_coordination.errors import error_from_code
from sudocode_coordination.model import Now, PeerId
from sudocode_coordination.sim.disk import SimDisk
from sudocode_coordination.sim.identity import SimKeyring


class Clone:
    """A node and its place in the swarm."""

    def __init__(self, name: str, swarm: NodeSwarm, **config: Any) -> None:
        self.name = name
        self.key = SimKeyring(name)
        self.config = create_default_config(name, **config)
        self.node = Node(self.config, self.key)
        self.disk = SimDisk(Random(1))
        self.port = Port(swarm.chain)
        self.how: Answer = "well"
        """How the remote answers this one."""
        self.replies: dict[int, Reply] = {}
        self.events: list[Event] = []
        self.stopped = False

    @property
    def peer(self) -> PeerId:
        return self.key.peer_id


class NodeSwarm:
    """All start, find each other on the branch and are connected."""

    def __init__(self, *names: str, connected: bool = True, **config: Any) -> None:
        self.instant = BIRTH
        self.chain = Chain()
        self.branch: dict[str, bytes] = {}
        self.clones = {name: Clone(name, self, **config) for name in names}
        self.links: set[frozenset[str]] = set()
        self._inbox: deque[tuple[str, Input]] = deque()
        self._asked = 0
        self._commits = 0
        for clone in self.clones.values():
            self.branch[f"agent-{clone.name}.json"] = record(clone.key, clone.name, wall_ms=self.now.wall_ms)
        for name in names:
            self[name].disk.load()
            self.gives(name, Started(contents=DiskContents(), seed=1, newborn=True))
            self.gives(name, Listening(addresses=("/ip4/192.0.2.1/tcp/1",)))
        self.settles(2_000)
        if connected:
            self.connects()
        self.settles(2_000)

    def __getitem__(self, name: str) -> Clone:
        return self.clones[name]

    @property
    def now(self) -> Now:
        return Now(self.instant, WALL + self.instant - BIRTH)

    def name_of(self, peer: PeerId) -> str:
        return next(name for name, clone in self.clones.items() if clone.peer == peer)

    def connects(self) -> None:
        names = sorted(self.clones)
        for i, one in enumerate(names):
            for other in names[:i]:
                if frozenset({one, other}) not in self.links:
                    self.links.add(frozenset({one, other}))
                    self._inbox.append((one, PeerConnected(peer=self[other].peer, address="/x", direction="in")))
                    self._inbox.append((other, PeerConnected(peer=self[one].peer, address="/x", direction="out")))
        self.runs()

    def cuts(self, one: str, other: str) -> None:
        self.links.discard(frozenset({one, other}))
        for here, there in ((one, other), (other, one)):
            self.gives(here, PeerDisconnected(peer=self[there].peer, reason="cut"))

    def restarts(self, name: str) -> None:
        """As after kill -9, a second later. It is connected to nobody."""
        clone = self[name]
        clone.disk.kill()
        clone.port.jobs.clear()
        for link in [link for link in self.links if name in link]:
            self.links.discard(link)
            (other,) = link - {name}
            self.gives(other, PeerDisconnected(peer=clone.peer, reason="killed"))
        self.settles(1_000)
        clone.node, clone.stopped = Node(clone.config, clone.key), False
        self.gives(name, Started(contents=clone.disk.load(), seed=2))
        self.gives(name, Listening(addresses=("/ip4/192.0.2.1/tcp/1",)))
        self.settles(2_000)

    # --- steps ------------------------------------------------------------------------------------------------------------

    def gives(self, name: str, given: Input) -> None:
        self._inbox.append((name, given))
        self.runs()

    def runs(self) -> None:
        """Until nobody has anything to say; the remote's answers for the table wait."""
        while self._inbox:
            name, given = self._inbox.popleft()
            clone = self[name]
            if clone.stopped:
                continue
            for effect in clone.node.handle(given, self.now):
                match effect:
                    case Send(peer=peer, frame=frame):
                        other = self.name_of(peer)
                        if frozenset({name, other}) in self.links:
                            self._inbox.append((other, FrameReceived(peer=clone.peer, frame=frame)))
                    case ReadBranch():
                        self._commits += 1
                        read = BranchRead(commit=f"{self._commits:040x}", records=dict(self.branch))
                        self._inbox.append((name, read))
                    case Publish(ticket=ticket, changes=changes):
                        for file, data in changes.items():
                            self.branch.pop(file, None)
                            if data is not None:
                                self.branch[file] = data
                        self._commits += 1
                        self._inbox.append((name, BranchPublished(ticket=ticket, commit=f"{self._commits:040x}")))
                    case Persist(operations=operations):
                        clone.disk.write(operations)
                    case ReadTable() | SwapTable() | BuildTable():
                        clone.port.jobs.append(effect)
                    case Reply(request_id=request_id):
                        assert request_id not in clone.replies, "answered once"
                        clone.replies[request_id] = effect
                    case Emit(event=event):
                        clone.events.append(event)
                    case Dial() | Stopped():
                        clone.stopped = clone.stopped or isinstance(effect, Stopped)
                    case _:
                        pass

    def remote(self) -> bool:
        """The remote answers everybody's first job."""
        busy = [clone for clone in self.clones.values() if clone.port.jobs]
        for clone in busy:
            self.gives(clone.name, clone.port.answer(clone.how))
        return bool(busy)

    def settles(self, ms: int = 0) -> None:
        """Time passes, with timers, messages and the remote's answers."""
        end = self.instant + ms
        while True:
            self.runs()
            if self.remote():
                continue
            due = {name: at for name, c in self.clones.items() if not c.stopped and (at := c.node.deadline()) is not None}
            if not due or min(due.values()) > end:
                break
            name = min(due, key=lambda name: due[name])
            self.instant = max(self.instant, due[name])
            self.gives(name, Ticked())
        self.instant = end

    # --- clients ------------------------------------------------------------------------------------------------------------

    def puts(self, name: str, request: CoreRequest) -> int:
        """A question; its number."""
        self._asked += 1
        self.gives(name, RequestReceived(client=1, request_id=self._asked, request=request))
        return self._asked

    def asks(self, name: str, request: CoreRequest, *, within_ms: int = 0) -> Any:
        """The answer; the error that it is, raised."""
        asked = self.puts(name, request)
        self.settles(within_ms)
        return self.answer(name, asked)

    def answer(self, name: str, asked: int) -> Any:
        reply = self[name].replies[asked]
        if reply.error is not None:
            raise error_from_code(reply.error.code, reply.error.message, reply.error.hint)
        return reply.value

    def answered(self, name: str, asked: int) -> bool:
        return asked in self[name].replies

    def stops(self, name: str) -> None:
        self.gives(name, StopRequested())

    def heard(self, name: str, kind: str, agent: str = "") -> list[Event]:
        return [e for e in self[name].events if e.type == kind and (not agent or e.agent_id == agent)]
