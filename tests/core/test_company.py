"""Who is here, looks for new addresses, and beats by gossip."""

from __future__ import annotations

import pytest
from tests.core.node_swarm import NodeSwarm

from sudocode_coordination.api.answers import AgentInfo
from sudocode_coordination.api.requests import AttachAgent
from sudocode_coordination.core import beats as beats_module
from sudocode_coordination.core.beats import Beats
from sudocode_coordination.core.company import counts, everybody, own_agents
from sudocode_coordination.core.seeking import MAX_SEEK_MS, MIN_FAILURES, SEEK_MS, Seeking
from sudocode_coordination.sim.identity import SimKeyring


def test_everybody_is_shown_with_how_it_is_connected() -> None:
    swarm = NodeSwarm("ann", "ben")
    swarm.asks("ben", AttachAgent(agent="helper", capabilities=("review",)))
    swarm.settles(100)
    node = swarm["ann"].node
    shown = {one.agent_id: (one.connection, one.capabilities) for one in everybody(node, swarm.now)}
    assert shown["ann"][0] == "self"
    assert shown["ben"][0] == "direct"
    assert shown["helper"] == ("direct", ("review",))
    [own] = own_agents(node, swarm.now)
    assert (type(own), own.agent_id, own.default) == (AgentInfo, "ann", True)
    assert counts(node, swarm["ben"].peer)
    assert not counts(node, "somebody")


def test_the_branch_is_looked_at_ever_more_rarely() -> None:
    seeking = Seeking()
    assert seeking.deadline(MIN_FAILURES - 1) is None
    now, gaps = 0, []
    for _ in range(8):
        at = seeking.deadline(MIN_FAILURES)
        assert at is not None
        gaps.append(at - now)
        assert not seeking.is_due(MIN_FAILURES, at - 1)
        assert seeking.is_due(MIN_FAILURES, at)
        now = at
    assert gaps[0] == SEEK_MS
    assert gaps == sorted(gaps)
    assert gaps[-1] == MAX_SEEK_MS
    assert not seeking.is_due(0, now)
    assert seeking.deadline(MIN_FAILURES) == now + SEEK_MS, "who answers in between begins anew"


def test_a_beat_counts_once_of_a_known_peer_and_signed(monkeypatch: pytest.MonkeyPatch) -> None:
    ann, ben, eve = (SimKeyring(name) for name in ("ann", "ben", "eve"))
    heard, known = Beats(ann), {ann.peer_id, ben.peer_id}
    first = Beats(ben).own(1, 1).data
    assert heard.heard(first, known) == ben.peer_id
    assert heard.heard(first, known) is None
    assert heard.heard(Beats(ben).own(1, 2).data, known) == ben.peer_id
    assert heard.heard(Beats(eve).own(9, 9).data, known) is None
    assert heard.heard(Beats(ann).own(9, 9).data, known) is None
    assert heard.heard(first[:-1], known) is None
    monkeypatch.setattr(beats_module, "MAX_PRESENCES", 1)
    assert heard.heard(Beats(ben).own(2, 0).data, {ben.peer_id}) == ben.peer_id
    assert len(heard.latest) == 1
