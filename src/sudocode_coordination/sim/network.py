"""A simulated network on a virtual clock: latency, loss, partitions, crashes and freezes, all from the scheduler's dice.

By default it keeps the laws of `ports.Network`: frames arrive whole and in order or the link breaks. `frame_loss`,
`frame_duplication` and `frame_reordering` make it harsher than TCP, for code that shall bear even that.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Final, Literal

from sudocode_coordination.core.io import (
    DialFailed,
    FrameReceived,
    GossipReceived,
    Input,
    Listening,
    PeerConnected,
    PeerDisconnected,
    PeerMoved,
    PeerRefused,
    RelayAt,
    UpgradeFailed,
)
from sudocode_coordination.core.wire import MAX_FRAME_BYTES
from sudocode_coordination.model import Instant, PeerId
from sudocode_coordination.sim.wires import (
    BYTES_PER_MS,
    MAX_GOSSIP_BYTES,
    MAX_QUEUED_BYTES,
    TOPICS,
    Link,
    NetworkFaults,
    Side,
    SimNetworkWorld,
)

RELAY_LOOK_MS: Final = 1_000
"""Between two tries to agree with a relay, as over libp2p."""

__all__ = ["MAX_GOSSIP_BYTES", "MAX_QUEUED_BYTES", "TOPICS", "NetworkFaults", "SimNetwork", "SimNetworkWorld"]


class SimNetwork:
    """`ports.Network` of one node. `crash` and `restart`, `freeze` and `thaw` are the world's doing."""

    def __init__(
        self, world: SimNetworkWorld, peer_id: PeerId, deliver: Callable[[Input], None], *, relay_service: bool = False
    ) -> None:
        self.peer_id = peer_id
        self.relay_service = relay_service
        self._relays: tuple[RelayAt, ...] = ()
        self._relay_round = 0
        self._reserved: dict[PeerId, str] = {}
        """Relays that have agreed, and the own address there."""
        self._world = world
        self._deliver = deliver
        self._admitted: frozenset[PeerId] = frozenset()
        self._sides: dict[PeerId, Side] = {}
        self._dials: dict[PeerId, int] = {}
        self._knocking: dict[PeerId, int] = {}
        """Dials that have found their peer's address."""
        self._early: dict[PeerId, tuple[tuple[str, ...], tuple[str, ...], int]] = {}
        """Dials from before it was up: they wait, as in `daemon.body.LateNetwork`."""
        self._dial_count = 0
        self._address = ""
        self._life = 0
        self._frozen_inputs: list[Callable[[], None]] | None = None
        self.alive = False

    @property
    def address(self) -> str:
        """Where it listens now; empty while it is down."""
        return self._address

    # --- the world's doing ----------------------------------------------------------------------------------------------

    def start(self) -> None:
        """Listen, at a new address; `Listening` follows."""
        assert not self.alive
        self.alive = True
        self._life += 1
        self._address = self._world.new_address()
        self._world.by_address[self._address] = self
        self._later(0, self._announce)
        if self._relays:
            self.use_relays(self._relays)
        early, self._early = self._early, {}
        for peer, ways in early.items():
            self.dial(peer, *ways)

    def crash(self, *, noticed: bool = True) -> None:
        """Gone without a word. `noticed`: its machine still runs and tells the others at once, as after kill -9; otherwise
        they find out by silence, as after a power cut."""
        self.alive = False
        self._life += 1
        self._world.by_address.pop(self._address, None)
        self._address = ""
        self._admitted = frozenset()
        self._relays = ()
        self._relay_round += 1
        self._reserved.clear()
        self._early.clear()
        self._dials.clear()
        self._knocking.clear()
        self._frozen_inputs = None
        sides = [self._sides[peer] for peer in sorted(self._sides)]
        self._sides.clear()
        for side in sides:
            side.open = False
            other = side.other
            told = noticed and self._world.carries(side.link, self.peer_id, other.peer_id)
            wait = self._world.delay() if told else self._world.faults.silence_ms
            other._later(wait, lambda other=other, side=side: other._lost(side.link, "closed by the peer"))  # type: ignore[misc]
        for node in [self._world.by_address[address] for address in sorted(self._world.by_address)]:
            for side in [node._sides[peer] for peer in sorted(node._sides) if node._sides[peer].link.via is self]:
                node._later(self._world.delay(), lambda node=node, side=side: node._lost(side.link, "the relay is gone"))  # type: ignore[misc]

    def restart(self, deliver: Callable[[Input], None] | None = None) -> None:
        """A new process with the same identity and no memory, at a new address."""
        self._deliver = deliver or self._deliver
        self.start()

    def freeze(self) -> None:
        """As SIGSTOP: nothing is done or noticed, everything waits."""
        if self._frozen_inputs is None:
            self._frozen_inputs = []
            (self._world if self.relay_service else self).check_links()

    def thaw(self) -> None:
        """As SIGCONT."""
        waiting, self._frozen_inputs = self._frozen_inputs, None
        (self._world if self.relay_service else self).check_links()
        for action in waiting or []:
            self._later(0, action)

    @property
    def frozen(self) -> bool:
        """Between `freeze` and `thaw`."""
        return self._frozen_inputs is not None

    # --- the port -------------------------------------------------------------------------------------------------------

    def dial(self, peer: PeerId, addresses: tuple[str, ...], relayed: tuple[str, ...] = (), patience_ms: int = 0) -> None:
        """Try all addresses until one answers as that peer; circuit addresses after the others."""
        if not self.alive:
            self._early[peer] = (addresses, relayed, patience_ms)
            return
        if peer in self._sides or peer in self._dials:
            return
        self._dial_count += 1
        ticket = self._dials[peer] = self._dial_count
        if peer not in self._admitted or peer == self.peer_id:
            self._later(0, lambda: self._dial_failed(peer, ticket, "it is not admitted"))
            return
        targets = [node for node in (self._world.by_address.get(address) for address in addresses) if node is not None]
        target = next((node for node in targets if node.peer_id == peer), None)
        if target is None:
            reason = "another peer answers there" if targets else "connection refused"
            if relayed:
                self._later(self._world.delay(), lambda: self._dial_through(peer, ticket, relayed, reason))
            else:
                self._later(self._world.delay(), lambda: self._dial_failed(peer, ticket, reason))
            return
        self._knocking[peer] = ticket
        self._later(self._world.delay(), lambda: self._knock(target, ticket, None))
        timeout = self._world.faults.dial_timeout_ms
        if relayed:
            self._later(patience_ms, lambda: self._dial_through(peer, ticket, relayed, f"no answer within {timeout} ms"))
        self._later(timeout, lambda: self._dial_failed(peer, ticket, f"no answer within {timeout} ms"))

    def _dial_through(self, peer: PeerId, ticket: int, circuits: tuple[str, ...], reason: str) -> None:
        if self._dials.get(peer) != ticket:
            return
        target = self._world.node_of(peer)
        for circuit in circuits:
            at, _, _ = circuit.partition("/p2p/")
            relay = self._world.by_address.get(at)
            if relay is None or target is None or relay.peer_id not in target._reserved or not relay._relays_between(self, target):
                continue
            if self._world.leads(self.peer_id, peer, relay) and self._world.leads(peer, self.peer_id, relay):
                self._knocking[peer] = ticket
                self._later(self._world.delay(), partial(self._knock, target, ticket, relay))
                return
        if peer not in self._knocking:
            self._later(self._world.delay(), lambda: self._dial_failed(peer, ticket, reason))

    def _relays_between(self, one: SimNetwork, two: SimNetwork) -> bool:
        return self.alive and self.relay_service and {one.peer_id, two.peer_id} <= self._admitted

    def upgrade(self, peer: PeerId, addresses: tuple[str, ...]) -> None:
        """Get a relayed peer a direct connection, and go on over that. Here every NAT can be punched through, if it is no cut."""
        del addresses
        self._later(self._world.delay(), lambda: self._upgrade(peer))

    def _upgrade(self, peer: PeerId) -> None:
        side = self._sides.get(peer)
        if side is None or side.link.via is None:
            self._deliver(UpgradeFailed(peer=peer, reason="it is not connected by a relay"))
        elif not self._reaches(side.other) or not side.link.confirmed or self._world.walled(self.peer_id, peer):
            self._deliver(UpgradeFailed(peer=peer, reason="no direct address answers"))
        else:
            side.link.via = None
            side.other._later(self._world.delay(), lambda: side.other._moved(side.link))
            self._moved(side.link)

    def _moved(self, link: Link) -> None:
        side = link.side_of(self)
        if side.open and self._sides.get(side.other.peer_id) is side:
            self._deliver(PeerMoved(peer=side.other.peer_id, address=side.other.address, relayed=False))
            self.check_links()

    def use_relays(self, relays: tuple[RelayAt, ...]) -> None:
        """Be reachable through these, as far as they agree."""
        self._relays = relays
        self._relay_round += 1
        round_ = self._relay_round
        self._later(self._world.delay(), lambda: self._reserve(round_))

    def _reserve(self, round_: int) -> None:
        if round_ != self._relay_round:
            return
        agreed: dict[PeerId, str] = {}
        for relay in self._relays:
            node = next((self._world.by_address[at] for at in relay.addresses if at in self._world.by_address), None)
            if node is not None and node.peer_id == relay.peer and node._relays_between(self, self) and self._reaches(node):
                agreed[relay.peer] = f"{node.address}/p2p/{relay.peer}/p2p-circuit"
            elif relay.peer in self._reserved:
                agreed[relay.peer] = self._reserved[relay.peer]
        if agreed != self._reserved:
            self._reserved = agreed
            self._announce()
        if self._relays:
            self._later(RELAY_LOOK_MS, lambda: self._reserve(round_))

    def _announce(self) -> None:
        self._deliver(Listening(addresses=(self._address, *self._reserved.values())))

    def hang_up(self, peer: PeerId, reason: str) -> None:
        """Close the connection, if there is one; `PeerDisconnected` follows. What was sent before still arrives."""
        side = self._sides.get(peer)
        if side is not None:
            self._later(0, lambda: self._lost(side.link, reason))
            self._close(side)

    def admit(self, peers: tuple[PeerId, ...]) -> None:
        """The only peers that may connect from now on."""
        self._admitted = frozenset(peers) - {self.peer_id}
        for peer in sorted(set(self._sides) - self._admitted):
            self.hang_up(peer, "no longer admitted")
        for peer in sorted(set(self._dials) - self._admitted):
            ticket = self._dials[peer]
            self._later(0, lambda peer=peer, ticket=ticket: self._dial_failed(peer, ticket, "no longer admitted"))  # type: ignore[misc]

    def send(self, peer: PeerId, frame: bytes) -> None:
        """Queue a frame; a peer that has too much queued is disconnected."""
        side = self._sides.get(peer)
        if side is None or not side.open or not frame:
            return
        if len(frame) > MAX_FRAME_BYTES:
            raise ValueError(f"frame of {len(frame)} bytes, {MAX_FRAME_BYTES} allowed")
        if side.under_way_bytes + len(frame) > MAX_QUEUED_BYTES:
            self.hang_up(peer, "too much queued for it")
            return
        faults = self._world.faults
        if self._world.chance(faults.link_loss):
            self.hang_up(peer, "connection reset")
            return
        if self._world.chance(faults.frame_loss):
            return
        for _ in range(2 if self._world.chance(faults.frame_duplication) else 1):
            self._carry(side, frame)

    def gossip(self, topic: str, data: bytes) -> None:
        """Publish to all connected peers and whoever they reach; one hop here, loss and doubles by chance."""
        if topic not in TOPICS:
            raise ValueError(f"no such topic: {topic}")
        if not self.alive or len(data) > MAX_GOSSIP_BYTES:
            return
        reached = {self.peer_id}
        frontier = [(self, 0)]
        faults = self._world.faults
        while frontier:
            node, base = frontier.pop(0)
            for peer in sorted(node._sides):
                side = node._sides[peer]
                if peer in reached or not side.open or not self._world.carries(side.link, node.peer_id, peer):
                    continue
                if (node.frozen and node is not self) or self.peer_id not in side.other._admitted:
                    continue
                reached.add(peer)
                delay = base + self._world.delay(node.peer_id, peer)
                frontier.append((side.other, delay))
                if self._world.chance(faults.gossip_loss):
                    continue
                for _ in range(2 if self._world.chance(faults.gossip_duplication) else 1):
                    late = 3 * faults.latency_ms[1] if self._world.chance(faults.gossip_reordering) else 0
                    side.other._hear(topic, data, delay + late)

    # --- inside ---------------------------------------------------------------------------------------------------------

    def _later(self, delay_ms: int, action: Callable[[], None]) -> None:
        """In this node's own life; nothing survives a crash, and a frozen node does it when it thaws."""
        life = self._life

        def run() -> None:
            if self._life != life or not self.alive:
                return
            if self._frozen_inputs is not None:
                self._frozen_inputs.append(run)
                return
            action()

        self._world.scheduler.after(delay_ms, run)

    def _hear(self, topic: str, data: bytes, delay_ms: int) -> None:
        self._later(delay_ms, lambda: self._deliver(GossipReceived(topic=topic, data=data)))

    def _carry(self, side: Side, frame: bytes) -> None:
        world = self._world
        now = world.scheduler.instant
        arrival = now + world.delay(self.peer_id, side.other.peer_id) + len(frame) // BYTES_PER_MS
        side.under_way_bytes += len(frame)
        if world.chance(world.faults.frame_reordering):
            late = world.scheduler.random.randint(1, 3 * world.faults.latency_ms[1] + 1)
            side.other._later(arrival + late - now, lambda: self._arrive(side, frame))
            return
        arrival = side.last_arrival = max(arrival, side.last_arrival)
        side.queue.append((arrival, frame))
        side.other._later(arrival - now, lambda: self._arrive(side))

    def _arrive(self, side: Side, overtaken: bytes | None = None) -> None:
        """At the other end: what is due there, in order, unless the wire is cut. A frame by itself has lost its place."""
        world = self._world
        if not (side.link.confirmed and world.carries(side.link, self.peer_id, side.other.peer_id)):
            # TCP repeats it: it arrives after healing, or the link is given up first. Who dials reads it once it is let in.
            if overtaken is not None:
                side.queue.appendleft((world.scheduler.instant, overtaken))
            return
        if overtaken is not None:
            self._hand_over(side, overtaken)
        while side.queue and side.queue[0][0] <= world.scheduler.instant:
            self._hand_over(side, side.queue.popleft()[1])

    def _hand_over(self, side: Side, frame: bytes) -> None:
        side.under_way_bytes -= len(frame)
        other_side = side.link.side_of(side.other)
        if other_side.open and side.other._sides.get(self.peer_id) is other_side:
            side.other._deliver(FrameReceived(peer=self.peer_id, frame=frame))

    def _knock(self, target: SimNetwork, ticket: int, via: SimNetwork | None) -> None:
        if self._dials.get(target.peer_id) != ticket or not self._reaches(target, via):
            return
        if self._world.walled(self.peer_id, target.peer_id, via):
            return
        target._later(self._world.delay(), lambda: target._answer(self, ticket, via))

    def _answer(self, dialler: SimNetwork, ticket: int, via: SimNetwork | None) -> None:
        if not self._reaches(dialler, via) or dialler._dials.get(self.peer_id) != ticket:
            return
        if dialler.peer_id not in self._admitted:
            self._deliver(PeerRefused(peer=dialler.peer_id, address=dialler.address))
            delay = self._world.delay()
            dialler._later(delay, lambda: dialler._dial_failed(self.peer_id, ticket, "it refused", answered=True))
            return
        if dialler.peer_id in self._knocking and self.peer_id < dialler.peer_id:
            # Both dial at once: the one of the smaller id stays.
            return
        old = self._sides.get(dialler.peer_id)
        if old is not None:
            self._lost(old.link, "replaced by a newer connection")
        link = self._world.new_link(dialler, self, via)
        self._up(link, "in")
        self._later(self._world.faults.silence_ms, lambda: None if link.confirmed else self._lost(link, "silent"))
        dialler._later(self._world.delay(), lambda: dialler._answered(link, ticket))

    def _answered(self, link: Link, ticket: int) -> None:
        side = link.side_of(self)
        if not self._reaches(side.other, link.via):
            return
        if self._dials.get(side.other.peer_id) != ticket or not link.side_of(side.other).open:
            self._close(side)
            self._dial_failed(side.other.peer_id, ticket, "closed by the peer")
            return
        if side.other.peer_id not in self._admitted:
            self._close(side)
            return
        old = self._sides.get(side.other.peer_id)
        if old is not None:
            self._lost(old.link, "replaced by a newer connection")
        link.confirmed = True
        self._up(link, "out")

    def _up(self, link: Link, direction: str) -> None:
        side = link.side_of(self)
        peer = side.other.peer_id
        self._dials.pop(peer, None)
        self._knocking.pop(peer, None)
        self._sides[peer] = side
        address = side.other.address if link.via is None else f"{link.via.address}/p2p/{link.via.peer_id}/p2p-circuit"
        way: Literal["out", "in"] = "out" if direction == "out" else "in"
        self._deliver(PeerConnected(peer=peer, address=address, direction=way, relayed=link.via is not None))
        self.check_links()

    def _dial_failed(self, peer: PeerId, ticket: int, reason: str, *, answered: bool = False) -> None:
        if self._dials.get(peer) == ticket:
            del self._dials[peer]
            self._knocking.pop(peer, None)
            self._deliver(DialFailed(peer=peer, reason=reason, answered=answered))

    def _close(self, side: Side) -> None:
        """Tell the other side, after all that was sent."""
        if not side.open:
            return
        side.open = False
        other = side.other
        now = self._world.scheduler.instant
        arrival = max(now + self._world.delay(), side.last_arrival)
        if self._world.carries(side.link, self.peer_id, other.peer_id):
            other._later(arrival - now, lambda: other._lost(side.link, "closed by the peer"))
        else:
            other._later(self._world.faults.silence_ms, lambda: other._lost(side.link, "silent"))

    def _lost(self, link: Link, reason: str) -> None:
        side = link.side_of(self)
        self._close(side)
        if self._sides.get(side.other.peer_id) is side:
            del self._sides[side.other.peer_id]
            self._deliver(PeerDisconnected(peer=side.other.peer_id, reason=reason))

    def _reaches(self, other: SimNetwork, via: SimNetwork | None = None) -> bool:
        world = self._world
        return world.leads(self.peer_id, other.peer_id, via) and world.leads(other.peer_id, self.peer_id, via) and other.alive

    def check_links(self) -> None:
        """Start or stop the clock of silence on every link: a cut in either direction silences it, TCP needs both."""
        for side in [self._sides[peer] for peer in sorted(self._sides)]:
            if self._sides.get(side.other.peer_id) is not side:
                continue  # what arrived on another link ended it
            silent = not self._reaches(side.other, side.link.via) or side.other.frozen or self.frozen
            link = side.link
            if not silent:
                link.unreachable_since = None
                side.other._arrive(link.side_of(side.other))
            elif link.unreachable_since is None:
                since = link.unreachable_since = self._world.scheduler.instant
                for end in link.sides:
                    self._give_up_later(end, since)

    def _give_up_later(self, side: Side, since: Instant) -> None:
        def give_up() -> None:
            if side.link.unreachable_since == since:
                side.owner._lost(side.link, "silent for too long")

        side.owner._later(self._world.faults.silence_ms, give_up)
