"""Where the stories play: two honest clones at work, and mallory, who may push and so is a peer, but runs no program of ours.

    siege = Siege()
    siege.says(Claim(…))            # mallory, to ann, on their connection
    assert siege.is_out()             # ann has hung up,
    assert "name of another" in siege.reason   # `coord peers` says why,
    siege.is_unharmed()             # and ann and ben go on with their work

The clones are whole nodes with real keys; time, the branch and what mallory sends are in the hands of the test.
"""

from __future__ import annotations

from collections import deque
from typing import Any

from tests.core.feeds import identity

from sudocode_coordination.api.requests import AcquireLease, CoreRequest, ListPeers, ReadBranchNow, ReleaseLease
from sudocode_coordination.config import create_default_config
from sudocode_coordination.core.io import (
    Admit,
    BranchPublished,
    BranchRead,
    Dial,
    DialFailed,
    DiskContents,
    Effect,
    FrameReceived,
    GossipReceived,
    HangUp,
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
    TableReadFailed,
    Ticked,
)
from sudocode_coordination.core.node import Node
from sudocode_coordination.core.records import build_record
from sudocode_coordination.core.wire import Ack, Claim, Hello, Presence, WireMessage, decode_frame, encode_frame
from sudocode_coordination.model import Now, PeerId, PeerInfo, Resource

BIRTH = 1_000_000
WALL = 1_800_000_000_000
ADDRESS = "/ip4/192.0.2.1/tcp/1"
MALLORY = identity("mallory")


class Clone:
    """An honest one."""

    def __init__(self, name: str, **config: Any) -> None:
        self.name = name
        self.key = identity(name)
        self.peer: PeerId = self.key.peer_id
        self.node = Node(create_default_config(name, **config), self.key)
        self.links: set[PeerId] = set()
        self.admitted: tuple[PeerId, ...] = ()
        self.replies: dict[int, Reply] = {}
        self.effects: list[Effect] = []


class Siege:
    """See the module. `friends`: further honest clones beside ann and ben."""

    def __init__(self, *friends: str, connected: bool = True, **config: Any) -> None:
        self.instant = BIRTH
        self.clones = {name: Clone(name, **config) for name in ("ann", "ben", *friends)}
        self.by_peer = {clone.peer: clone for clone in self.clones.values()}
        self.ann, self.ben = self.clones["ann"], self.clones["ben"]
        self.mallory = MALLORY.peer_id
        self.heard: list[WireMessage] = []
        """What ann said to mallory."""
        self.branch = {f"agent-{name}.json": self.record_of(name) for name in (*self.clones, "mallory")}
        self._inbox: deque[tuple[Clone, Input]] = deque()
        self._asked = 0
        self._commits = 0
        for clone in self.clones.values():
            self.gives(clone, Started(contents=DiskContents(), seed=1, newborn=True))
            self.gives(clone, Listening(addresses=(ADDRESS,)))
        self.advance(2_000)
        self._link_friends()
        if connected:
            self.connects()
        self.advance(2_000)

    @property
    def now(self) -> Now:
        return Now(self.instant, WALL + self.instant - BIRTH)

    def record_of(self, name: str, **changes: Any) -> bytes:
        values: dict[str, Any] = {"agent_id": name, "multiaddrs": (ADDRESS,), "capabilities": ("code",), "ttl_ms": 900_000}
        return build_record(identity(name), **(values | {"wall_ms": self.now.wall_ms} | changes))

    def _link_friends(self) -> None:
        names = sorted(self.clones)
        for i, one in enumerate(names):
            for other in names[:i]:
                first, second = self.clones[one], self.clones[other]
                for clone, far in ((first, second), (second, first)):
                    clone.links.add(far.peer)
                    self._inbox.append((clone, PeerConnected(peer=far.peer, address=ADDRESS, direction="in")))
        self.runs()

    # --- mallory ----------------------------------------------------------------------------------------------------------

    def connects(self, *, hello: bool = True) -> bool:
        """Mallory connects to ann, if ann lets that peer in."""
        if self.mallory not in self.ann.admitted:
            return False
        self.ann.links.add(self.mallory)
        self.gives(self.ann, PeerConnected(peer=self.mallory, address=ADDRESS, direction="in"))
        if hello:
            self.says(Hello(incarnation=1))
        return True

    def sends(self, frame: bytes) -> None:
        """A frame of mallory's to ann, if they are connected."""
        if self.mallory in self.ann.links:
            self.gives(self.ann, FrameReceived(peer=self.mallory, frame=frame))

    def says(self, *messages: WireMessage) -> None:
        """The same, of messages."""
        self.sends(encode_frame(messages))

    def gossips(self, topic: str, data: bytes) -> None:
        """Something reaches ann by gossip."""
        self.gives(self.ann, GossipReceived(topic=topic, data=data))

    def is_out(self) -> bool:
        """Ann has hung up on mallory, and does not let that peer in."""
        return self.mallory not in self.ann.links and self.mallory not in self.ann.admitted

    @property
    def reason(self) -> str:
        """What `coord peers` of ann says of mallory; empty if nothing."""
        return next((peer.reason or "" for peer in self.peers() if peer.peer_id == self.mallory), "")

    # --- the honest -------------------------------------------------------------------------------------------------------

    def peers(self, name: str = "ann") -> tuple[PeerInfo, ...]:
        found: tuple[PeerInfo, ...] = self.asks(name, ListPeers())
        return found

    def asks(self, name: str, request: CoreRequest, *, within_ms: int = 0) -> Any:
        """The answer to a client's request; an error is a failure of the test."""
        self._asked += 1
        asked = self._asked
        self.gives(self.clones[name], RequestReceived(client=1, request_id=asked, request=request))
        self.advance(within_ms)
        reply = self.clones[name].replies[asked]
        assert reply.error is None, reply.error
        return reply.value

    def is_unharmed(self) -> None:
        """Ann and ben are connected, take leases one after the other, and each sees what the other has."""
        assert self.ben.peer in self.ann.links
        for name, other in (("ann", "ben"), ("ben", "ann")):
            path = f"src/{name}-{self._asked}.py"
            outcome = self.asks(name, AcquireLease(resources=(Resource("file", path),)), within_ms=20_000)
            assert outcome.granted, outcome
            refusal = self.asks(other, AcquireLease(resources=(Resource("file", path),)), within_ms=20_000)
            assert [holder.agent_id for holder in refusal.holders] == [name]
            self.asks(name, ReleaseLease(everything=True))

    def looks(self) -> None:
        """Ann and ben read the branch."""
        for clone in self.clones.values():
            self._asked += 1
            self.gives(clone, RequestReceived(client=1, request_id=self._asked, request=ReadBranchNow()))
        self.advance(2_000)

    # --- steps ------------------------------------------------------------------------------------------------------------

    def gives(self, clone: Clone, given: Input) -> None:
        self._inbox.append((clone, given))
        self.runs()

    def runs(self) -> None:
        while self._inbox:
            clone, given = self._inbox.popleft()
            for effect in clone.node.handle(given, self.now):
                self._carry_out(clone, effect)

    def advance(self, milliseconds: int) -> None:
        """Time passes, with all timers."""
        end = self.instant + milliseconds
        while True:
            due = {name: at for name, clone in self.clones.items() if (at := clone.node.deadline()) is not None}
            if not due or min(due.values()) > end:
                break
            name = min(due, key=lambda name: due[name])
            self.instant = max(self.instant, due[name])
            self.gives(self.clones[name], Ticked())
        self.instant = end

    def _carry_out(self, clone: Clone, effect: Effect) -> None:
        if not isinstance(effect, Persist):
            clone.effects.append(effect)
        match effect:
            case Send(peer=peer, frame=frame) if peer in clone.links:
                if peer in self.by_peer:
                    self._inbox.append((self.by_peer[peer], FrameReceived(peer=clone.peer, frame=frame)))
                else:
                    self._answer(decode_frame(frame))
            case HangUp(peer=peer, reason=reason):
                self._cut(clone, peer, reason)
            case Admit(peers=peers):
                clone.admitted = peers
                for peer in sorted(clone.links - set(peers)):
                    self._cut(clone, peer, "no longer admitted")
            case Dial(peer=peer):
                self._inbox.append((clone, DialFailed(peer=peer, reason="no answer")))
            case ReadBranch():
                self._commits += 1
                self._inbox.append((clone, BranchRead(commit=f"{self._commits:040x}", records=dict(self.branch))))
            case Publish(ticket=ticket, changes=changes):
                self.branch.update({name: data for name, data in changes.items() if data is not None})
                self._commits += 1
                self._inbox.append((clone, BranchPublished(ticket=ticket, commit=f"{self._commits:040x}")))
            case ReadTable():
                self._inbox.append((clone, TableReadFailed(reason="there is none in this story")))
            case Reply(request_id=asked):
                clone.replies[asked] = effect
            case _:
                pass

    def _answer(self, messages: tuple[WireMessage, ...]) -> None:
        """Mallory answers as everybody does: not to answer claims is to deny leases, which peers are trusted not to do."""
        self.heard += messages
        answers: list[WireMessage] = [Ack(id=m.claim.id, round=m.round) for m in messages if isinstance(m, Claim)]
        answers += [beat(pong=m.ping) for m in messages if isinstance(m, Presence) and m.pong is None]
        if answers:
            self._inbox.append((self.ann, FrameReceived(peer=self.mallory, frame=encode_frame(answers))))

    def _cut(self, clone: Clone, peer: PeerId, reason: str) -> None:
        if peer not in clone.links:
            return
        clone.links.discard(peer)
        self._inbox.append((clone, PeerDisconnected(peer=peer, reason=reason)))
        if peer in self.by_peer:
            self.by_peer[peer].links.discard(clone.peer)
            self._inbox.append((self.by_peer[peer], PeerDisconnected(peer=clone.peer, reason="closed by the peer")))


def beat(incarnation: int = 1, count: int = 1, *, pong: int | None = None) -> Presence:
    """A sign of life."""
    return Presence(incarnation=incarnation, count=count, pong=pong)
