"""What watches the table of strict leases and the agents' requests finds what is put before it."""

from __future__ import annotations

import msgspec
import pytest

from sudocode_coordination.api.requests import AcquireLease, LeaseOutcome
from sudocode_coordination.config import create_default_config
from sudocode_coordination.core.io import Reply, RequestError, TableChange
from sudocode_coordination.core.strict_table import META, Entry, encode_entry, path_of
from sudocode_coordination.model import Resource
from sudocode_coordination.sim.checkers import Violation
from sudocode_coordination.sim.network import NetworkFaults
from sudocode_coordination.sim.plan import MISFORTUNES, Plan, plan_of
from sudocode_coordination.sim.scenario import Run
from sudocode_coordination.sim.strict_watch import StrictWatch
from sudocode_coordination.sim.workload import Asked, Workload
from sudocode_coordination.sim.world import World

FILE = Resource("file", "a.py")


class Remote:
    """A table on which the test pushes what it likes."""

    def __init__(self) -> None:
        self.world = World(1, config=create_default_config, faults=NetworkFaults())
        self.watch = StrictWatch(self.world)
        self._tickets = 0

    def lands(self, revision: int, *entries: Entry, gone: tuple[str, ...] = ()) -> None:
        self._tickets += 1
        self.world.scheduler.instant += 1_000
        changes: dict[str, bytes | None] = {path_of(entry.id): encode_entry(entry) for entry in entries}
        changes |= {path_of(id_): None for id_ in gone}
        changes[META] = msgspec.json.encode({"version": 1, "revision": revision, "done": {}})
        table = self.world.table
        change = TableChange(ticket=self._tickets, parent=table.commit, changes=changes, nonce=str(self._tickets), wall_ms=0)
        assert table.land(change) == "landed"
        assert self.watch.news
        self.watch.look()
        assert not self.watch.news


def entry(number: int, token: int, path: str = "a.py", agent: str = "ann", renewals: int = 0) -> Entry:
    return Entry(
        id=f"peer.1.{number}",
        agent=agent,
        resources=(Resource("file", path),),
        mode="exclusive",
        priority=0,
        ttl_ms=60_000,
        token=token,
        renewals=renewals,
    )


def test_a_table_that_keeps_the_laws_is_passed() -> None:
    remote = Remote()
    remote.lands(1, entry(1, 1))
    remote.lands(2, entry(1, 1, renewals=1))
    remote.lands(3, entry(2, 3, agent="ben"), gone=("peer.1.1",))
    remote.watch.check_held("n0", "peer.1.2", 3)
    assert remote.watch.has("peer.1.2")
    assert not remote.watch.has("peer.1.1")


def test_two_in_the_table_that_are_in_each_others_way_are_seen() -> None:
    remote = Remote()
    remote.lands(1, entry(1, 1))
    with pytest.raises(Violation, match="both in the table"):
        remote.lands(2, entry(2, 2, agent="ben"))


def test_tokens_that_do_not_grow_or_change_are_seen() -> None:
    remote = Remote()
    remote.lands(5, entry(1, 5))
    with pytest.raises(Violation, match="5 was granted before"):
        remote.lands(6, entry(2, 5, path="b.py"))
    remote = Remote()
    remote.lands(5, entry(1, 5))
    with pytest.raises(Violation, match="went from 5 to 6"):
        remote.lands(6, entry(1, 6))
    remote = Remote()
    remote.lands(5)
    with pytest.raises(Violation, match="revision went from 5 to 5"):
        remote.lands(5)


def test_a_lease_that_is_not_in_the_table_is_seen() -> None:
    remote = Remote()
    with pytest.raises(Violation, match=r"holds peer\.1\.1 with token 1, and in the table is None"):
        remote.watch.check_held("n0", "peer.1.1", 1)
    remote.lands(1, entry(1, 1))
    with pytest.raises(Violation, match="in the table is 1"):
        remote.watch.check_held("n0", "peer.1.1", 2)


# --- requests -------------------------------------------------------------------------------------------------------------------


def asked_of(wait_ms: int | None) -> tuple[Workload, Asked]:
    run = Run(1, Plan(nodes=2))
    request = AcquireLease(resources=(FILE,), wait_ms=wait_ms, agent="ann")
    return run.workload, Asked(run.world.nodes[0], 1, "ann", request, 0)


DENIED = LeaseOutcome(granted=False, reason="held")


def test_an_answer_that_comes_too_late_is_seen() -> None:
    workload, asked = asked_of(3_000)
    workload._world.scheduler.instant = 3_100
    workload._check_answer(asked, Reply(client=1, request_id=1, value=DENIED), DENIED)
    workload._world.scheduler.instant = 3_200
    with pytest.raises(Violation, match="answered only then"):
        workload._check_answer(asked, Reply(client=1, request_id=1, value=DENIED), DENIED)


def test_a_denial_of_a_wait_without_limit_and_an_error_are_seen() -> None:
    workload, asked = asked_of(0)
    with pytest.raises(Violation, match="was denied: held"):
        workload._check_answer(asked, Reply(client=1, request_id=1, value=DENIED), DENIED)
    asked.node.start()
    error = RequestError(code="failed", message="a bug")
    with pytest.raises(Violation, match="a bug"):
        workload._check_answer(asked, Reply(client=1, request_id=1, error=error), None)


def test_a_grant_to_somebody_else_is_seen() -> None:
    workload, asked = asked_of(0)
    granted = LeaseOutcome(granted=True)
    with pytest.raises(Violation, match="was granted None"):
        workload._check_answer(asked, Reply(client=1, request_id=1, value=granted), granted)


# --- plans ------------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", MISFORTUNES)
def test_each_misfortune_happens_and_all_is_well_after_it(kind: str) -> None:
    outcome = Run(11, Plan(misfortunes=(kind,), how_many=(2, 2), trouble_ms=20_000), words=True).run()
    assert outcome.violation is None
    assert any(word.split()[2] == kind for word in outcome.words)


def test_an_unknown_misfortune_is_refused() -> None:
    with pytest.raises(ValueError, match="no such misfortune: rain"):
        Run(11, Plan(misfortunes=("rain",), how_many=(1, 1))).run()


def test_seeds_stand_for_plans_of_all_kinds() -> None:
    plans = [plan_of(seed) for seed in range(300)]
    assert plans == [plan_of(seed) for seed in range(300)]
    assert {plan.nodes for plan in plans} == {2, 3, 4, 5}
    assert {dict(plan.config)["partition_policy"] for plan in plans} == {"open", "majority", "closed"}
    assert {0.0, 0.3, 1.0} == {plan.strict for plan in plans}
    assert {True, False} == {plan.patient for plan in plans}
    assert {resource.type for plan in plans for resource in plan.resources} == {"file", "issue", "spec", "component"}
