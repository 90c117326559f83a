"""Faults that a hostile reading of the core found, each as the shortest story that showed it."""

from __future__ import annotations

import pytest
from tests.core.discovery_bench import record
from tests.core.lease_bench import Bench, file
from tests.core.node_bench import ANN, NodeBench

from sudocode_coordination.api.requests import AcquireLease, ListIssues, ListLeases, ReleaseLease, UpdateIssue
from sudocode_coordination.config import create_default_config
from sudocode_coordination.core.agents import HybridClock
from sudocode_coordination.core.claims import MAX_OWNER_CLAIMS
from sudocode_coordination.core.facts import EntryChange
from sudocode_coordination.core.io import (
    BranchRead,
    Dial,
    DialFailed,
    DiskContents,
    DiskFailed,
    Effect,
    Listening,
    Persist,
    Reply,
    RequestReceived,
    Send,
    Started,
    Stopped,
    StopRequested,
    StoredValue,
    Ticked,
)
from sudocode_coordination.core.life import STOP_MS
from sudocode_coordination.core.wire import (
    MAX_FRAME_BYTES,
    MAX_LAMPORT,
    Ack,
    Bye,
    Claim,
    ClaimBody,
    End,
    Heads,
    Renew,
    RenewAck,
    decode_frame,
    encode_frame,
)
from sudocode_coordination.model import Json
from sudocode_coordination.sim.checkers import check_exclusion
from sudocode_coordination.sim.network import NetworkFaults
from sudocode_coordination.sim.world import SimClock, SimNode, World

# --- leases -----------------------------------------------------------------------------------------------------------------


def test_a_lease_renewed_for_less_ends_with_that_and_not_with_what_it_had() -> None:
    bench = Bench("alice", "bob", "cora")
    bench.asks("alice", "f", ttl_ms=300_000)
    bench.settles()
    _, outputs = bench.of("alice").renew("agent-of-alice", (file("f"),), 5_000, bench.now)
    bench.does("alice", outputs)
    bench.settles()
    bench.cut("alice", "bob", suspected=False)
    bench.cut("alice", "cora", suspected=False)
    bench.passes(6_000)
    asked = bench.asks("bob", "f")
    bench.settles()
    assert bench.granted(asked)
    assert bench.holders("f") == ["bob"]


def test_what_two_waiters_tell_each_other_of_a_dead_holder_does_not_keep_its_lease_alive() -> None:
    bench = Bench("alice", "bob", "cora", policy="majority")
    bench.asks("alice", "f", ttl_ms=300_000)
    bench.settles()
    bench.isolates("alice")
    first = bench.asks("bob", "f", wait_ms=0)
    bench.asks("cora", "f", wait_ms=0)
    bench.settles()
    bench.passes(330_000)
    assert bench.granted(first)


@pytest.mark.parametrize("ttl_ms", [7 * 24 * 3_600_000, 1])
def test_what_is_disclosed_can_be_read(ttl_ms: int) -> None:
    bench = Bench("alice", "bob", "cora", max_lease_ttl_ms=7 * 24 * 3_600_000)
    bench.asks("alice", "f", ttl_ms=ttl_ms)
    bench.settles()
    bench.asks("bob", "f", wait_ms=0)
    bench.delivers("bob", "cora")
    for message in bench.under_way("cora", "bob"):
        assert decode_frame(encode_frame([message])) == (message,)


def test_a_waiter_whose_claim_is_released_by_another_of_its_agent_is_answered() -> None:
    bench = Bench("alice", "bob")
    bench.asks("bob", "f")
    bench.settles()
    asked = bench.asks("alice", "f", wait_ms=0)
    bench.settles()
    bench.releases("alice", everything=True)
    answer = bench.answer(asked)
    assert answer is not None
    assert not answer.granted
    assert answer.reason == "released"


def test_waiters_are_answered_when_the_peer_stops() -> None:
    bench = Bench("alice", "bob")
    bench.asks("bob", "f")
    bench.settles()
    asked = bench.asks("alice", "f", wait_ms=0)
    bench.settles()
    bench.does("alice", bench.of("alice").stop(bench.now))
    answer = bench.answer(asked)
    assert answer is not None
    assert (answer.granted, answer.reason) == (False, "stopped")


def test_what_was_let_go_in_two_steps_is_gone() -> None:
    bench = Bench("alice", "bob")
    bench.asks("alice", "a", "b")
    bench.settles()
    bench.releases("alice", "a")
    bench.releases("alice", "b")
    bench.settles()
    bench.passes(10_000)
    assert bench.of("alice").holdings() == []


def test_what_was_let_go_a_moment_ago_is_not_held_already() -> None:
    bench = Bench("alice", "bob")
    bench.asks("alice", "a", "b")
    bench.settles()
    bench.releases("alice", "a")
    asked = bench.asks("alice", "a")
    bench.settles()
    assert bench.granted(asked)
    assert bench.holders("a") == ["alice"]
    assert bench.holders("b") == ["alice"]


def test_who_waits_for_two_and_lets_one_go_is_answered_with_the_other() -> None:
    bench = Bench("alice", "bob")
    bench.asks("bob", "a", "b")
    bench.settles()
    asked = bench.asks("alice", "a", "b", wait_ms=0)
    bench.settles()
    bench.releases("alice", "a")
    bench.settles()
    bench.releases("bob", "a", "b")
    bench.settles()
    answer = bench.answer(asked)
    assert answer is not None
    assert answer.lease is not None
    assert answer.lease.resources == (file("b"),)
    assert len(bench.of("alice").holdings()) == 1


def test_the_rest_of_a_lease_that_was_lost_meanwhile_is_not_taken_again() -> None:
    bench = Bench("alice", "bob")
    bench.asks("alice", "a", "b")
    bench.settles()
    bench.releases("alice", "a")  # the claim on the rest is on its way
    asked = bench.asks("bob", "b", priority=9)
    bench.delivers("bob", "alice")
    bench.settles()
    assert bench.granted(asked)
    assert len(bench["alice"].told("lease-lost")) == 1
    bench.releases("bob", "b")
    bench.settles()
    bench.passes(20_000)
    assert bench.holders("b") == []


def test_stopping_while_the_rest_of_a_lease_is_on_its_way() -> None:
    bench = Bench("alice", "bob")
    bench.asks("alice", "a", "b")
    bench.settles()
    bench.releases("alice", "a")
    bench.does("alice", bench.of("alice").stop(bench.now))
    assert bench.of("alice").holdings() == []


# --- what peers, disks and documents may say --------------------------------------------------------------------------------


@pytest.mark.parametrize("stamp", ["9" * 5_000 + ".1", "1." + "9" * 4_300, "٣٣.٣", "1" * 16 + ".0", "", ".", "-1.-1", "x.y"])
def test_stamps_that_are_none_do_no_harm(stamp: str) -> None:
    bench = NodeBench()
    bench.reads(ann=ANN)
    entry = {"fields": {"title": {"value": "forged", "at": stamp}}}
    change = EntryChange(root="issueUpdates", key="ann|#1", value=entry)
    bench.node.agents.entries_changed(ANN.peer_id, (change,), bench.now)
    bench.node.sync.document.put(ANN.peer_id, "issueUpdates", "ann|#1", entry)
    update = bench.asks(UpdateIssue(issue_id="#1", fields={"title": "mine"}))
    assert update.fields["title"].value == "mine"
    assert [issue.issue_id for issue in bench.asks(ListIssues())] == ["#1"]


def test_the_hybrid_clock_has_room_for_many_writes_in_one_millisecond() -> None:
    clock = HybridClock()
    clock.saw("000000000000005.999999", 5)
    assert clock.tick(5) > "000000000000005.999999"


@pytest.mark.parametrize("space", ["claims", "drafts", "epochs", "departed", "other"])
@pytest.mark.parametrize(
    "data", [b"", b"\xff", b'"\xff"', b'{"draftId": "\xff"}', b"\x91\xa2\xff\xff", b"\x91" * 50_000, b"[" * 50_000]
)
def test_what_a_broken_disk_holds_does_not_end_the_start(space: str, data: bytes) -> None:
    contents = DiskContents(values=(StoredValue(space=space, key="x", data=data),))
    bench = NodeBench(contents=contents)
    assert bench.asks(ListLeases(everyone=True)) == []


def test_nobody_can_drive_the_logical_time_over_its_end() -> None:
    bench = Bench("alice", "bob", "mallory")
    claim = ClaimBody("mallory.1.1", "m", (file("x"),), "exclusive", 0, MAX_LAMPORT, 1_000)
    bench.hears("alice", "mallory", Claim(claim=claim, round=1, hold_ms=1_000))
    bench.asks("alice", "f")
    for message in [*bench.under_way("alice", "mallory"), *bench.under_way("alice", "bob")]:
        assert decode_frame(encode_frame([message])) == (message,)
    asked = bench.asks("bob", "g")
    bench.settles()
    assert bench.granted(asked)


@pytest.mark.parametrize(
    "wrong",
    [
        {"agent": ""},
        {"resources": []},
        {"priority": 10**9},
        {"ttlMs": 10**15},
        {"ttlMs": -1},
        {"resources": [["file", "x" * 60_000]]},
    ],
)
def test_a_lease_in_a_document_is_as_one_may_be_or_none(wrong: dict[str, Json]) -> None:
    entry: dict[str, Json] = {
        "agent": "m",
        "resources": [["file", "f"]],
        "mode": "exclusive",
        "priority": 0,
        "lamport": 1,
        "ttlMs": 1_000,
        "state": "granted",
        "grade": "quorum",
        "since": "then",
    }
    bench = Bench("alice", "bob", "mallory")
    for name in ("alice", "bob"):
        change = EntryChange(root="leases", key="1.1", value=entry | wrong)
        bench.does(name, bench.of(name).entries_changed("mallory", (change,), bench.now))
        assert list(bench.of(name).claims.all()) == []


def test_whoever_takes_a_claim_for_ended_is_no_voice_for_it() -> None:
    bench = Bench("alice", "bob", "cora")
    bench.does("bob", bench.of("bob").peer_started("alice", 2, bench.now))  # alice lost her disk, and her clock went back
    bench.asks("alice", "f")
    bench.delivers("alice", "bob")
    (answer,) = bench.under_way("bob", "alice")
    assert isinstance(answer, Ack)
    assert not answer.counts


def test_an_answer_fits_a_frame_however_much_is_in_the_way() -> None:
    bench = Bench("alice", "bob", "mallory")
    for number in range(200):
        names = tuple(sorted([file("f"), *(file(f"{number}-{n}-" + "x" * 900) for n in range(20))]))
        claim = ClaimBody(f"mallory.1.{number}", f"m{number}", names, "exclusive", 0, 1, 1_000)
        bench.hears("alice", "mallory", Claim(claim=claim, round=1, hold_ms=60_000))
    bench.drops("alice", "mallory")
    bench.asks("bob", "f")
    bench.delivers("bob", "alice")
    (answer,) = bench.under_way("alice", "bob")
    assert isinstance(answer, Ack)
    assert len(encode_frame([answer])) < MAX_FRAME_BYTES // 2
    assert not answer.counts, "not all is told"


def test_many_claims_of_one_peer_are_not_told_back_to_it() -> None:
    bench = Bench("alice", "mallory")
    for number in range(500):
        claim = ClaimBody(f"mallory.1.{number}", f"m{number}", (file("f"),), "exclusive", 0, 1, 1_000)
        bench.hears("alice", "mallory", Claim(claim=claim, round=1, hold_ms=60_000))
    assert sum(len(encode_frame([m])) for m in bench.under_way("alice", "mallory")) < 100_000


def test_timers_of_a_claim_that_is_refreshed_all_the_time_do_not_pile_up() -> None:
    bench = Bench("alice", "mallory")
    claim = ClaimBody("mallory.1.1", "m", (file("f"),), "exclusive", 0, 1, 1_000)
    for number in range(5_000):
        bench.instant += 1
        bench.hears("alice", "mallory", Claim(claim=claim, round=number, hold_ms=600_000))
    assert len(bench.of("alice")._timers) < 2_000
    bench.passes(700_000, silent=True)
    assert list(bench.of("alice").claims.all()) == []


def test_one_peer_takes_only_so_much_of_the_memory() -> None:
    bench = Bench("alice", "bob", "mallory")
    for number in range(MAX_OWNER_CLAIMS + 10):
        claim = ClaimBody(f"mallory.1.{number}", "m", (file(f"{number}"),), "exclusive", 0, 1, 1_000)
        bench.hears("alice", "mallory", Claim(claim=claim, round=1, hold_ms=60_000))
    assert len(bench.of("alice").claims.of_owner("mallory")) == MAX_OWNER_CLAIMS
    (last,) = bench.under_way("alice", "mallory")[-1:]
    assert isinstance(last, Ack)
    assert not last.counts
    asked = bench.asks("bob", "f")
    bench.settles()
    assert bench.granted(asked)


def test_an_answer_to_renewals_counts_once() -> None:
    bench = Bench("alice", "bob")
    for number in range(50):
        bench.asks("alice", f"{number}", ttl_ms=20_000)
    bench.settles()
    bench.passes(10_000, silent=True)
    (renew,) = [m for m in bench.under_way("alice", "bob") if isinstance(m, Renew)]
    bench.drops("alice", "bob")
    unsettled = RenewAck(incarnation=1, round=renew.round, unsettled=renew.numbers)
    for _ in range(100):
        bench.hears("alice", "bob", unsettled)
    assert len(bench.under_way("alice", "bob")) == 50, "each claim is told in full once"


def test_a_node_that_stops_while_it_seeks_somebody_does_not_spin() -> None:
    bench = NodeBench()
    bench.reads(ann=ANN)
    for _ in range(3):
        bench.gives(DialFailed(peer=ANN.peer_id, reason="refused"))
        bench.passes(2_000)
    bench.remote = False
    bench.gives(StopRequested())
    bench.effects.clear()
    bench.passes(STOP_MS)  # fails if a timer that has run is still due
    assert any(isinstance(effect, Stopped) for effect in bench.effects)
    assert not any(isinstance(effect, Dial) for effect in bench.effects)


def test_peers_that_stop_take_nobodys_claim_with_them() -> None:
    """Of five, two acknowledged a claim and stop; the other two who are left never heard of it, and are a majority of three."""
    config = {"lease_ttl_ms": 60_000, "max_lease_ttl_ms": 60_000, "peer_discovery_interval_ms": 15_000}
    world = World(1, config=lambda name: create_default_config(name, **config), faults=NetworkFaults())
    ann, ben, cid, dan, eve = nodes = [world.add(name) for name in ("ann", "ben", "cid", "dan", "eve")]

    def passes(ms: int) -> None:
        end = world.scheduler.instant + ms
        while world.scheduler.instant < end and world.scheduler.step():
            check_exclusion(world, settled=False)

    for node in nodes:
        node.start()
    passes(300_000)
    world.network.cut(ben.peer_id, dan.peer_id)
    world.network.cut(ben.peer_id, eve.peer_id)
    told: list[Reply] = []
    ben.ask(AcquireLease(resources=(file("f"),)), told.append)
    passes(2_000)
    ann.stop()
    cid.stop()
    passes(10_000)
    assert dan.node is not None
    assert len(dan.node.leases.view.roster) == 3
    dan.ask(AcquireLease(resources=(file("f"),), wait_ms=10_000), told.append)
    passes(20_000)
    assert [bool(reply.value) for reply in told] == [True, False]
    assert told[0].value.lease.grade == "quorum"
    assert [holder.peer_id for holder in told[1].value.holders] == [ben.peer_id]


def test_what_a_leaver_could_not_tell_in_full_keeps_its_weight() -> None:
    bench = NodeBench()
    bench.reads(ann=ANN)
    bench.connects(ANN)
    bench.hears(ANN, Bye(partial=True))
    assert ANN.peer_id in bench.node.leases.view.roster


def test_a_peer_that_stops_is_no_voice_any_more() -> None:
    bench = Bench("alice", "bob")
    bench.does("alice", bench.of("alice").stop(bench.now))
    bench.asks("bob", "f")
    bench.delivers("bob", "alice")
    (answer,) = bench.under_way("alice", "bob")
    assert isinstance(answer, Ack)
    assert not answer.counts


def test_what_was_inherited_survives_a_restart() -> None:
    bench = Bench("alice", "bob", "cora")
    bench.asks("cora", "f", ttl_ms=60_000)
    bench.delivers("cora", "bob")
    bench.drops("cora", "alice")
    testament, whole = bench.of("bob").testament(bench.now)
    assert whole
    taken, outputs = bench.of("alice").inherit(testament, bench.now)
    bench.does("alice", outputs)
    assert taken
    bench.restarts("alice")
    assert [known.owner for known in bench.of("alice").claims.all()] == ["cora"]


def test_a_lease_whose_grant_could_not_be_told_is_not_held() -> None:
    bench = NodeBench()
    asked = bench.puts(AcquireLease(resources=(file("f"),)))
    assert bench.answer(asked) is not None
    bench.gives(DiskFailed(reason="full"))  # of that very step: the client has had an error instead
    assert bench.node.leases.holdings() == []


def test_others_learn_that_a_claim_has_ended_though_the_disk_is_full() -> None:
    bench = NodeBench()
    bench.reads(ann=ANN)
    bench.connects(ANN)

    def ends_before_a_write(step: list[Effect]) -> list[str]:
        writes = [number for number, effect in enumerate(step) if isinstance(effect, Persist)]
        sent = [
            effect for effect in step[: min(writes, default=len(step))] if isinstance(effect, Send) and effect.peer == ANN.peer_id
        ]
        return [message.id for effect in sent for message in decode_frame(effect.frame) if isinstance(message, End)]

    bench.puts(AcquireLease(resources=(file("f"),)))
    (claim,) = [message for message in bench.said(ANN) if isinstance(message, Claim)]
    bench.hears(ANN, Ack(id=claim.claim.id, round=claim.round))
    released = bench.gives(RequestReceived(client=1, request_id=99, request=ReleaseLease(resources=(file("f"),))))
    assert ends_before_a_write(released) == [], "as a rule writes come first"
    assert ends_before_a_write(bench.gives(DiskFailed(reason="full"))) == [claim.claim.id]


def test_a_lease_of_an_earlier_step_outlives_a_full_disk() -> None:
    bench = NodeBench()
    bench.puts(AcquireLease(resources=(file("f"),)))
    bench.gives(Ticked(late_ms=0))
    bench.gives(DiskFailed(reason="full"))
    assert len(bench.node.leases.holdings()) == 1


def test_many_questions_at_once_have_one_answer() -> None:
    bench = NodeBench()
    bench.reads(ann=ANN)
    bench.connects(ANN)
    step = bench.hears(ANN, *[Heads(reply=True)] * 500)
    sent = [message for effect in step if isinstance(effect, Send) for message in decode_frame(effect.frame)]
    assert sum(isinstance(message, Heads) for message in sent) == 1


def test_a_second_restart_does_not_look_as_if_nothing_had_been_forgotten() -> None:
    bench = Bench("alice", "bob", max_lease_ttl_ms=60_000)
    bench.restarts("alice", intact=False)
    bench.passes(10_000)
    bench.restarts("alice")
    assert not bench.of("alice").remembers(bench.instant)
    bench.passes(60_000)
    assert bench.of("alice").remembers(bench.instant), "nor is it longer than that"
    bench.restarts("alice")
    assert bench.of("alice").remembers(bench.instant)


def test_a_process_that_finds_the_branch_gone_is_no_voice_for_those_it_no_longer_knows() -> None:
    ann = SimNode(World(1, config=create_default_config, faults=NetworkFaults()), "ann", create_default_config("ann"), SimClock())
    ann.start()
    contents = ann.disk.load()
    bench = NodeBench(start=False)
    bench.remote = False
    bench.gives(Started(contents=DiskContents(envelopes=contents.envelopes, intact=True), seed=1))
    bench.gives(Ticked(late_ms=0))
    bench.gives(BranchRead(commit=None, records={}))
    assert not bench.node.leases.remembers(bench.instant)


def test_a_record_that_is_renewed_is_fresh_whatever_the_clocks_say() -> None:
    bench = NodeBench()
    for wall_ms in (0, 1_000):
        bench.branch["agent-ann.json"] = record(ANN, "ann", wall_ms=bench.now.wall_ms - 86_400_000 + wall_ms)
        bench.reads()
    assert ANN.peer_id in bench.node.discovery.roster


def test_who_looks_out_of_date_to_a_clone_that_starts_is_counted_for_a_while() -> None:
    bench = NodeBench(start=False, max_lease_ttl_ms=60_000)
    bench.branch["agent-ann.json"] = record(ANN, "ann", wall_ms=bench.now.wall_ms - 86_400_000)
    bench.gives(Started(contents=DiskContents(), seed=1, newborn=True))
    bench.gives(Listening(addresses=("/ip4/192.0.2.1/tcp/1",)))
    bench.passes(1_500)
    assert bench.node.leases.view.roster == tuple(sorted((ANN.peer_id, bench.me)))
    bench.passes(600_000)
    assert bench.node.leases.view.roster == (bench.me,)
