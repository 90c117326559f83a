"""What the benches of leases need to ask who held what when."""

from __future__ import annotations

from typing import Any

from tests.core.lease_bench import Bench, file

from sudocode_coordination.core.resources import normalise_all
from sudocode_coordination.model import HistoryEntry, Json, PeerId


def history(bench: Bench, viewer: PeerId, *paths: str, limit: int = 1_000) -> list[HistoryEntry]:
    """As that peer's daemon answers, out of its own document and its replicas of those of the others."""
    ended: list[tuple[PeerId, str, Json]] = []
    held: list[tuple[PeerId, str, Json]] = []
    for author in sorted(bench.stations):
        contents = bench[viewer].contents() if author == viewer else bench.replicas.get((author, viewer), {})
        for (root, key), value in sorted(contents.items()):
            (ended if root == "leaseHistory" else held).append((author, key, value))
    machine = bench.of(viewer)
    return machine.history.query(
        normalise_all(file(path) for path in paths),
        ended,
        held,
        limit=limit,
        in_force=lambda claim: machine.claims.is_live(claim, bench.instant),
    )


def cycle(bench: Bench, name: PeerId, path: str, **how: Any) -> None:
    """Taken and given back, a second later."""
    asked = bench.asks(name, path)
    bench.settles()
    assert bench.granted(asked)
    bench.passes(1_000)
    bench.releases(name, path, **how)
    bench.settles()


def share(bench: Bench) -> None:
    """All that is under way arrives, and all that was written."""
    bench.settles()
    for author, reader in sorted(bench.links):
        bench.writes_reach(reader, author)
    bench.settles()
