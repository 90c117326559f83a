"""Discovery: own records on the branch, with few pushes for however many peers."""

from __future__ import annotations

from itertools import pairwise
from random import Random

import pytest
from tests.core.discovery_bench import ADDRESS, HIGH, LOW, ME, OTHER, TTL, WALL, Bench, kinds, record

from sudocode_coordination.core.discovery import RETRY_MS
from sudocode_coordination.core.facts import Say
from sudocode_coordination.core.io import (
    BranchPublishFailed,
    DiskContents,
    Publish,
    ReadBranch,
)
from sudocode_coordination.core.offers import PUBLISH_GAP_MS
from sudocode_coordination.core.own_records import OwnRecords
from sudocode_coordination.core.records import parse_record, parse_wall, record_name
from sudocode_coordination.core.wire import RecordOffer
from sudocode_coordination.model import Now, PeerRecord
from sudocode_coordination.sim.identity import SimKeyring

# --- own records ------------------------------------------------------------------------------------------------------------


def test_own_record_is_published_at_once_after_the_first_read() -> None:
    bench = Bench()
    assert not kinds(bench.start(), Publish), "what is there comes first"
    (publish,) = kinds(bench.read(), Publish)
    assert list(publish.changes) == ["agent-me.json"]
    own = parse_record("agent-me.json", publish.changes["agent-me.json"], OTHER)
    assert isinstance(own, PeerRecord)
    assert own.multiaddrs == ADDRESS
    assert own.ttl == TTL
    before = bench.machine.published
    outputs = bench.landed(publish)
    assert (before, bench.machine.published) == (False, True)
    assert ReadBranch() in outputs or bench.machine.deadline() is not None


def test_waits_for_addresses_and_agents() -> None:
    bench = Bench()
    bench.do(bench.machine.started(bench.now(), DiskContents()))
    bench.read({})
    assert not bench.of(Publish)
    bench.do(bench.machine.listening(ADDRESS, bench.now()))
    assert not bench.of(Publish)
    bench.do(bench.machine.agents_changed({"me": (), "too": ()}, bench.now()))
    (publish,) = bench.of(Publish)
    assert list(publish.changes) == ["agent-me.json", "agent-too.json"]


def test_looks_again_soon_after_its_own_push() -> None:
    bench = Bench()
    bench.start()
    (publish,) = kinds(bench.read(), Publish)
    bench.instant += 400
    bench.landed(publish)
    assert kinds(bench.wait(1_500), ReadBranch), "of two that start together, one has to see the other"


def test_renewed_before_half_its_ttl_and_not_much_more_often() -> None:
    bench = Bench().settled()
    bench.outputs.clear()
    bench.wait(10 * TTL)
    assert 30 <= len(bench.of(Publish)) <= 40
    ages = []
    for before, after in pairwise(bench.of(Publish)):
        one, other = (parse_record("agent-me.json", p.changes["agent-me.json"], ME) for p in (before, after))
        assert isinstance(one, PeerRecord)
        assert isinstance(other, PeerRecord)
        ages.append((parse_wall(other.last_seen) or 0) - (parse_wall(one.last_seen) or 0))
    assert max(ages) <= TTL / 3
    assert min(ages) >= TTL / 5


def test_bursts_of_agents_are_one_push_and_pushes_keep_apart() -> None:
    bench = Bench().settled()
    bench.outputs.clear()
    pushed: list[int] = []
    for n in range(40):
        for output in bench.do(bench.machine.agents_changed({f"a{i}": () for i in range(n)} | {"me": ()}, bench.now())):
            if isinstance(output, Publish):
                pushed.append(bench.instant)
                bench.landed(output)
        before = len(bench.of(Publish))
        bench.wait(1_000)
        pushed += [bench.instant] * (len(bench.of(Publish)) - before)
    bench.wait(40_000)
    assert len(bench.of(Publish)) <= 5
    assert set(bench.branch or {}) == {record_name(f"a{i}") for i in range(39)} | {"agent-me.json"}
    assert all(b - a >= PUBLISH_GAP_MS - 1_000 for a, b in pairwise(pushed))


def test_an_agent_that_left_is_removed_and_one_left_over_from_a_crash_too() -> None:
    bench = Bench()
    bench.branch = {"agent-dead.json": record(ME, "dead"), "agent-x.json": record(OTHER, "x")}
    bench.start()
    (publish,) = kinds(bench.read(), Publish)
    assert publish.changes["agent-dead.json"] is None
    assert "agent-x.json" not in publish.changes
    bench.landed(publish)
    bench.do(bench.machine.agents_changed({"you": ()}, bench.now()))
    bench.wait(20_000)
    assert set(bench.branch) == {"agent-you.json", "agent-x.json"}


def test_an_agent_that_leaves_during_the_push_is_removed_after_it() -> None:
    bench = Bench()
    bench.start()
    (publish,) = kinds(bench.read(), Publish)
    bench.do(bench.machine.agents_changed({"you": ()}, bench.now()))
    bench.landed(publish)
    bench.wait(40_000)
    assert set(bench.branch or {}) == {"agent-you.json"}


@pytest.mark.parametrize("branch", [None, {}, {"agent-me.json": b"garbage"}])
def test_a_lost_or_spoilt_own_record_is_published_again(branch: dict[str, bytes] | None) -> None:
    bench = Bench().settled()
    bench.branch = None if branch is None else dict(branch)
    bench.wait(100_000)
    assert isinstance(parse_record("agent-me.json", (bench.branch or {})["agent-me.json"], OTHER), PeerRecord)


def test_an_old_version_of_the_own_record_is_replaced() -> None:
    bench = Bench()
    bench.branch = {"agent-me.json": record(ME, "me", wall_ms=WALL - 100)}
    bench.start()
    assert kinds(bench.read(), Publish), "of an earlier life: its addresses are old"


def test_failed_pushes_back_off_and_are_told() -> None:
    bench = Bench()
    bench.start()
    (publish,) = kinds(bench.read(), Publish)
    waits = []
    for _ in range(8):
        began = bench.instant
        bench.do(bench.machine.branch_publish_failed(BranchPublishFailed(ticket=publish.ticket, reason="denied"), bench.now()))
        assert bench.machine.health.state == "unreachable"
        assert bench.machine.health.reason == "publishing: denied"
        bench.outputs.clear()
        while not bench.of(Publish):
            due = bench.machine.deadline()
            assert due is not None
            for output in bench.wait(max(0, due - bench.instant), auto=False):
                if isinstance(output, ReadBranch):
                    bench.read()
        (publish,) = bench.of(Publish)
        waits.append(bench.instant - began)
    assert waits[0] >= RETRY_MS
    assert waits[-1] >= 50_000
    assert max(waits) <= 73_000
    bench.landed(publish)
    assert bench.machine.health.state == "ok"


def test_a_push_that_landed_though_it_failed_is_noticed() -> None:
    bench = Bench()
    bench.start()
    (publish,) = kinds(bench.read(), Publish)
    bench.branch = {"agent-me.json": publish.changes["agent-me.json"] or b""}
    bench.do(bench.machine.branch_publish_failed(BranchPublishFailed(ticket=publish.ticket, reason="no answer"), bench.now()))
    bench.outputs.clear()
    bench.wait(30_000)
    assert bench.machine.published
    assert not bench.of(Publish)


def test_a_second_clone_with_the_same_agent_id_takes_the_name_and_the_first_says_so() -> None:
    bench = Bench().settled()
    bench.branch = {"agent-me.json": record(OTHER, "me", wall_ms=WALL + 1)}
    bench.outputs.clear()
    bench.wait(300_000)
    assert not bench.of(Publish), "no tug of war"
    assert "give one of them another id" in bench.machine.skipped["agent-me.json"]
    bench.wait(TTL + 200_000)
    assert bench.of(Publish), "the other one is gone"
    assert "agent-me.json" not in bench.machine.skipped


def test_a_fresh_clone_takes_the_name_of_its_predecessor() -> None:
    bench = Bench()
    bench.start()
    assert kinds(bench.read({"agent-me.json": record(OTHER, "me")}), Publish)


def test_wall_clock_set_back_does_not_make_renewals_look_old() -> None:
    own = OwnRecords(ME, TTL, Random(1))
    own.set_addresses(ADDRESS, 0)
    own.set_agents({"me": ()}, 0)
    times = []
    for n in range(3):
        data = own.changes(Now(n * TTL, WALL - n * 1_000_000))["agent-me.json"]
        assert data is not None
        parsed = parse_record("agent-me.json", data, OTHER)
        assert isinstance(parsed, PeerRecord)
        times.append(parsed.last_seen)
        own.published_now({"agent-me.json": data}, n * TTL)
    assert times == sorted(set(times))


# --- one publisher for many -------------------------------------------------------------------------------------------------


def in_swarm(*others: SimKeyring) -> Bench:
    bench = Bench().settled()
    bench.branch = {
        **(bench.branch or {}),
        **{record_name(f"of-{k.peer_id[-6:]}"): record(k, f"of-{k.peer_id[-6:]}") for k in others},
    }
    bench.wait(80_000)
    bench.do(bench.machine.connected_changed(frozenset(k.peer_id for k in others), bench.now()))
    bench.outputs.clear()
    return bench


def test_offers_its_record_to_the_peer_with_the_lowest_id() -> None:
    bench = in_swarm(LOW, HIGH)
    bench.wait(TTL // 3 + 1_000)
    offer = bench.of(Say)[0]
    assert offer.peer == LOW.peer_id
    assert isinstance(offer.message, RecordOffer)
    assert isinstance(parse_record("agent-me.json", offer.message.records[0], LOW), PeerRecord)
    assert not bench.of(Publish)
    assert bench.branch is not None
    bench.branch["agent-me.json"] = offer.message.records[0]
    bench.wait(TTL // 4)
    assert not bench.of(Publish), "seen renewed on the branch"


def test_pushes_itself_when_the_publisher_does_not() -> None:
    bench = in_swarm(LOW)
    began = bench.instant
    while not bench.of(Publish) and bench.instant < began + TTL:
        bench.wait(1_000)
    assert bench.of(Say)
    assert TTL * 0.4 < bench.instant - began < TTL
    assert list(bench.of(Publish)[0].changes) == ["agent-me.json"]


def test_publisher_pushes_what_is_offered_in_batches() -> None:
    bench = in_swarm(HIGH, OTHER)
    for n, key in ((1, HIGH), (2, OTHER), (3, OTHER)):
        name = f"of-{key.peer_id[-6:]}"
        offer = RecordOffer(records=(record(key, name, wall_ms=WALL + n * 1_000),))
        bench.do(bench.machine.offered(key.peer_id, offer, bench.now()))
    assert not bench.of(Publish), "renewals have time"
    bench.wait(TTL // 3)
    first = bench.of(Publish)[0]
    assert len(first.changes) == 3
    assert first.changes[f"agent-of-{OTHER.peer_id[-6:]}.json"] == record(OTHER, f"of-{OTHER.peer_id[-6:]}", wall_ms=WALL + 3_000)


def test_publisher_is_quick_with_news() -> None:
    bench = in_swarm(HIGH)
    bench.do(bench.machine.offered(HIGH.peer_id, RecordOffer(records=(record(HIGH, "new"),)), bench.now()))
    bench.wait(2 * PUBLISH_GAP_MS)
    assert "agent-new.json" in (bench.branch or {})


def test_offers_that_are_not_taken() -> None:
    bench = in_swarm(HIGH)
    name = f"of-{HIGH.peer_id[-6:]}"
    stranger = SimKeyring("stranger")
    for data in (
        b"{",
        b"[" * 9_000,
        record(HIGH, name, wall_ms=WALL - 1),
        record(stranger, "s"),
        record(ME, "me", wall_ms=WALL + 10**9),
        record(stranger, name, wall_ms=WALL + 10**9),
    ):
        bench.do(bench.machine.offered(HIGH.peer_id, RecordOffer(records=(data,)), bench.now()))
    bench.wait(3 * PUBLISH_GAP_MS)
    assert not bench.of(Publish)


def test_an_offer_dies_with_the_connection() -> None:
    bench = in_swarm(HIGH)
    bench.do(bench.machine.offered(HIGH.peer_id, RecordOffer(records=(record(HIGH, "new"),)), bench.now()))
    bench.do(bench.machine.connected_changed(frozenset(), bench.now()))
    bench.wait(3 * PUBLISH_GAP_MS)
    assert "agent-new.json" not in (bench.branch or {})


def test_long_stale_records_go_with_another_push_and_only_after_a_fresh_look() -> None:
    bench = Bench()
    bench.branch = {"agent-old.json": record(OTHER, "old", wall_ms=WALL - 9 * TTL), "agent-x.json": record(HIGH, "x")}
    bench.settled()
    bench.wait(TTL - 100_000)
    assert "agent-old.json" in bench.branch
    bench.wait(TTL // 3 + 300_000)
    assert "agent-old.json" not in bench.branch
    assert "agent-x.json" in bench.branch, "stale, but not for long"
    bench.wait(2 * TTL)
    assert set(bench.branch) == {"agent-me.json"}
    removals = [i for i, o in enumerate(bench.outputs) if isinstance(o, Publish) and None in o.changes.values()]
    assert removals
    for at in removals:
        assert "agent-me.json" in bench.outputs[at].changes  # type: ignore[union-attr]


def test_many_stale_records_are_worth_a_push() -> None:
    bench = Bench().settled()
    bench.branch = {
        **(bench.branch or {}),
        **{f"agent-o{n}.json": record(OTHER, f"o{n}", wall_ms=WALL - 9 * TTL, ttl_ms=60_000) for n in range(60)},
    }
    bench.wait(200_000)
    assert set(bench.branch) == {"agent-me.json"}


# --- the end ----------------------------------------------------------------------------------------------------------------


def test_stop_removes_own_records_and_nothing_else() -> None:
    bench = in_swarm(HIGH)
    (final,) = bench.do(bench.machine.stop(bench.now()))
    assert isinstance(final, Publish)
    assert final.final
    assert final.changes == {"agent-me.json": None}
    assert not bench.machine.stopped
    assert bench.machine.stop(bench.now()) == []
    assert bench.machine.deadline() is None
    bench.landed(final)
    assert bench.machine.stopped


def test_stop_during_the_first_push_removes_what_that_may_still_write() -> None:
    bench = Bench()
    bench.start()
    (publish,) = kinds(bench.read(), Publish)
    (final,) = bench.machine.stop(bench.now())
    assert isinstance(final, Publish)
    assert final.changes == {"agent-me.json": None}
    bench.landed(publish)
    assert not bench.machine.stopped
    bench.do(bench.machine.branch_publish_failed(BranchPublishFailed(ticket=final.ticket, reason="down"), bench.now()))
    assert bench.machine.stopped, "it was tried"


def test_stop_with_nothing_published_is_done_at_once() -> None:
    bench = Bench()
    bench.start()
    assert bench.machine.stop(bench.now()) == []
    assert bench.machine.stopped


def test_many_own_agents_are_offered_in_frames_that_fit() -> None:
    own = OwnRecords(ME, TTL, Random(1))
    own.set_addresses(ADDRESS, 0)
    own.set_agents({f"a{n}": ("x" * 60,) * 1 for n in range(600)}, 0)
    own.published_now(own.changes(Now(0, WALL)), 0)
    later = Now(TTL // 2, WALL + TTL // 2)
    sizes = []
    while (due := own.offer_time(LOW.peer_id)) is not None and due <= later.instant:
        records = own.offer(LOW.peer_id, later)
        assert 0 < len(records) <= 256
        assert sum(map(len, records)) <= 300_000
        sizes.append(len(records))
    assert sum(sizes) == 600
