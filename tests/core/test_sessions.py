"""Agents that come with a hook's first call and leave when they are silent."""

from __future__ import annotations

import msgspec
import pytest
from tests.core.node_swarm import NodeSwarm

from sudocode_coordination.api.requests import (
    AcquireLease,
    CheckConflicts,
    DetachAgent,
    GetBriefing,
    ListLeases,
    ListMessages,
    SendMessage,
    SetWork,
    TouchResources,
)
from sudocode_coordination.core.facts import Notify
from sudocode_coordination.core.sessions import MAX_LOST, Sessions
from sudocode_coordination.model import Now, Resource

FILE = (Resource("file", "a.py"),)
IDLE_MS = 60_000


@pytest.fixture
def swarm() -> NodeSwarm:
    return NodeSwarm("ann", "ben")


def _held(swarm: NodeSwarm, name: str) -> list[str]:
    return [lease.agent_id for lease in swarm.asks(name, ListLeases(everyone=True)) if lease.state == "granted"]


def _touch(agent: str, process: int | None = None) -> TouchResources:
    return TouchResources(resources=FILE, agent=agent, idle_ms=IDLE_MS, process=process)


def test_who_touches_is_attached_and_has_the_lease_until_it_is_silent(swarm: NodeSwarm) -> None:
    assert swarm.asks("ann", _touch("s1")).granted
    swarm.settles(IDLE_MS - 5_000)
    assert _held(swarm, "ben") == ["s1"], "renewed by itself meanwhile"
    assert swarm.asks("ann", _touch("s1")).granted
    swarm.settles(IDLE_MS - 5_000)
    assert _held(swarm, "ann") == ["s1"], "every touch begins the time anew"
    swarm.settles(10_000)
    assert (_held(swarm, "ann"), _held(swarm, "ben")) == ([], [])
    assert "s1" not in swarm["ann"].node.agents.local


def test_acting_in_another_way_counts_too(swarm: NodeSwarm) -> None:
    swarm.asks("ann", _touch("s1"))
    swarm.settles(IDLE_MS - 5_000)
    swarm.asks("ann", SetWork(status="busy", agent="s1"))
    swarm.settles(IDLE_MS - 5_000)
    assert _held(swarm, "ann") == ["s1"]


def test_the_default_agent_never_leaves_by_silence(swarm: NodeSwarm) -> None:
    assert swarm.asks("ann", _touch("ann")).granted
    swarm.settles(2 * IDLE_MS)
    assert _held(swarm, "ann") == ["ann"]


def test_who_is_denied_is_told_who_has_it(swarm: NodeSwarm) -> None:
    swarm.asks("ben", AcquireLease(resources=FILE, note="mine"))
    denied = swarm.asks("ann", _touch("s1"))
    assert (denied.granted, [holder.agent_id for holder in denied.holders]) == (False, ["ben"])


def test_a_briefing_has_all_that_matters_and_what_is_news_once(swarm: NodeSwarm) -> None:
    swarm.asks("ann", _touch("s1"))
    swarm.asks("ben", SetWork(status="tests"))
    swarm.asks("ben", AcquireLease(resources=FILE, priority=5))
    swarm.asks("ben", SendMessage(text="sorry", to=("s1",)))
    swarm.settles(100)
    told = swarm.asks("ann", GetBriefing(agent="s1"))
    assert [(lost.reason, lost.holder) for lost in told.lost] == [("preempted", "ben")]
    assert [message.text for message in told.messages] == ["sorry"]
    assert [work.agent_id for work in told.work] == ["ben"]
    assert [lease.agent_id for lease in told.leases] == ["ben"]
    assert told.own == ()
    again = swarm.asks("ann", GetBriefing(agent="s1"))
    assert (again.lost, again.messages) == ((), ())
    assert again.work == told.work
    assert swarm.asks("ann", ListMessages(agent="s1")) == [], "what was told is read"
    assert swarm.heard("ben", "message-acknowledged", "ben")


def test_subagents_leave_with_their_session(swarm: NodeSwarm) -> None:
    for agent in ("s1", "s1.sub", "s10"):
        swarm.asks("ann", GetBriefing(agent=agent, idle_ms=IDLE_MS))
    swarm.asks("ann", DetachAgent(agent="s1", below=True))
    assert set(swarm["ann"].node.agents.local) == {"ann", "s10"}


def test_who_asks_below_a_session_s_process_is_that_session(swarm: NodeSwarm) -> None:
    swarm.asks("ann", _touch("s1", process=4_242))
    as_session = swarm.asks("ann", CheckConflicts(resources=FILE, processes=(9, 4_242, 1)))
    assert (as_session.agent_id, as_session.conflicts) == ("s1", ())
    as_other = swarm.asks("ann", CheckConflicts(resources=FILE, processes=(9, 1)))
    assert (as_other.agent_id, [c.agent_id for c in as_other.conflicts]) == ("ann", ["s1"])
    named = swarm.asks("ann", CheckConflicts(resources=FILE, processes=(4_242,), agent="ann"))
    assert named.agent_id == "ann", "who is named goes before"


def test_of_several_under_one_process_the_last_that_acted() -> None:
    sessions = Sessions()
    for at, agent in ((1, "a"), (3, "b"), (2, "c")):
        sessions.touched(agent, 1_000 * at, 7, Now(at, 0))
    assert sessions.under((7,)) == "b"
    assert sessions.under((8,)) is None


def test_lost_leases_are_bounded() -> None:
    swarm = NodeSwarm("ann")
    swarm.asks("ann", _touch("s1"))
    [lease] = swarm.asks("ann", ListLeases(agent="s1"))
    sessions = Sessions()
    for number in range(MAX_LOST + 3):
        data = {"lease": msgspec.to_builtins(lease), "reason": f"r{number}"}
        sessions.heard(Notify(type="lease-lost", agent_id="s1", data=data), Now(0, 0))
    found = sessions.lost("s1")
    assert (len(found), found[-1].reason) == (MAX_LOST, f"r{MAX_LOST + 2}")
    assert sessions.lost("s1") == ()
