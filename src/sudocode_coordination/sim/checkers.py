"""What must hold of a whole world at some moment; `watch.py` has what must hold after every step.

S1: two conflicting quorum leases are never valid together. Settled: in a component that has been whole for a while there is
one holder, whatever the grade. L2: what is over ends everywhere. Convergence: in the end all see the same.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from functools import lru_cache
from typing import Final

from sudocode_coordination.core.claims import incarnation_of, stretch
from sudocode_coordination.core.holdings import Holding
from sudocode_coordination.core.resources import overlap
from sudocode_coordination.core.wire import ClaimBody
from sudocode_coordination.model import Instant, PeerId, Resource
from sudocode_coordination.sim.world import SimNode, World

MAX_PAIRS: Final = 4_096
"""Of names whose overlap is remembered: a history has a few dozen."""
SLACK_MS: Final = 9_000
"""Messages that were still on their way: a wire that was cut for less than what it takes to give a connection up delivers them."""


class Violation(AssertionError):  # noqa: N818 - that is its name
    """An invariant does not hold."""


def holdings(node: SimNode) -> Iterator[Holding]:
    """Leases that the node's agents may rely on now, by its own clock. A frozen node's agents are frozen with it, but what
    they wrote last they wrote in the belief that they hold."""
    if node.node is None:
        return
    now = node.now.instant
    for holding in node.node.leases.holdings():
        if holding.held and now < holding.valid_until:
            yield holding


@lru_cache(MAX_PAIRS)
def _meet(one: Resource, two: Resource, fold: bool) -> bool:
    return overlap(one, two, fold_case=fold)


def have_in_common(one: ClaimBody, two: ClaimBody) -> bool:
    """Whether some path is meant by both claims."""
    return any(_meet(a, b, one.fold or two.fold) for a in one.resources for b in two.resources)


def clash(one: ClaimBody, two: ClaimBody) -> bool:
    """Whether two claims of different agents can't be held together."""
    return not (one.mode == "shared" and two.mode == "shared") and have_in_common(one, two)


def _pairs(world: World) -> Iterator[tuple[SimNode, Holding, SimNode, Holding]]:
    held = [(node, holding) for node in world.nodes for holding in holdings(node)]
    for index, (one_node, one) in enumerate(held):
        for two_node, two in held[index + 1 :]:
            same_agent = one_node is two_node and one.body.agent == two.body.agent
            if not same_agent and clash(one.body, two.body):
                yield one_node, one, two_node, two


def check_exclusion(world: World, *, settled: bool) -> None:
    """S1 at all times; one holder of anything if the swarm has been whole for a while.

    Raises:
        Violation: two hold it.
    """
    for one_node, one, two_node, two in _pairs(world):
        if settled or (one.grade == "quorum" and two.grade == "quorum"):
            raise Violation(
                f"at {world.scheduler.instant}: {one_node.name} ({one.grade}, {one.body.id}) and {two_node.name} "
                f"({two.grade}, {two.body.id}) both hold what {one.body.resources} and {two.body.resources} have in common"
            )


def check_let_go(world: World) -> None:
    """L2: all agents have let go, so nobody knows of a lease any more.

    Raises:
        Violation: somebody does.
    """
    for node in world.running():
        assert node.node is not None
        own = [holding.body.id for holding in node.node.leases.holdings()]
        known = [(lease.claim_id, lease.state) for lease in node.node.leases.leases(node.now.instant)]
        if own or known:
            raise Violation(f"left over at {node.name}: {own or known}")


def check_the_dead_let_go(world: World, died_at: Mapping[PeerId, tuple[int, Instant]], longest_ms: int) -> None:
    """L2: a holder that is gone blocks nobody for longer than its ttl, stretched for the clocks by each who told of it.

    Args:
        world: all of it.
        died_at: peer -> the incarnation that the latest one to die had, and when it died.
        longest_ms: the longest ttl there is: an agent may have renewed its lease with another one than it began with.

    Raises:
        Violation: somebody counts a lease of its still.
    """
    # A process that has just begun counts what the one before it had acknowledged for another ttl, and tells others.
    begun_at = max(node.paused_at for node in world.nodes)
    for node in world.running():
        assert node.node is not None
        now = node.now.instant
        for known in node.node.leases.claims.all():
            incarnation, at = died_at.get(known.owner, (-1, 0))
            # How old it is what only the document tells, nobody knows.
            if incarnation_of(known.body.id) > incarnation or known.source != "direct":
                continue
            waited = world.scheduler.instant - max(at, begun_at)
            if waited > stretch(stretch(stretch(longest_ms))) + SLACK_MS and node.node.leases.claims.live(known, now):
                raise Violation(f"at {world.scheduler.instant}: {node.name} counts {known.body.id}, gone for {waited} ms")


def check_converged(world: World) -> None:
    """All running nodes have the same document and the same leases.

    Raises:
        Violation: they differ.
    """
    views = []
    for node in world.running():
        assert node.node is not None
        document = {
            root: list(node.node.sync.entries(root))
            for root in ("activeWork", "issueUpdates", "specUpdates", "leases", "leaseHistory", "agentMetadata")
        }
        leases = sorted((lease.claim_id, lease.state) for lease in node.node.leases.leases(node.now.instant))
        views.append((node.name, document, leases))
    for name, document, leases in views[1:]:
        first_name, first_document, first_leases = views[0]
        if document != first_document:
            raise Violation(f"documents of {first_name} and {name} differ: {first_document} {document}")
        if leases != first_leases:
            raise Violation(f"leases as {first_name} and {name} see them differ: {first_leases} {leases}")
