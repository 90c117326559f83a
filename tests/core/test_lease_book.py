"""The book of leases over time: renewals, and what it shows."""

from __future__ import annotations

from tests.core.lease_bench import BIRTH, Bench, Ring, every_order, file

from sudocode_coordination.config import create_default_config
from sudocode_coordination.core.claims import stretch
from sudocode_coordination.core.lease_book import LeaseBook
from sudocode_coordination.core.wire import Claim, ClaimBody, Renew, RenewAck

TTL = 300_000


def held_by_alice(*others: str, **config: int) -> Bench:
    bench = Bench("alice", *(others or ("bob",)), **config)  # type: ignore[arg-type]
    bench.asks("alice", "a.py")
    bench.settles()
    return bench


def test_the_book_decides_nothing() -> None:
    book = LeaseBook("me", create_default_config("a"), Ring("me"))
    assert (book.leases(0), book.holdings(), book.held_count(0)) == ([], [], {})
    assert book.remembers(0)
    book.memory_lost(5)
    assert not book.remembers(5 + 3_600_000)
    assert book.remembers(5 + 2 * 3_600_000)


# --- renewing ---------------------------------------------------------------------------------------------------------------


def renewals(bench: Bench, name: str = "alice") -> list[Renew]:
    return [m for _, m in bench[name].said if isinstance(m, Renew)]


def test_all_leases_are_renewed_at_half_their_ttl_in_one_message() -> None:
    bench = Bench("alice", "bob", "carol")
    for path in ("a.py", "b.py", "c.py"):
        bench.asks("alice", path)
    bench.settles()
    claims = len(bench["alice"].said)
    bench.passes(TTL // 2 - 1)
    assert renewals(bench) == []
    bench.passes(1)
    assert [m.numbers for m in renewals(bench)] == [(1, 2, 3)] * 2
    assert len(bench["alice"].said) == claims + 2
    assert len([m for _, m in bench["bob"].said if isinstance(m, RenewAck)]) == 1
    assert all(h.valid_until == bench.instant + TTL and h.grade == "quorum" for h in bench["alice"].held())
    assert len(bench["alice"].told("lease-renewed")) == 3


def test_a_lease_lives_as_long_as_it_is_renewed() -> None:
    bench = held_by_alice("bob", "carol")
    bench.passes(100 * TTL)
    assert bench.holders("a.py") == ["alice"]
    assert [lease.peer_id for lease in bench.of("bob").leases(bench.instant)] == ["alice"]
    assert bench["bob"].told("lease-expired") == []
    assert len(bench["alice"].document) == 1, "renewals do not enter the document"


def test_a_renewal_that_nobody_answers_extends_nothing() -> None:
    bench = held_by_alice("bob", "carol")
    until = bench["alice"].holding().valid_until
    bench.passes(TTL, frozen=("bob", "carol"), silent=True)
    assert bench.instant == until
    assert bench["alice"].held() == []
    assert [d["reason"] for d in bench["alice"].told("lease-expired")] == ["expired"]
    assert bench["alice"].document == {}


def test_a_renewal_that_was_lost_is_repeated_in_full() -> None:
    bench = held_by_alice("bob", "carol")
    bench.passes(TTL // 2 - 1)
    bench.passes(1, silent=True)
    bench.drops("alice", "bob")
    bench.drops("alice", "carol")
    bench.passes(TTL // 4)
    assert bench["alice"].holding().valid_until == BIRTH + TTL // 2 + TTL


def test_what_a_peer_does_not_know_or_sees_in_conflict_is_claimed_in_full() -> None:
    bench = Bench("alice", "bob", "carol")
    bench.asks("alice", "a.py")
    bench.asks("alice", "b.py")
    bench.settles()
    bench.asks("bob", "a.py", wait_ms=0)
    bench.settles()
    bench.passes(TTL // 2 - 1)
    answers = len(bench["bob"].said)
    bench.passes(1)
    (answer,) = [m for _, m in bench["bob"].said[answers:] if isinstance(m, RenewAck)]
    assert answer.unsettled == (1,)
    claims = [m for peer, m in bench["alice"].said if peer == "bob" and isinstance(m, Claim) and m.granted]
    assert [m.claim.id for m in claims][-1] == "alice.1.1"
    assert all(h.valid_until == bench.instant + TTL and h.grade == "quorum" for h in bench["alice"].held())
    assert bench.holders("a.py") == ["alice"]


def test_a_waiter_that_comes_in_the_middle_of_a_renewal_costs_the_holder_nothing() -> None:
    def scene() -> Bench:
        bench = held_by_alice("bob", "carol")
        bench.instant = BIRTH + TTL // 2
        bench.plans_to("bob", lambda: bench.asks("bob", "a.py", wait_ms=0))
        bench.ticks("alice")
        return bench

    orders = 0
    for bench in every_order(scene):
        orders += 1
        assert bench["alice"].holding().valid_until == BIRTH + TTL // 2 + TTL
    assert orders > 5


def test_a_lease_is_renewed_by_hand_for_another_time() -> None:
    bench = held_by_alice("bob", "carol", max_lease_ttl_ms=400_000)
    bench.passes(1_000)
    leases, outputs = bench.of("alice").renew("agent-of-alice", (file("a.py"),), 600_000, bench.now)
    bench.does("alice", outputs)
    bench.settles()
    assert [lease.claim_id for lease in leases] == ["alice.1.1"]
    assert bench["alice"].holding().valid_until == bench.instant + 400_000, "not longer than the longest ttl"
    bench.passes(200_000)
    assert bench["alice"].holding().valid_until == bench.instant + 400_000
    assert renewals(bench) == [], "its ttl is not the one it began with: claimed in full"
    bench.passes(stretch(400_000), frozen=("alice",))
    assert bench.of("bob").leases(bench.instant) == []


def test_there_is_nothing_to_renew_of_what_is_not_held() -> None:
    bench = held_by_alice()
    assert bench.of("bob").renew("agent-of-bob", (file("a.py"),), None, bench.now) == ([], [])
    assert bench.of("alice").renew("agent-of-alice", (file("b.py"),), None, bench.now) == ([], [])


def test_no_ttl_is_longer_than_the_longest() -> None:
    bench = Bench("alice", max_lease_ttl_ms=50_000)
    bench.asks("alice", "a.py", ttl_ms=60_000)
    assert bench["alice"].holding().body.ttl_ms == 50_000


def test_who_claims_what_is_held_learns_it_even_as_a_holder_of_lower_rank() -> None:
    bench = held_by_alice()
    rival = ClaimBody("bob.1.7", "late", (file("a.py"),), "exclusive", 0, 99, TTL)
    bench.hears("alice", "bob", Claim(claim=rival, round=1, hold_ms=TTL, granted=True, grade="quorum"))
    assert bench.holders("a.py") == ["alice"]


# --- looking ----------------------------------------------------------------------------------------------------------------


def test_leases_are_listed_holders_first_and_then_the_queue_in_its_order() -> None:
    bench = held_by_alice("bob", "carol", preempt_grace_ms=3_600_000)
    for name, priority in (("bob", 0), ("carol", 5)):
        bench.asks(name, "a.py", priority=priority, wait_ms=0)
        bench.settles()
    listed = [lease.agent_id for lease in bench.of("bob").leases(bench.instant)]
    assert listed == ["agent-of-alice", "agent-of-carol", "agent-of-bob"]
    assert [lease.agent_id for lease in bench.of("bob").leases(bench.instant, "agent-of-bob")] == ["agent-of-bob"]
    assert bench.of("bob").held_count(bench.instant) == {("alice", "agent-of-alice"): 1}


def test_conflicts_name_holders_first_and_never_oneself() -> None:
    bench = held_by_alice("bob", "carol")
    bench.asks("bob", "a.py", wait_ms=0)
    bench.settles()
    found = bench.of("bob").conflicts("somebody", (file("a.py"), file("b.py")), bench.instant)
    assert [(c.kind, c.agent_id) for c in found] == [("lease", "agent-of-alice"), ("waiting", "agent-of-bob")]
    assert [c.agent_id for c in bench.of("bob").conflicts("agent-of-bob", (file("a.py"),), bench.instant)] == ["agent-of-alice"]
