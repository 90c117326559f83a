"""A clone that lost its disk gets back what it had shared, out of the copies that its peers have."""

from __future__ import annotations

import pytest
from msgspec.structs import replace
from tests.core.node_swarm import NodeSwarm

from sudocode_coordination.api.requests import (
    AcquireLease,
    ListIssues,
    ListLeases,
    ListSpecs,
    ListWork,
    SetWork,
    UpdateIssue,
    UpdateSpec,
)
from sudocode_coordination.config import create_default_config
from sudocode_coordination.core.io import DiskContents, Listening, Started
from sudocode_coordination.core.node import Node
from sudocode_coordination.core.recovery import RECOVERY_MS, Recovery
from sudocode_coordination.model import Resource
from sudocode_coordination.sim.identity import SimKeyring

NAMES = ("ann", "ben", "cyd")


def loses_its_disk(swarm: NodeSwarm, name: str) -> None:
    """It dies, its disk with it, and starts anew with the identity that it had."""
    for other in swarm.clones:
        if frozenset({name, other}) in swarm.links:
            swarm.cuts(name, other)
    swarm[name].node = Node(create_default_config(name), swarm[name].key)
    swarm.gives(name, Started(contents=DiskContents(), seed=2, newborn=False))
    swarm.gives(name, Listening(addresses=("/ip4/192.0.2.1/tcp/1",)))
    swarm.settles(1_000)


def titles(swarm: NodeSwarm, name: str) -> dict[str, object]:
    return {issue.issue_id: issue.fields["title"].value for issue in swarm.asks(name, ListIssues())}


@pytest.fixture
def swarm() -> NodeSwarm:
    made = NodeSwarm(*NAMES)
    made.asks("ann", UpdateIssue(issue_id="1", fields={"title": "of ann"}))
    made.asks("ben", UpdateIssue(issue_id="2", fields={"title": "of ben"}))
    made.asks("ben", UpdateIssue(issue_id="3", fields={"title": "early"}))
    made.asks("ben", UpdateIssue(issue_id="3", fields={"title": "late"}))
    made.asks("ben", UpdateSpec(spec_path="s.md", fields={"by": "ben"}))
    made.asks("ben", SetWork(status="of the life before"))
    assert made.asks("ben", AcquireLease(resources=(Resource("file", "a.py"),)), within_ms=1_000)
    made.settles(1_000)
    return made


def test_what_it_had_written_is_its_own_again_and_everybodys(swarm: NodeSwarm) -> None:
    loses_its_disk(swarm, "ben")
    assert titles(swarm, "ben") == {}
    swarm.connects()
    swarm.settles(2_000)
    for name in NAMES:
        assert titles(swarm, name) == {"1": "of ann", "2": "of ben", "3": "late"}
        assert [spec.spec_path for spec in swarm.asks(name, ListSpecs())] == ["s.md"]
        assert swarm.asks(name, ListWork()) == [], "work is of a life that is over"
        assert swarm.asks(name, ListLeases(everyone=True)) == [], "and so are leases"
    swarm.asks("ben", UpdateIssue(issue_id="2", fields={"title": "later"}))
    swarm.settles(1_000)
    assert titles(swarm, "cyd")["2"] == "later"


def test_what_it_has_written_since_is_not_undone(swarm: NodeSwarm) -> None:
    loses_its_disk(swarm, "ben")
    swarm.asks("ben", UpdateIssue(issue_id="3", fields={"title": "since"}))
    swarm.connects()
    swarm.settles(2_000)
    for name in NAMES:
        assert titles(swarm, name) == {"1": "of ann", "2": "of ben", "3": "since"}


def test_after_a_while_nobody_is_asked_any_more(swarm: NodeSwarm) -> None:
    loses_its_disk(swarm, "ben")
    swarm.settles(RECOVERY_MS)
    swarm.connects()
    swarm.settles(2_000)
    for name in NAMES:
        assert titles(swarm, name) == {"1": "of ann"}


def test_a_copy_that_is_not_signed_regains_nothing() -> None:
    swarm = NodeSwarm("ann", "ben")
    swarm.asks("ben", UpdateIssue(issue_id="2", fields={"title": "of ben"}))
    swarm.settles(1_000)
    feed = swarm["ann"].node.sync.store.feed(swarm["ben"].peer)
    assert feed is not None
    good, bad = Recovery(swarm["ben"].key), Recovery(SimKeyring("ben"))
    assert [again for envelope in feed.envelopes for again in good.take(envelope)]
    assert [again for envelope in feed.envelopes for again in bad.take(replace(envelope, signature=b"x" * 64))] == []
