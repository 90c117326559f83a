"""A bench on which one test drives the simulated and the real network alike, and the laws of the port are checked."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Awaitable, Callable
from typing import Any, TypeVar

import trio

from sudocode_coordination.adapters import ports
from sudocode_coordination.adapters.identity import Identity
from sudocode_coordination.adapters.libp2p import Libp2pNetwork
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
)
from sudocode_coordination.model import PeerId
from sudocode_coordination.sim.identity import SimKeyring
from sudocode_coordination.sim.network import NetworkFaults, SimNetwork, SimNetworkWorld
from sudocode_coordination.sim.scheduler import Scheduler

LIMIT_SECONDS = 20.0
T = TypeVar("T", bound=Input)


class Node:
    """One network part and all that it delivered; `deliver` holds the laws of the port against every input."""

    def __init__(self, name: str, peer_id: PeerId) -> None:
        self.name = name
        self.peer_id = peer_id
        self.network: ports.Network
        self.inputs: list[Input] = []
        self.connected: set[PeerId] = set()
        self.dialling: Counter[PeerId] = Counter()
        self.broken_laws: list[str] = []
        self.calls = 0

    def deliver(self, item: Input) -> None:
        if self.calls:
            self.broken_laws.append(f"{item} delivered from within a method of the port")
        self.inputs.append(item)
        match item:
            case PeerConnected(peer=peer):
                if peer in self.connected:
                    self.broken_laws.append(f"connected twice to {peer}")
                self.connected.add(peer)
                self.dialling.pop(peer, None)
            case PeerDisconnected(peer=peer):
                if peer not in self.connected:
                    self.broken_laws.append(f"disconnected from {peer} without a connection")
                self.connected.discard(peer)
            case PeerMoved(peer=peer, relayed=relayed):
                if peer not in self.connected or relayed:
                    self.broken_laws.append(f"{item} without a relayed connection")
            case FrameReceived(peer=peer):
                if peer not in self.connected:
                    self.broken_laws.append(f"a frame of {peer} without a connection")
            case DialFailed(peer=peer):
                if not self.dialling.pop(peer, 0):
                    self.broken_laws.append(f"a dial of {peer} failed that nobody asked for")
            case _:
                pass

    @property
    def addresses(self) -> tuple[str, ...]:
        return self.of(Listening)[-1].addresses

    def of(self, kind: type[T]) -> list[T]:
        return [item for item in self.inputs if isinstance(item, kind)]

    def frames(self) -> list[bytes]:
        return [item.frame for item in self.of(FrameReceived)]

    def gossip(self, topic: str) -> list[bytes]:
        return [item.data for item in self.of(GossipReceived) if item.topic == topic]

    def dial(self, other: Node, addresses: tuple[str, ...] | None = None) -> None:
        if other.peer_id not in self.connected:
            self.dialling[other.peer_id] += 1
        self._call(lambda: self.network.dial(other.peer_id, other.addresses if addresses is None else addresses))

    def dial_through(self, other: Node, circuit: str, addresses: tuple[str, ...] = ()) -> None:
        """Dial it at these addresses, and at once through a relay."""
        self.dialling[other.peer_id] += 1
        self._call(lambda: self.network.dial(other.peer_id, addresses, (circuit,), 50))

    def upgrade(self, other: Node, addresses: tuple[str, ...] | None = None) -> None:
        direct = tuple(address for address in other.addresses if "/p2p-circuit" not in address)
        self._call(lambda: self.network.upgrade(other.peer_id, direct if addresses is None else addresses))

    def use(self, *relays: Node) -> None:
        """Be reachable through these."""
        at = tuple(RelayAt(peer=relay.peer_id, addresses=relay.addresses) for relay in relays)
        self._call(lambda: self.network.use_relays(at))

    @property
    def circuits(self) -> tuple[str, ...]:
        """Own addresses at relays."""
        return tuple(address for address in self.addresses if "/p2p-circuit" in address)

    def admit(self, *others: Node) -> None:
        self._call(lambda: self.network.admit(tuple(other.peer_id for other in others)))

    def send(self, other: Node, *frames: bytes) -> None:
        for frame in frames:
            self._call(lambda frame=frame: self.network.send(other.peer_id, frame))  # type: ignore[misc]

    def hang_up(self, other: Node, reason: str = "test") -> None:
        self._call(lambda: self.network.hang_up(other.peer_id, reason))

    def _call(self, action: Callable[[], None]) -> None:
        self.calls += 1
        try:
            action()
        finally:
            self.calls -= 1


class Bench(ABC):
    """Makes nodes and waits for what they deliver."""

    def __init__(self) -> None:
        self.nodes: list[Node] = []

    @abstractmethod
    async def start(self, node: Node) -> None:
        """Listen; a node stopped before is as new, at a new address."""

    @abstractmethod
    async def stop(self, node: Node) -> None:
        """Leave with a goodbye, as at the end of a process."""

    @abstractmethod
    async def until(self, condition: Callable[[], object]) -> None:
        """Wait; fail after a while."""

    @abstractmethod
    def make(self, name: str) -> Node:
        """A node, not started."""

    async def node(self, name: str) -> Node:
        node = self.make(name)
        self.nodes.append(node)
        await self.start(node)
        await self.until(lambda: node.of(Listening))
        return node

    async def pair(self) -> tuple[Node, Node]:
        """Two that admit each other."""
        ann, bob = await self.node("ann"), await self.node("bob")
        ann.admit(bob)
        bob.admit(ann)
        return ann, bob

    async def connect(self, one: Node, two: Node) -> None:
        one.dial(two)
        await self.until(lambda: two.peer_id in one.connected and one.peer_id in two.connected)

    async def settle(self) -> None:
        """A round trip over every connection: what is under way has arrived."""
        pairs = [(one, two) for one in self.nodes for two in self.nodes if two.peer_id in one.connected]
        marks = {(one.name, two.name): f"mark {one.name} {two.name} {len(two.inputs)}".encode() for one, two in pairs}
        for one, two in pairs:
            one.send(two, marks[one.name, two.name])
        await self.until(lambda: all(marks[one.name, two.name] in two.frames() for one, two in pairs))

    def check_laws(self) -> None:
        for node in self.nodes:
            assert node.broken_laws == [], f"{node.name}: {node.broken_laws}"


class SimBench(Bench):
    """Virtual time; `until` runs the scheduler."""

    def __init__(self, seed: int = 7, faults: NetworkFaults | None = None) -> None:
        super().__init__()
        self.scheduler = Scheduler(seed)
        self.world = SimNetworkWorld(self.scheduler, faults or NetworkFaults())

    def make(self, name: str) -> Node:
        node = Node(name, SimKeyring(name).peer_id)
        node.network = SimNetwork(self.world, node.peer_id, node.deliver, relay_service=name.startswith("relay"))
        return node

    def sim(self, node: Node) -> SimNetwork:
        assert isinstance(node.network, SimNetwork)
        return node.network

    async def start(self, node: Node) -> None:
        self.sim(node).start()

    async def stop(self, node: Node) -> None:
        self.sim(node).crash()
        for peer in sorted(node.connected):
            node.deliver(PeerDisconnected(peer=peer, reason="leaving"))
        node.dialling.clear()

    async def until(self, condition: Callable[[], object]) -> None:
        limit = self.scheduler.instant + int(LIMIT_SECONDS * 1_000)
        assert self.scheduler.run_while(lambda: not condition(), limit=limit), "it did not come to pass"


class RealBench(Bench):
    """libp2p over loopback, all nodes in this process."""

    def __init__(self, nursery: trio.Nursery, listen: tuple[str, ...], **options: Any) -> None:
        super().__init__()
        self.nursery = nursery
        self.listen = listen
        self.options = options
        self.scopes: dict[str, tuple[trio.CancelScope, trio.Event]] = {}

    def make(self, name: str) -> Node:
        identity = Identity(name.encode().ljust(32, b"."))
        node = Node(name, identity.peer_id)
        relays = name.startswith("relay")
        node.network = Libp2pNetwork(identity, self.listen, node.deliver, relay_service=relays, **self.options)
        return node

    def real(self, node: Node) -> Libp2pNetwork:
        assert isinstance(node.network, Libp2pNetwork)
        return node.network

    async def start(self, node: Node) -> None:
        async def run(task_status: Any) -> None:
            scope, ended = trio.CancelScope(), trio.Event()
            self.scopes[node.name] = (scope, ended)
            try:
                with scope:
                    await self.real(node).run(task_status=task_status)
            finally:
                ended.set()

        node.network = self.make(node.name).network  # a new process has no memory
        self.real(node)._outbox._deliver = node.deliver
        await self.nursery.start(run)

    async def stop(self, node: Node) -> None:
        scope, ended = self.scopes[node.name]
        scope.cancel()
        await ended.wait()

    async def until(self, condition: Callable[[], object]) -> None:
        with trio.fail_after(LIMIT_SECONDS):
            while not condition():
                await trio.sleep(0.001)


TCP = ("/ip4/127.0.0.1/tcp/0",)
WEBSOCKET = ("/ip4/127.0.0.1/tcp/0/ws",)
Test = Callable[[Bench], Awaitable[None]]


def run_on(kind: str, test: Test, *, seconds: float = 60.0, **options: Any) -> None:
    """Run a test on `sim`, `tcp` or `ws`, and hold the laws against all that was delivered."""

    async def main() -> None:
        if kind == "sim":
            bench: Bench = SimBench()
            await test(bench)
            bench.check_laws()
            return
        with trio.fail_after(seconds):
            async with trio.open_nursery() as nursery:
                bench = RealBench(nursery, TCP if kind == "tcp" else WEBSOCKET, **options)
                await test(bench)
                nursery.cancel_scope.cancel()
        for node in bench.nodes:
            assert not node.connected, "a network that has ended is connected to nobody"
        bench.check_laws()

    trio.run(main)


__all__ = ["TCP", "WEBSOCKET", "Bench", "Node", "PeerRefused", "RealBench", "SimBench", "run_on"]
