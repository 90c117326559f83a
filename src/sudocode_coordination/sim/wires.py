"""What connects the nodes of a simulated network: faults, cuts, links. What a node does with them is `network.py`'s."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

from sudocode_coordination.core.wire import MAX_FRAME_BYTES
from sudocode_coordination.model import Instant, PeerId
from sudocode_coordination.sim.scheduler import Scheduler

if TYPE_CHECKING:
    from sudocode_coordination.sim.network import SimNetwork

TOPICS: Final = ("sudocode/sync", "sudocode/presence")
MAX_GOSSIP_BYTES: Final = 192 << 10
"""As over libp2p."""
MAX_QUEUED_BYTES: Final = 16 * MAX_FRAME_BYTES
"""Under way to one peer, as over libp2p; a frozen peer is given up when it is reached."""
BYTES_PER_MS: Final = 50_000
"""What one link carries, as measured over loopback."""


@dataclass(frozen=True, slots=True, kw_only=True)
class NetworkFaults:
    """What goes wrong by chance. Probabilities from 0 to 1, times in milliseconds."""

    latency_ms: tuple[int, int] = (1, 5)
    """One way, drawn per frame."""
    frame_loss: float = 0.0
    frame_duplication: float = 0.0
    frame_reordering: float = 0.0
    """Chance that a frame takes up to three times the longest latency more, and so is overtaken."""
    link_loss: float = 0.0
    """Chance per frame that the link breaks instead of carrying it, as TCP does where packets are lost for long."""
    gossip_loss: float = 0.0
    gossip_duplication: float = 0.0
    gossip_reordering: float = 0.0
    silence_ms: int = 7_000
    """After this long a peer that can't be reached, or is frozen, is given up."""
    dial_timeout_ms: int = 10_000
    """A dial into a partition or to a frozen peer."""


@dataclass(eq=False, slots=True)
class Side:
    """One end of a link, as its owner sees it."""

    link: Link
    owner: SimNetwork
    other: SimNetwork
    open: bool = True
    queue: deque[tuple[Instant, bytes]] = field(default_factory=deque)
    """Frames sent from here, with the time of their arrival, in order."""
    last_arrival: Instant = 0
    """Later frames do not arrive before it."""
    under_way_bytes: int = 0


@dataclass(eq=False, slots=True)
class Link:
    """A connection. Each side learns by itself that it is gone."""

    number: int
    sides: tuple[Side, ...] = ()
    unreachable_since: Instant | None = None
    confirmed: bool = False
    """Whether the side that dialled knows of it."""
    via: SimNetwork | None = None
    """The relay that it goes through."""

    def side_of(self, node: SimNetwork) -> Side:
        return self.sides[0] if self.sides[0].owner is node else self.sides[1]


class SimNetworkWorld:
    """All nodes and the wires between them."""

    def __init__(self, scheduler: Scheduler, faults: NetworkFaults = NetworkFaults()) -> None:
        self.scheduler = scheduler
        self.faults = faults
        self.by_address: dict[str, SimNetwork] = {}
        self.slow: dict[PeerId, int] = {}
        """Peers whatever comes from or goes to which takes up to so many milliseconds longer."""
        self._cut: set[tuple[PeerId, PeerId]] = set()
        self.walls: set[frozenset[PeerId]] = set()
        """Pairs between which no direct link can be made now; those that are there stay."""
        self._links = 0
        self._ports = 1_023

    # --- what tests and the world do to it -----------------------------------------------------------------------------

    def cut(self, from_peer: PeerId, to_peer: PeerId, *, one_way: bool = False) -> None:
        """Nothing gets from one to the other any more (nor back, unless `one_way`)."""
        self._cut.add((from_peer, to_peer))
        if not one_way:
            self._cut.add((to_peer, from_peer))
        self.check_links()

    def heal(self, from_peer: PeerId, to_peer: PeerId) -> None:
        """Undo `cut`, both directions."""
        self._cut -= {(from_peer, to_peer), (to_peer, from_peer)}
        self.check_links()

    def partition(self, *groups: tuple[PeerId, ...]) -> None:
        """Only peers of one group reach each other; peers in none are left alone."""
        for index, group in enumerate(groups):
            for other in groups[index + 1 :]:
                for one in group:
                    for two in other:
                        self.cut(one, two)

    def heal_all(self) -> None:
        """No cuts any more."""
        self._cut.clear()
        self.check_links()

    def reachable(self, from_peer: PeerId, to_peer: PeerId) -> bool:
        """Whether something sent now would arrive."""
        return (from_peer, to_peer) not in self._cut

    # --- for the nodes --------------------------------------------------------------------------------------------------

    def delay(self, *ends: PeerId) -> int:
        """One way between these, by chance."""
        delay = self.scheduler.random.randint(*self.faults.latency_ms)
        if self.slow:
            delay += sum(self.scheduler.random.randint(0, self.slow[end]) for end in ends if end in self.slow)
        return delay

    def chance(self, probability: float) -> bool:
        """By the world's dice; no die is thrown for what never happens."""
        return probability > 0 and self.scheduler.random.random() < probability

    def carries(self, link: Link, from_peer: PeerId, to_peer: PeerId) -> bool:
        """Whether what is sent over a link now would arrive."""
        return self.leads(from_peer, to_peer, link.via)

    def leads(self, from_peer: PeerId, to_peer: PeerId, via: SimNetwork | None) -> bool:
        """The same for a link that may come to be."""
        if via is None:
            return self.reachable(from_peer, to_peer)
        up = via.alive and not via.frozen
        return up and self.reachable(from_peer, via.peer_id) and self.reachable(via.peer_id, to_peer)

    def walled(self, one: PeerId, other: PeerId, via: SimNetwork | None = None) -> bool:
        """Whether no link of that kind can be made between them, whatever is reachable."""
        return via is None and bool(self.walls) and frozenset((one, other)) in self.walls

    def node_of(self, peer: PeerId) -> SimNetwork | None:
        """Who runs under that id."""
        return next((node for node in self.by_address.values() if node.peer_id == peer), None)

    def new_link(self, dialler: SimNetwork, listener: SimNetwork, via: SimNetwork | None) -> Link:
        """Not yet told to either side."""
        self._links += 1
        link = Link(self._links, via=via)
        link.sides = (Side(link, dialler, listener), Side(link, listener, dialler))
        return link

    def new_address(self) -> str:
        """One that nobody ever had."""
        self._ports += 1
        return f"/ip4/10.0.{self._ports >> 16}.1/tcp/{self._ports & 0xFFFF}"

    def check_links(self) -> None:
        """Something has changed for all that lead over it."""
        for address in sorted(self.by_address):
            self.by_address[address].check_links()
