"""Fast leases when peers come and go: restarts, partitions, meetings, and what the document tells meanwhile."""

from __future__ import annotations

import msgspec
import pytest
from tests.core.lease_bench import TTL, WALL_MS, Bench, Ring, a_claim, every_order

from sudocode_coordination.core import lease_book
from sudocode_coordination.core.claims import stretch
from sudocode_coordination.core.facts import EntryChange, Notify, Say
from sudocode_coordination.core.holdings import QUEUED_HOLD_MS, Ticket
from sudocode_coordination.core.io import DiskContents, ForgottenValue, Persist, StoredValue
from sudocode_coordination.core.leases import FULL_CLAIMS_ON_MEETING, MEETING_DELAY_MS, LeaseManager
from sudocode_coordination.core.wire import Claim, End, Renew
from sudocode_coordination.model import Now, PartitionPolicy

# --- restart --------------------------------------------------------------------------------------------------------------


def test_after_a_restart_what_was_acknowledged_still_counts_and_own_leases_do_not() -> None:
    bench = Bench("alice", "bob", "carol")
    bench.asks("alice", "a.py")
    bench.asks("bob", "b.py")
    bench.settles()
    bench.restarts("bob")
    assert bench["bob"].held() == []
    assert [lease.claim_id for lease in bench.of("bob").leases(bench.instant)] == ["alice.1.1"]
    assert [d["reason"] for d in bench["carol"].told("lease-released")] == ["restarted"]
    bench.cut("carol", "alice")
    asked = bench.asks("carol", "a.py")
    bench.settles()
    assert not bench.granted(asked)


def test_a_restarted_peer_is_a_voice_with_its_disk_and_none_without() -> None:
    for intact in (True, False):
        bench = Bench("alice", "bob", "carol", max_lease_ttl_ms=20_000, lease_ttl_ms=20_000)
        bench.isolates("carol")
        bench.restarts("bob", intact=intact)
        bench.asks("alice", "a.py")
        bench.settles()
        assert bench["alice"].holding().grade == "provisional" or intact
        assert bench.of("bob").remembers(bench.instant) == intact
        bench.passes(stretch(stretch(20_000)) - 1)
        assert bench.of("bob").remembers(bench.instant) == intact
        bench.passes(1)
        assert bench.of("bob").remembers(bench.instant)
        bench.passes(10_000)
        assert bench["alice"].holding().grade == "quorum", "its voice counts again at the next renewal"


def test_a_peer_without_memory_does_not_count_itself_either() -> None:
    bench = Bench("alice", "bob", "carol")
    bench.isolates("carol")
    bench.of("alice").memory_lost(bench.instant)
    bench.asks("alice", "a.py")
    bench.settles()
    assert bench["alice"].holding().grade == "provisional"


def test_unreadable_memory_is_lost_memory() -> None:
    machine = LeaseManager("alice", Bench("alice")["alice"].config, Ring("alice"))
    broken = StoredValue(space="claims", key="bob.1.1", data=b"\xc1")
    other = StoredValue(space="drafts", key="1", data=b"\xc1")
    machine.started(2, DiskContents(values=(other,), intact=True), Now(0, WALL_MS))
    assert machine.remembers(0)
    machine.started(2, DiskContents(values=(broken,), intact=True), Now(0, WALL_MS))
    assert not machine.remembers(0)


def test_a_new_life_ends_the_claims_of_the_one_before() -> None:
    bench = Bench("alice", "bob")
    bench.asks("alice", "a.py")
    bench.settles()
    bench.hears("bob", "alice", Renew(incarnation=1, round=2, numbers=(1,)))
    bench.restarts("alice")
    assert bench.of("bob").leases(bench.instant) == []
    assert [d["reason"] for d in bench["bob"].told("lease-released")] == ["restarted"]
    bench.hears("bob", "alice", a_claim("alice.1.9", granted=True))
    bench.does("bob", bench.of("bob").entries_changed("alice", (EntryChange(root="leases", key="1.8", value=entry()),), bench.now))
    assert bench.of("bob").leases(bench.instant) == [], "late words of the life before"
    assert bench.granted(bench.asks("bob", "a.py")) is False
    bench.settles()
    assert bench.holders("a.py") == ["bob"]


def test_goodbye_ends_all_of_a_peers_claims() -> None:
    bench = Bench("alice", "bob")
    bench.asks("alice", "a.py")
    bench.settles()
    waiting = bench.asks("bob", "a.py", wait_ms=0)
    bench.drops("bob", "alice")
    bench.does("bob", bench.of("bob").peer_left("alice", bench.now))
    bench.cuts.add(("bob", "alice"))
    bench.suspected["bob"].add("alice")
    bench.looks("bob")
    assert bench.granted(waiting)


def test_stopping_ends_everything_and_tells_everyone() -> None:
    bench = Bench("alice", "bob")
    bench.asks("alice", "a.py")
    bench.settles()
    bench.asks("bob", "a.py", wait_ms=0)
    bench.asks("bob", "b.py")
    bench.settles()
    bench.does("bob", bench.of("bob").stop(bench.now))
    assert bench.of("bob").holdings() == []
    assert {m.id for _, m in bench["bob"].said if isinstance(m, End)} == {"bob.1.1", "bob.1.2"}
    assert [d["reason"] for d in bench["bob"].told("lease-released")] == ["stopped"]
    assert bench["bob"].document == {}


# --- partitions -------------------------------------------------------------------------------------------------------------


def split() -> Bench:
    """Alice and bob hold the same provisionally, alice first."""
    bench = Bench("alice", "bob")
    bench.isolates("alice")
    bench.asks("alice", "a.py")
    bench.instant += 10
    bench.of("bob")._lamport = 5
    bench.asks("bob", "a.py")
    assert bench.holders("a.py") == ["alice", "bob"]
    return bench


def healing() -> Bench:
    bench = split()
    bench.heals("alice", "bob")
    return bench


def test_when_two_holders_meet_exactly_the_later_one_is_told_and_ends() -> None:
    orders = 0
    for bench in every_order(healing):
        orders += 1
        assert bench.holders("a.py") == ["alice"]
        assert bench["alice"].told("lease-lost") == []
        (lost,) = bench["bob"].told("lease-lost")
        assert (lost["reason"], lost["holder"]) == ("lost-conflict", "agent-of-alice")
    assert orders >= 1


@pytest.mark.parametrize("grace_ms", [0, 60_000])
@pytest.mark.parametrize("priority", [0, 9])
def test_a_quorum_lease_keeps_against_any_provisional_one(priority: int, grace_ms: int) -> None:
    def scene() -> Bench:
        bench = Bench("alice", "bob", "carol", preempt_grace_ms=grace_ms)
        bench.isolates("alice")
        bench.asks("alice", "a.py", priority=priority)
        bench.asks("bob", "a.py")
        bench.settles()
        assert [bench[name].holding().grade for name in ("alice", "bob")] == ["provisional", "quorum"]
        bench.heals("alice", "bob")
        return bench

    for bench in every_order(scene):
        assert bench.holders("a.py") == ["bob"]
        assert [d["holder"] for d in bench["alice"].told("lease-lost")] == ["agent-of-bob"]
        assert bench["bob"].told("lease-lost") == []
        bench.asks("alice", "a.py", priority=9, wait_ms=0)
        bench.settles()
        bench.passes(grace_ms)
        assert bench.holders("a.py") == ["alice"], "whoever is more important has to ask, even then"


def test_a_holder_that_is_gone_does_not_block_a_provisional_lease() -> None:
    bench = Bench("alice", "bob")
    bench.asks("bob", "a.py")
    bench.settles()
    bench.isolates("bob")
    answer = bench.answer(bench.asks("alice", "a.py"))
    assert answer is not None
    assert answer.reason == "held"
    bench.loses_sight("alice", "bob")
    asked = bench.asks("alice", "a.py")
    assert bench.granted(asked)
    assert bench["alice"].holding().grade == "provisional"


def test_a_waiter_gets_its_turn_when_the_holder_is_gone() -> None:
    bench = Bench("alice", "bob")
    bench.asks("bob", "a.py")
    bench.settles()
    asked = bench.asks("alice", "a.py", wait_ms=0)
    bench.settles()
    bench.isolates("bob")
    assert not bench.granted(asked)
    bench.loses_sight("alice", "bob")
    assert bench.granted(asked), "that bob himself has answered before does not vouch for him now"


def test_a_dead_holder_is_shown_no_longer_than_the_last_who_heard_of_it_counts_it() -> None:
    bench = Bench("alice", "bob", "carol")
    bench.asks("alice", "a.py")
    bench.settles()
    bench.passes(TTL // 2, silent=True)
    bench.delivers("alice", "bob")
    bench.instant += 50
    bench.delivers("alice", "carol")
    bench.isolates("alice")
    asked = bench.asks("bob", "a.py", wait_ms=0)
    bench.settles()

    def shown() -> bool:
        return any(known.owner == "alice" and known.expiry > bench.instant for known in bench.of("bob").claims.all())

    while not bench.granted(asked):
        due = [at for name in ("bob", "carol") if (at := bench.of(name).deadline()) is not None]
        bench.passes(min(due) - bench.instant, frozen=("alice",))
    assert shown(), "carol has just told of it"
    assert bench.holders("a.py") == ["bob"]
    bench.passes(60, frozen=("alice",))
    assert not shown(), "carol counted it for 50 ms more, and a little for the drift of clocks"
    assert bench.holders("a.py") == ["bob"], "and bob's lease stands meanwhile"


def test_unless_somebody_vouches_that_it_is_there() -> None:
    bench = Bench("alice", "bob", "carol")
    bench.asks("bob", "a.py")
    bench.settles()
    bench.cut("alice", "bob")
    bench.loses_sight("alice", "bob")
    asked = bench.asks("alice", "a.py")
    bench.settles()
    answer = bench.answer(asked)
    assert answer is not None
    assert [c.agent_id for c in answer.holders] == ["agent-of-bob"]
    assert bench.holders("a.py") == ["bob"]


def test_in_a_closed_swarm_even_a_holder_that_is_gone_blocks() -> None:
    bench = Bench("alice", "bob", policy="closed")
    bench.asks("bob", "a.py")
    bench.settles()
    bench.isolates("bob")
    bench.loses_sight("alice", "bob")
    assert not bench.granted(bench.asks("alice", "a.py"))


@pytest.mark.parametrize("policy", ["open", "majority", "closed"])
def test_a_partition_of_one_direction_lets_no_two_hold_and_heals(policy: PartitionPolicy) -> None:
    """What alice says arrives, what bob says does not."""
    bench = Bench("alice", "bob", policy=policy)
    bench.cuts.add(("bob", "alice"))
    bench.suspected["bob"].add("alice")
    for name in ("alice", "bob"):
        bench.looks(name)
    waiting = [bench.asks("bob", "a.py", wait_ms=0)]
    bench.settles()
    assert bench.granted(waiting[0]) == (policy == "open")
    waiting.append(bench.asks("alice", "a.py", wait_ms=0))
    bench.settles()
    assert bench.holders("a.py") == (["bob"] if policy == "open" else []), "alice waits for an answer of the one that she reaches"
    bench.heals("alice", "bob")
    bench.settles()
    bench.passes(30_000)
    assert len(bench.holders("a.py")) == 1
    (holder,) = bench.holders("a.py")
    assert bench[holder].holding().grade == "quorum"


def test_in_a_closed_swarm_one_that_is_cut_off_stops_all_new_leases_and_no_old_one() -> None:
    bench = Bench("alice", "bob", "carol", policy="closed")
    bench.asks("alice", "a.py")
    bench.settles()
    bench.isolates("carol")
    asked = bench.asks("bob", "b.py", wait_ms=0)
    bench.passes(3 * TTL)
    assert not bench.granted(asked), "a majority of the others agrees, but carol is live as far as anybody knows"
    assert bench.holders("a.py") == ["alice"]
    assert bench["alice"].holding().grade == "quorum"
    for name in ("alice", "bob"):
        bench.heals("carol", name)
    bench.settles()
    bench.passes(30_000)
    assert bench.granted(asked)


def test_an_expired_claim_of_another_counts_again_when_its_owner_is_back() -> None:
    bench = Bench("alice", "bob", policy="majority")
    asked = bench.asks("alice", "a.py", wait_ms=0)
    bench.drops("alice", "bob")
    bench.isolates("bob")
    bench.passes(QUEUED_HOLD_MS * 2)
    assert bench.of("bob").leases(bench.instant) == []
    bench.heals("alice", "bob")
    bench.settles()
    assert bench.granted(asked)


# --- meeting -----------------------------------------------------------------------------------------------------------------


def test_a_peer_that_comes_is_told_of_all_claims() -> None:
    bench = Bench("alice", "bob")
    bench.isolates("bob")
    bench.asks("alice", "a.py")
    bench.asks("alice", "b.py", agent="two")
    bench.heals("alice", "bob")
    assert [type(m) for m in bench.under_way("alice", "bob")] == [Claim, Claim]
    bench.settles()
    assert {lease.claim_id for lease in bench.of("bob").leases(bench.instant)} == {"alice.1.1", "alice.1.2"}
    assert all(holding.grade == "quorum" for holding in bench["alice"].held())


def test_very_many_claims_are_told_by_number_once_the_documents_have_come() -> None:
    bench = Bench("alice", "bob")
    bench.isolates("bob")
    for number in range(FULL_CLAIMS_ON_MEETING + 1):
        bench.asks("alice", f"{number}.py")
    bench.heals("alice", "bob")
    assert bench.under_way("alice", "bob") == []
    bench.writes_reach("bob", "alice")
    bench.passes(MEETING_DELAY_MS - 1)
    assert bench.under_way("alice", "bob") == []
    bench.passes(1)
    told = [m for _, m in bench["alice"].said if isinstance(m, Renew)]
    assert [len(m.numbers) for m in told] == [FULL_CLAIMS_ON_MEETING + 1]
    assert all(known.source == "direct" for known in bench.of("bob").claims.of_owner("alice"))


def test_who_does_not_count_is_asked_all_the_same() -> None:
    """Its record looks out of date to Alice. She hears of its claim from Carol, and only it can say that it gives way."""
    bench = Bench("alice", "bob", "carol")
    bench.asks("carol", "a.py")
    bench.settles()
    waiting = bench.asks("bob", "a.py", wait_ms=0)
    bench.settles()
    view = bench.view("alice")
    bench.does("alice", bench.of("alice").view_changed(view._replace(roster=("alice", "carol")), bench.now))
    urgent = bench.asks("alice", "a.py", priority=5, wait_ms=0)
    assert any(isinstance(message, Claim) for message in bench.under_way("alice", "bob"))
    bench.settles()
    assert bench.granted(urgent)
    assert not bench.granted(waiting)


def test_two_in_contact_who_do_not_count_each_other_do_not_both_hold() -> None:
    """Both can't write the branch, and their window is over; or each has left and come back while the remote was away."""
    bench = Bench("alice", "bob", fresh=False)
    for name in ("alice", "bob"):
        view = bench.view(name)._replace(roster=(name,), established=(name,))
        bench.does(name, bench.of(name).view_changed(view, bench.now))
    asked = [bench.asks(name, "a.py") for name in ("alice", "bob")]
    assert bench.holders("a.py") == []
    bench.settles()
    assert [bench.granted(of) for of in asked] == [True, False]
    assert bench.holders("a.py") == ["alice"]


def test_the_end_of_a_denied_request_is_told_again_to_who_is_back() -> None:
    """A claim that waited for nothing is not in the document: its end would be lost with the connection."""
    bench = Bench("alice", "bob", "carol")
    asked = bench.asks("alice", "a.py")
    bench.delivers("alice", "bob")
    bench.cut("alice", "bob", suspected=False)
    bench.does("alice", bench.of("alice").cancel(Ticket(1, asked), bench.now))
    assert [lease.agent_id for lease in bench.of("bob").leases(bench.instant)] == ["agent-of-alice"]
    bench.heals("alice", "bob")
    bench.settles()
    assert bench.of("bob").leases(bench.instant) == []
    bench.asks("bob", "a.py")
    bench.settles()
    assert bench.holders("a.py") == ["bob"]


def test_an_end_that_was_lost_with_a_connection_is_told_again() -> None:
    """The document may have nothing to tell: its entry came and went since it was last exchanged."""
    bench = Bench("alice", "bob")
    bench.asks("alice", "a.py")
    bench.settles()
    bench.cut("alice", "bob", suspected=False)
    bench.releases("alice", "a.py")
    assert [lease.agent_id for lease in bench.of("bob").leases(bench.instant)] == ["agent-of-alice"]
    bench.heals("alice", "bob")
    while bench.under_way("alice", "bob"):
        bench.delivers("alice", "bob")
    assert bench.of("bob").leases(bench.instant) == []


def test_of_ends_the_latest_are_told_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lease_book, "MAX_ENDED", 2)
    bench = Bench("alice", "bob")
    for _ in range(3):
        asked = bench.asks("alice", "a.py", ttl_ms=5_000)
        bench.does("alice", bench.of("alice").cancel(Ticket(1, asked), bench.now))
    told = [said.message for said in bench.of("alice").peer_up("bob", bench.now) if isinstance(said, Say)]
    assert [message.id for message in told if isinstance(message, End)] == ["alice.1.2", "alice.1.3"]
    bench.passes(6_000)
    assert bench.of("alice").peer_up("bob", bench.now) == []


# --- the document ------------------------------------------------------------------------------------------------------------


def entry(**changes: object) -> dict[str, object]:
    return {
        "agent": "stranger",
        "resources": [["file", "a.py"]],
        "mode": "exclusive",
        "priority": 0,
        "lamport": 7,
        "ttlMs": TTL,
        "state": "granted",
        "grade": "quorum",
        "since": "2027-01-15T08:00:00.000Z",
        "note": "",
    } | changes


def reads(bench: Bench, owner: str, **entries: object) -> list[Notify]:
    changes = tuple(EntryChange(root="leases", key=key.replace("_", "."), value=value) for key, value in entries.items())
    outputs = bench.of("bob").entries_changed(owner, changes, bench.now)
    bench.does("bob", outputs)
    return [o for o in outputs if isinstance(o, Notify)]


def test_what_the_document_tells_is_known_before_the_holder_says_so() -> None:
    bench = Bench("alice", "bob")
    (told,) = reads(bench, "alice", _1_5=None, **{"1_4": entry()})
    assert (told.type, told.agent_id) == ("lease-acquired", "stranger")
    asked = bench.asks("bob", "a.py")
    bench.settles()
    answer = bench.answer(asked)
    assert answer is not None
    assert [c.peer_id for c in answer.holders] == ["alice"]
    (told,) = reads(bench, "alice", **{"1_4": None})
    assert (told.type, told.data["reason"]) == ("lease-released", "released")
    bench.asks("bob", "a.py")
    bench.settles()
    assert bench.holders("a.py") == ["bob"]


def test_what_the_document_tells_of_strangers_does_not_count() -> None:
    bench = Bench("alice", "bob")
    reads(bench, "eve", **{"1_4": entry()})
    bench.asks("bob", "a.py")
    bench.settles()
    assert bench.holders("a.py") == ["bob"]


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("x.1", entry()),
        ("1", entry()),
        ("1.x", entry()),
        ("1.1", "no lease"),
        ("1.1", entry(mode="greedy")),
        ("1.1", entry(lamport=-1)),
        ("1.1", {}),
    ],
)
def test_entries_that_are_none_are_passed_over(key: str, value: object) -> None:
    bench = Bench("alice", "bob")
    assert reads(bench, "alice", **{key: value}) == []
    assert bench.of("bob").leases(bench.instant) == []


def test_what_only_the_document_tells_lasts_while_its_owner_is_heard_of() -> None:
    bench = Bench("alice", "bob")
    reads(bench, "alice", **{"1_4": entry(ttlMs=10_000)})
    bench.passes(9_000)
    bench.of("bob").peer_alive("alice", bench.now)
    bench.passes(9_000)
    assert len(bench.of("bob").leases(bench.instant)) == 1
    bench.passes(2_000)
    assert bench.of("bob").leases(bench.instant) == []


def test_what_only_the_document_tells_is_not_told_on() -> None:
    bench = Bench("alice", "bob", "carol")
    reads(bench, "alice", **{"1_4": entry()})  # only to bob, who can't know how old it is
    bench.asks("carol", "a.py")
    bench.settles()
    assert bench.holders("a.py") == ["carol"]


def test_an_own_entry_and_other_roots_say_nothing() -> None:
    bench = Bench("alice", "bob")
    assert reads(bench, "bob", **{"1_4": entry()}) == []
    other = (EntryChange(root="activeWork", key="1.4", value=entry()),)
    assert bench.of("bob").entries_changed("alice", other, bench.now) == []


def test_what_is_stored_of_a_claim_is_all_that_a_restart_needs() -> None:
    bench = Bench("alice", "bob")
    bench.asks("alice", "a.py", ttl_ms=30_000)
    bench.settles()
    bench.releases("alice", "a.py")
    outputs = bench.of("bob").received("alice", End(id="alice.1.1", reason="released"), bench.now)
    assert [o for o in outputs if isinstance(o, Persist)] == [
        Persist(operations=(ForgottenValue(space="claims", key="alice.1.1"),))
    ]
    assert msgspec.msgpack.encode(outputs)
