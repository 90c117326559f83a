"""What the leases promise, held against real daemons on loopback: races, deaths, pauses, queues, restarts, a lost remote."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Iterator
from typing import Final

import pytest
from tests.e2e.clones import Clone, wait_for
from tests.e2e.swarm import Member, at_once, background, contend, have_met, one_holder, remote_of, soon, swarm

from sudocode_coordination.errors import CoordinationError

PATH: Final = "src/auth.py"
AGAIN_S: Final = 10.0
"""For daemons to find each other again: seconds, on a busy machine."""
TTL_S: Final = 4.0
RUNS_OUT: Final = ("--heartbeat", "500ms", "--discovery-interval", "1s", "--lease-ttl", "4s", "--set", "max_lease_ttl_ms=10000")
"""A ttl that a test can wait for. The grace for those who are gone is longer, so it is the ttl that counts."""
GRACE: Final = ("--heartbeat", "500ms", "--discovery-interval", "1s", "--lease-ttl", "60s", "--set", "gone_grace_ms=2000")
"""The other way round."""

pytestmark = pytest.mark.timeout(180)


@pytest.fixture(scope="module")
def four() -> Iterator[list[Member]]:
    """Four daemons for all tests that leave them as they were."""
    with swarm("ada", "bob", "cyd", "dan") as members:
        yield members


@pytest.fixture
def calm(four: list[Member]) -> Iterator[list[Member]]:
    """The four, with nothing leased before and after."""
    yield four
    for member in four:
        for agent in member.me.status().agents:
            member.client(agent.agent_id).release_all()
    soon("nothing is left", lambda: not any(member.me.leases(everyone=True) for member in four), 5.0)


# --- who gets it -------------------------------------------------------------------------------------------------------------


def test_four_ask_at_the_same_moment(calm: list[Member]) -> None:
    for _ in range(20):
        contend(calm, PATH)


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_four_ask_at_the_same_moment_200_times(calm: list[Member]) -> None:
    for _ in range(200):
        contend(calm, PATH)


def test_all_or_nothing(calm: list[Member]) -> None:
    ada, bob, cyd, _ = calm
    assert ada.me.acquire_lease("x")
    denied = bob.me.acquire_lease(["y", "x"])
    assert not denied
    assert [(holder.agent_id, holder.resource.path) for holder in denied.holders] == [("ada", "x")]
    assert bob.me.leases() == ()
    assert cyd.me.acquire_lease("y"), "what was not granted in full holds nothing up"

    both = at_once([lambda: ada.me.acquire_lease(["p", "q"]), lambda: bob.me.acquire_lease(["q", "p"])])
    assert sorted(map(bool, both)) == [False, True]
    winner = "ada" if both[0] else "bob"
    for path in ("p", "q"):
        soon(f"all see who has {path}", lambda path=path: all(one_holder(m, path, winner) for m in calm))  # type: ignore[misc]


def test_a_higher_priority_takes_over(calm: list[Member]) -> None:
    ada, bob, *_ = calm
    assert ada.me.acquire_lease(PATH, priority=1)
    assert not bob.me.acquire_lease(PATH, priority=1)
    assert bob.me.acquire_lease(PATH, priority=9)
    assert ada.me.leases() == ()
    lost = wait_for("ada is told", lambda: ada.events("lease-lost"))[-1]
    assert lost.agent_id == "ada"
    assert (lost.data["reason"], lost.data["holder"]) == ("preempted", "bob")
    soon("all see bob", lambda: all(one_holder(member, PATH, "bob") for member in calm))
    assert not ada.me.acquire_lease(PATH, priority=9), "an equal priority takes nothing"


# --- waiting -----------------------------------------------------------------------------------------------------------------


def test_a_waiter_gets_it_on_release(calm: list[Member]) -> None:
    ada, bob, cyd, dan = calm
    assert ada.me.acquire_lease(PATH)
    with background(lambda: bob.me.acquire_lease(PATH, wait_ms=30_000)) as waiting:
        soon("all see who waits", lambda: all(member.waiting(PATH) == ["bob"] for member in calm), 3.0)
        assert not cyd.me.acquire_lease(PATH), "who does not wait is denied"
        assert not waiting.done()
        ada.me.release_lease(PATH)
        outcome = waiting.result(5)
    assert outcome
    assert outcome.waited_ms > 0
    soon("all see bob", lambda: all(one_holder(member, PATH, "bob") for member in calm))
    denied = dan.me.acquire_lease(PATH, wait_ms=200)
    assert not denied
    assert [holder.agent_id for holder in denied.holders] == ["bob"]


def test_waiters_come_in_order(calm: list[Member]) -> None:
    ada, bob, cyd, _ = calm
    assert ada.me.acquire_lease(PATH)
    with background(lambda: bob.me.acquire_lease(PATH, wait_ms=30_000)) as first:
        soon("bob waits", lambda: all(member.waiting(PATH) == ["bob"] for member in calm), 3.0)
        with background(lambda: cyd.me.acquire_lease(PATH, wait_ms=30_000)) as second:
            soon("so does cyd", lambda: all(member.waiting(PATH) == ["bob", "cyd"] for member in calm), 3.0)
            ada.me.release_lease(PATH)
            assert first.result(5)
            assert not second.done()
            bob.me.release_lease(PATH)
            assert second.result(5)


def test_a_waiter_that_leaves_is_out_of_the_queue(calm: list[Member]) -> None:
    ada, bob, *_ = calm
    assert ada.me.acquire_lease(PATH)
    leaver = bob.client()
    ends: list[str] = []

    def wait() -> None:
        try:
            leaver.acquire_lease(PATH, wait=True)
        except CoordinationError as error:
            ends.append(error.code)

    thread = threading.Thread(target=wait)
    thread.start()
    soon("bob waits", lambda: all(member.waiting(PATH) == ["bob"] for member in calm), 3.0)
    leaver.close()
    thread.join(5)
    assert len(ends) == 1
    soon("nobody waits", lambda: not any(member.waiting(PATH) for member in calm))
    ada.me.release_lease(PATH)
    soon("nobody has it", lambda: not any(member.on(PATH) for member in calm))


# --- several agents of one clone ---------------------------------------------------------------------------------------------


def test_agents_of_one_daemon_are_separate(calm: list[Member]) -> None:
    ada, bob, *_ = calm
    one, two = ada.client("one"), ada.client("two")
    one.attach("one", bound=True)
    two.attach("two")
    soon("bob sees them", lambda: {"one", "two"} <= {peer.agent_id for peer in bob.me.peers()}, AGAIN_S)
    assert one.acquire_lease("x")
    assert two.acquire_lease("y")
    assert [holder.agent_id for holder in two.acquire_lease("x").holders] == ["one"]
    assert [holder.agent_id for holder in bob.me.acquire_lease("y").holders] == ["two"]
    assert [lease.agent_id for lease in one.leases()] == ["one"]
    assert [lease.agent_id for lease in two.leases()] == ["two"]
    assert ada.me.leases() == ()
    assert two.release_lease("x").released == (), "what another agent holds is not given back"
    one.set_work(status="one works")
    assert [work.agent_id for work in two.work(agent="one")] == ["one"]
    assert two.work(agent="two") == ()
    one.close()
    soon("one has left, and its lease with it", lambda: bob.holders("x") == [] and not bob.me.work(agent="one"))
    assert bob.holders("y") == ["two"]
    two.detach("two")
    soon("so has two", lambda: bob.holders("y") == [])
    soon("bob sees neither", lambda: {"one", "two"}.isdisjoint(peer.agent_id for peer in bob.me.peers()), AGAIN_S)


# --- deaths and pauses -------------------------------------------------------------------------------------------------------


def test_a_killed_holder_blocks_no_longer_than_its_ttl() -> None:
    with swarm("ada", "bob", "cyd", settings=RUNS_OUT) as members:
        ada, bob, cyd = members
        assert ada.me.acquire_lease(PATH)
        soon("all know", lambda: all(one_holder(member, PATH, "ada") for member in members))
        ada.clone.kill()
        assert bob.me.acquire_lease(PATH, wait_ms=30_000)
        # cyd may have heard of ada a little later, and tells bob of what it counts for those milliseconds (test_leases_apart.py).
        soon("only bob holds it", lambda: bob.holders(PATH) == ["bob"])

        ada.start(*RUNS_OUT)
        assert ada.me.leases() == (), "it does not believe that it still holds"
        wait_for("they meet again", lambda: have_met(members), AGAIN_S)
        soon("all see bob", lambda: all(one_holder(member, PATH, "bob") for member in members))
        assert [holder.agent_id for holder in ada.me.acquire_lease(PATH).holders] == ["bob"]
        assert [holder.agent_id for holder in cyd.me.acquire_lease(PATH).holders] == ["bob"]


def test_a_killed_holder_is_forgotten_after_the_grace() -> None:
    with swarm("ada", "bob", "cyd", settings=GRACE) as members:
        ada, bob, _ = members
        assert ada.me.acquire_lease(PATH)
        soon("all know", lambda: all(one_holder(member, PATH, "ada") for member in members))
        ada.clone.kill()
        assert bob.me.acquire_lease(PATH, wait_ms=50_000)
        ada.start(*GRACE)
        assert ada.me.leases() == ()
        wait_for("they meet again", lambda: have_met(members), AGAIN_S)
        soon("all see bob", lambda: all(one_holder(member, PATH, "bob") for member in members))


def test_a_holder_that_slept_too_long_knows_it() -> None:
    with swarm("ada", "bob", settings=RUNS_OUT) as members:
        ada, bob = members
        assert ada.me.acquire_lease(PATH)
        soon("bob knows", lambda: one_holder(bob, PATH, "ada"))
        pid = ada.clone.pid
        os.kill(pid, signal.SIGSTOP)
        try:
            with background(lambda: ada.me.leases()) as believed:
                assert bob.me.acquire_lease(PATH, wait_ms=30_000)
                assert not believed.done()
                os.kill(pid, signal.SIGCONT)
                assert believed.result(10) == (), "the first thing that it says is right already"
        finally:
            os.kill(pid, signal.SIGCONT)
        assert ada.events("lease-expired", "lease-lost")
        wait_for("they meet again", lambda: have_met(members), AGAIN_S)
        for _ in range(20):
            assert bob.holders(PATH) == ["bob"]
            assert ada.me.leases() == ()
        soon("both see bob", lambda: all(one_holder(member, PATH, "bob") for member in members))
        assert not ada.me.acquire_lease(PATH)


# --- comings and goings ------------------------------------------------------------------------------------------------------


def address_of(clone: Clone) -> str:
    addresses = clone.json("status")["addresses"]
    assert len(addresses) == 1
    return str(addresses[0])


def test_a_restarted_daemon_is_met_again_and_a_lost_remote_stops_nobody() -> None:
    settings = ("--heartbeat", "500ms", "--discovery-interval", "1s")
    with swarm("ada", "bob", settings=settings) as members:
        ada, bob = members
        before = address_of(bob.clone)
        bob.close()
        bob.clone.coord("stop")
        soon("ada sees it", lambda: ada.direct() == set(), 5.0)
        bob.start(*settings)
        assert address_of(bob.clone) != before
        wait_for("they meet again", lambda: have_met(members), AGAIN_S)
        assert bob.me.acquire_lease(PATH)
        assert not ada.me.acquire_lease(PATH)
        bob.me.release_lease(PATH)

        remote = remote_of(ada)
        aside = remote.with_name("away.git")
        remote.rename(aside)
        wait_for("both say so", lambda: all(m.me.status().remote.state == "unreachable" for m in members), 20.0)
        health = ada.me.status().remote
        assert health.since is not None
        assert health.reason
        assert "unreachable" in ada.clone.coord("status").stdout
        for _ in range(3):
            for holder, other in ((ada, bob), (bob, ada)):
                # The release of the round before may still be on its way.
                assert holder.me.acquire_lease(PATH, wait_ms=2_000)
                assert [found.agent_id for found in other.me.acquire_lease(PATH).holders] == [holder.name]
                holder.me.release_lease(PATH)
        bob.me.set_work(status="goes on")
        soon("ada sees the work", lambda: [work.status for work in ada.me.work()] == ["goes on"], 3.0)
        aside.rename(remote)
        wait_for("it is there again", lambda: all(m.me.status().remote.state == "ok" for m in members), 30.0)
        assert have_met(members)
