"""What is due when, with many leases that change all the time."""

from __future__ import annotations

from random import Random

import pytest
from tests.core.node_swarm import NodeSwarm

from sudocode_coordination.api.requests import AcquireLease
from sudocode_coordination.core.strict_agenda import SPARE, Agenda
from sudocode_coordination.core.strict_own import OwnStrict
from sudocode_coordination.model import Instant, Resource


def test_what_is_due_is_what_a_look_at_all_would_find() -> None:
    random = Random(11)
    times: dict[str, Instant | None] = {}
    asked: list[str] = []

    def due_of(claim: str) -> Instant | None:
        asked.append(claim)
        return times.get(claim)

    agenda = Agenda(due_of)
    for now in range(3_000):
        for _ in range(random.randrange(4)):
            claim = f"c{random.randrange(60)}"
            times[claim] = random.choice([None, now + random.randrange(50), now - 1])
            agenda.stirred[claim] = None
        later = [at for at in times.values() if at is not None]
        assert agenda.first() == min(later, default=None)
        found = agenda.due(now)
        assert sorted(found) == sorted(claim for claim, at in times.items() if at is not None and at <= now)
        if random.random() < 0.5:  # else they are due again
            for claim in found:
                times[claim] = now + 1 + random.randrange(50)
                agenda.stirred[claim] = None
        assert len(agenda._heap) <= 2 * 60 + SPARE + 60


def test_those_that_did_not_change_are_not_looked_at() -> None:
    times: dict[str, Instant] = {f"c{number}": 1_000 + number for number in range(10_000)}
    asked: list[str] = []

    def due_of(claim: str) -> Instant:
        asked.append(claim)
        return times[claim]

    agenda = Agenda(due_of)
    agenda.stirred.update(dict.fromkeys(times))
    assert agenda.first() == 1_000
    asked.clear()
    times["c7"] = 5
    agenda.stirred["c7"] = None
    assert agenda.first() == 5
    assert agenda.due(1_001) == ["c7", "c0", "c1"]
    assert asked == ["c7"]


def test_a_step_of_a_clone_with_many_strict_leases_looks_at_few(monkeypatch: pytest.MonkeyPatch) -> None:
    swarm = NodeSwarm("ann")
    for number in range(300):
        swarm.puts("ann", AcquireLease(resources=(Resource("file", f"{number}.py"),), strict=True))
    swarm.settles(5_000)
    assert len(swarm.chain.table().entries) == 300
    looked = 0
    due = OwnStrict.due

    def counted(own: OwnStrict) -> Instant | None:
        nonlocal looked
        looked += 1
        return due(own)

    monkeypatch.setattr(OwnStrict, "due", counted)
    assert swarm.asks("ann", AcquireLease(resources=(Resource("file", "one more.py"),), strict=True))
    assert 0 < looked < 30
