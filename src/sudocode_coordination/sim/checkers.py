"""What must hold in every history. The names are those of `docs/leases.md`.

S1: two conflicting quorum leases are never valid together. Settled: in a component that has been whole for a while there is
one holder, whatever the grade. S4: what has ended is never revived. L1: in the end every request is answered, and no claim is
left of those whose agents let go. Convergence: in the end all see the same.
"""

from __future__ import annotations

from collections.abc import Iterator

from sudocode_coordination.core.holdings import Holding
from sudocode_coordination.core.resources import overlap
from sudocode_coordination.model import ClaimId
from sudocode_coordination.sim.world import SimNode, World


class Violation(AssertionError):  # noqa: N818 - that is its name
    """An invariant does not hold."""


def holdings(node: SimNode) -> Iterator[Holding]:
    """Leases that the node's agents may rely on now, by its own clock. A frozen node's agents are frozen with it, but what
    they wrote last they wrote in the belief that they hold."""
    if node.node is None:
        return
    now = node.now.instant
    for holding in node.node.leases.holdings():
        if holding.granted and now < holding.valid_until:
            yield holding


def _clash(one: Holding, two: Holding) -> bool:
    if one.body.mode == "shared" and two.body.mode == "shared":
        return False
    return any(overlap(a, b, fold_case=one.body.fold or two.body.fold) for a in one.body.resources for b in two.body.resources)


def _pairs(world: World) -> Iterator[tuple[SimNode, Holding, SimNode, Holding]]:
    held = [(node, holding) for node in world.nodes for holding in holdings(node)]
    for index, (one_node, one) in enumerate(held):
        for two_node, two in held[index + 1 :]:
            same_agent = one_node is two_node and one.body.agent == two.body.agent
            if not same_agent and _clash(one, two):
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


class NoRevival:
    """S4: remembers which claims have ended."""

    def __init__(self) -> None:
        self._ended: set[ClaimId] = set()
        self._live: dict[str, set[ClaimId]] = {}

    def check(self, world: World) -> None:
        """Once a step.

        Raises:
            Violation: a claim that was over is held again.
        """
        for node in world.nodes:
            held = {holding.body.id for holding in holdings(node)}
            before = self._live.get(node.name, set())
            self._ended |= before - held
            revived = held & self._ended
            if revived:
                raise Violation(f"at {world.scheduler.instant}: {node.name} revived {sorted(revived)}")
            self._live[node.name] = held


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
            for root in ("activeWork", "issueUpdates", "specUpdates", "leases", "agentMetadata")
        }
        leases = sorted((lease.claim_id, lease.state) for lease in node.node.leases.leases(node.now.instant))
        views.append((node.name, document, leases))
    for name, document, leases in views[1:]:
        first_name, first_document, first_leases = views[0]
        if document != first_document:
            raise Violation(f"documents of {first_name} and {name} differ: {first_document} {document}")
        if leases != first_leases:
            raise Violation(f"leases as {first_name} and {name} see them differ: {first_leases} {leases}")
