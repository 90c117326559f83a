"""What lies between the nodes of a simulated swarm: NATs that no dial gets through, a relay past them, machines that several share.

A link that is there stays, whatever NATs become of it; a new direct one is made only where there is none, and a relayed one is
upgraded then. So links come up relayed, move to direct ones while leases are asked for, and are relayed again when they were lost.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from itertools import combinations
from random import Random
from typing import TYPE_CHECKING, Final

from sudocode_coordination.core.io import RecordsSighted
from sudocode_coordination.model import PeerId

if TYPE_CHECKING:
    from sudocode_coordination.sim.world import SimNode, World

LOOK_MS: Final = 500
"""Until a daemon sees that another one of its machine has shown something."""
STEADY_MS: Final = (1_000, 20_000)
"""How long a NAT stays as it is: until a hole can be punched, or no more."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Terrain:
    """Nodes by their numbers."""

    relay: int
    """Relays for the others, and is reached by all."""
    walls: tuple[tuple[int, int], ...]
    """Pairs with NATs between them."""
    together: tuple[int, ...] = ()
    """Those on one machine: they see each other's records without the remote."""


def terrain_of(seed: int, nodes: int) -> Terrain:
    """The one that a seed stands for, in a swarm of so many (three at least). Its dice are its own."""
    dice = Random(seed * 15_485_863 + 5)
    relay = dice.randrange(nodes)
    others = [number for number in range(nodes) if number != relay]
    pairs = list(combinations(others, 2))
    walls = dice.sample(pairs, dice.randint(1, len(pairs)))
    together = dice.sample(range(nodes), 2) if dice.random() < 0.4 else []
    return Terrain(
        relay=relay,
        walls=tuple(pair for pair in walls if not set(pair) <= set(together)),
        together=tuple(sorted(together)),
    )


class Ground:
    """A terrain under a world: its walls rise and fall until there is peace."""

    def __init__(self, world: World, terrain: Terrain, dice: Random) -> None:
        self._world = world
        self._dice = dice
        self._pairs = [(world.nodes[one].peer_id, world.nodes[two].peer_id) for one, two in terrain.walls]
        self._machine = [world.nodes[number] for number in terrain.together]
        self._shown: dict[PeerId, bytes] = {}
        self.open = not self._pairs
        """No walls any more."""

    def begin(self) -> None:
        """All walls stand."""
        for one, two in self._pairs:
            self._world.network.walls.add(frozenset((one, two)))
            self._world.scheduler.after(self._dice.randint(*STEADY_MS), partial(self._change, one, two))

    def level(self) -> None:
        """No walls from now on."""
        self.open = True
        self._world.network.walls.clear()

    def _change(self, one: PeerId, two: PeerId) -> None:
        if self.open:
            return
        wall = frozenset((one, two))
        walls = self._world.network.walls
        what = "falls" if wall in walls else "rises"
        self._world.trace.note(f"{self._world.scheduler.instant} the wall {what} between {one[-4:]} and {two[-4:]}")
        walls.symmetric_difference_update({wall})
        self._world.scheduler.after(self._dice.randint(*STEADY_MS), partial(self._change, one, two))

    # --- one machine ----------------------------------------------------------------------------------------------------

    def shown(self, node: SimNode, record: bytes | None) -> None:
        """It shows this to the others on its machine; None: it is gone, and its record with it."""
        if node not in self._machine:
            return
        if record is None:
            self._shown.pop(node.peer_id, None)
        else:
            self._shown[node.peer_id] = record
        for other in self._machine:
            self._world.scheduler.after(LOOK_MS, partial(self._look, other))

    def _look(self, node: SimNode) -> None:
        others = tuple(record for peer, record in sorted(self._shown.items()) if peer != node.peer_id)
        node.deliver(RecordsSighted(records=others))
