"""Peers for tests of feeds and sync: real keys, a clock that stands still unless moved, and links that lose nothing."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from random import Random

import msgspec

from sudocode_coordination.adapters.identity import Identity
from sudocode_coordination.core.facts import EntriesChanged, Misbehaved, Notify, Output, Root, Say
from sudocode_coordination.core.feed import decode_envelope, signed_bytes
from sudocode_coordination.core.grammar import FeedState, client_id, parse_update
from sudocode_coordination.core.io import DiskContents, Gossip, Persist, StoredEnvelope
from sudocode_coordination.core.sync import Sync
from sudocode_coordination.core.wire import Envelope, Envelopes, Heads, WireMessage
from sudocode_coordination.core.writer import Write, batches, encode_update, encode_value
from sudocode_coordination.model import Json, Now, PeerId
from sudocode_coordination.sim.disk import SimDisk

WALL_MS = 1_800_000_000_000


def identity(name: str) -> Identity:
    """The same for the same name."""
    return Identity(hashlib.sha256(name.encode()).digest())


class Pen:
    """Writes and signs feeds of one owner, right or wrong, without a node around it."""

    def __init__(self, name: str, epoch: int = 1, parts: int = 1) -> None:
        self.keyring = identity(name)
        self.owner = self.keyring.peer_id
        self.begin(epoch, parts)

    def begin(self, epoch: int, parts: int = 1) -> None:
        self.epoch, self.parts, self.seq = epoch, parts, 0
        self.client = client_id(self.owner, epoch)
        self.state = FeedState()

    def update(self, writes: dict[tuple[Root, str], Json | None]) -> bytes:
        encoded = [Write(root, key, None if v is None else encode_value(v)[0]) for (root, key), v in writes.items()]
        (batch,) = batches(self.owner, encoded, 1 << 30)
        update = encode_update(self.state, self.owner, self.client, batch)
        self.state.commit(parse_update(self.state, self.owner, self.client, update))
        return update

    def sign(self, seq: int, update: bytes, *, parts: int | None = None) -> Envelope:
        bare = Envelope(self.owner, self.epoch, seq, self.parts if parts is None else parts, update, b"")
        return msgspec.structs.replace(bare, signature=self.keyring.sign(signed_bytes(bare)))

    def write(self, writes: dict[tuple[Root, str], Json | None]) -> Envelope:
        self.seq += 1
        return self.sign(self.seq, self.update(writes))

    def lease(self, key: str, value: Json | None) -> Envelope:
        return self.write({("leases", key): value})


class Peer:
    """A `Sync` with a disk; what it says waits in `said` until a `Swarm` carries it."""

    def __init__(self, name: str, disk: SimDisk | None = None, *, seed: int = 0) -> None:
        self.keyring = identity(name)
        self.id = self.keyring.peer_id
        self.disk = SimDisk(Random(name)) if disk is None else disk
        self.seed = seed
        self.now = Now(0, WALL_MS)
        self.said: list[tuple[PeerId, WireMessage]] = []
        self.gossip: list[bytes] = []
        self.events: list[Notify] = []
        self.faults: list[Misbehaved] = []
        self.changes: list[EntriesChanged] = []
        self.stored: set[tuple[PeerId, int, int]] = set()
        self.start()

    def start(self) -> None:
        """Also again, after the process was killed; a moment later, as always."""
        self.now = Now(self.now.instant + 1, self.now.wall_ms + 1)
        contents = self.disk.load()
        self.stored = {(e.owner, e.epoch, e.seq) for e in contents.envelopes}
        self.said.clear()
        self.gossip.clear()
        self.sync = Sync(self.keyring, Random(f"{self.id}{self.seed}"), "test")
        self.take(self.sync.started(contents, self.now))

    def take(self, outputs: Iterable[Output]) -> list[Output]:
        """Carry effects out in their order; nothing of the own feed may be said that is not stored yet."""
        taken = list(outputs)
        for output in taken:
            match output:
                case Persist():
                    self.disk.write(output.operations)
                    self.stored |= {(o.owner, o.epoch, o.seq) for o in output.operations if isinstance(o, StoredEnvelope)}
                case Say():
                    if isinstance(output.message, Envelopes):
                        own = [e for e in output.message.envelopes if e.owner == self.id]
                        assert all((e.owner, e.epoch, e.seq) in self.stored for e in own)
                    self.said.append((output.peer, output.message))
                case Gossip():
                    envelope = decode_envelope(output.data)
                    assert (envelope.owner, envelope.epoch, envelope.seq) in self.stored
                    self.gossip.append(output.data)
                case Notify():
                    self.events.append(output)
                case Misbehaved():
                    self.faults.append(output)
                case EntriesChanged():
                    self.changes.append(output)
                case _:
                    raise AssertionError(output)
        return taken

    def set(self, root: Root, key: str, value: Json | None, *, urgent: bool = False) -> list[Output]:
        return self.take(self.sync.set(root, key, value, self.now, urgent=urgent))

    def tick(self) -> None:
        self.take(self.sync.ticked(self.now))

    def entries(self, root: Root = "leases") -> dict[tuple[PeerId, str], Json]:
        return {(owner, key): value for owner, key, value in self.sync.entries(root)}

    def stored_contents(self) -> DiskContents:
        """As the next process would find them."""
        self.disk.kill()
        return self.disk.load()


class Swarm:
    """Peers and the links between them. Messages arrive in order, when `settle` says so."""

    def __init__(self, *names: str, seed: int = 0) -> None:
        self.peers = {name: Peer(name, seed=seed) for name in names}
        self.by_id = {peer.id: peer for peer in self.peers.values()}
        self.links: set[frozenset[PeerId]] = set()
        self.messages = 0

    def __getitem__(self, name: str) -> Peer:
        return self.peers[name]

    def link(self, one: str, other: str) -> None:
        a, b = self.peers[one], self.peers[other]
        self.links.add(frozenset((a.id, b.id)))
        for peer, far in ((a, b), (b, a)):
            peer.take(peer.sync.peer_up(far.id, peer.now))
        heads = {a.id: a.sync.hello(), b.id: b.sync.hello()}
        for peer, far in ((a, b), (b, a)):
            peer.take(peer.sync.greeted(far.id, heads[far.id], peer.now))

    def cut(self, one: str, other: str) -> None:
        a, b = self.peers[one], self.peers[other]
        self.links.discard(frozenset((a.id, b.id)))
        for peer, far in ((a, b), (b, a)):
            peer.said = [(to, message) for to, message in peer.said if to != far.id]
            peer.take(peer.sync.peer_down(far.id, peer.now))

    def link_all(self) -> None:
        names = sorted(self.peers)
        for index, one in enumerate(names):
            for other in names[index + 1 :]:
                if frozenset((self.peers[one].id, self.peers[other].id)) not in self.links:
                    self.link(one, other)

    def settle(self) -> None:
        """Carry messages until there are none."""
        while any(peer.said for peer in self.peers.values()):
            for peer in self.peers.values():
                said, peer.said = peer.said, []
                for to, message in said:
                    if frozenset((peer.id, to)) in self.links:
                        self.messages += 1
                        far = self.by_id[to]
                        assert isinstance(message, Heads | Envelopes)
                        far.take(far.sync.received(peer.id, message, far.now))

    def advance(self, milliseconds: int) -> None:
        """Move all clocks on together, ticking whoever is due, and carry what is said."""
        left = milliseconds
        while True:
            waits = [
                (max(0, deadline - peer.now.instant), name)
                for name, peer in self.peers.items()
                if (deadline := peer.sync.deadline()) is not None
            ]
            wait, name = min(waits, default=(left + 1, ""))
            step = min(wait, left)
            for peer in self.peers.values():
                peer.now = Now(peer.now.instant + step, peer.now.wall_ms + step)
            left -= step
            if wait > step:
                return
            self.peers[name].tick()
            self.settle()

    def agree(self) -> bool:
        """Whether all have equal views and equal Yjs documents."""
        views = [[list(peer.sync.entries(root)) for root in ("leases", "activeWork")] for peer in self.peers.values()]
        contents = [peer.sync.document.shared_content() for peer in self.peers.values()]
        return all(view == views[0] for view in views) and all(content == contents[0] for content in contents)
